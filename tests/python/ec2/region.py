"""An AWS region on this machine, in which instances really run.

    python -m ec2.region [--env KEY=VALUE ...] [--never-boot [TYPE] ...] [--ray-arguments TEXT] [--python PATH]
                         [--enclosed PORT ...]

When it is ready it says where everything is, as one line of JSON on its standard output. It ends, with everything it
started, when its standard input is closed or at SIGTERM or SIGINT; if it is killed its guard does the rest.
"""

import argparse
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading

from ec2 import control, enclosed, imds, instances, left, machine, moto_server, proxy

# Local clusters have theirs below these (`provider/local/network.rs`).
NETWORKS = range(128, 255)


class Place:
    """What belongs to this region alone."""

    def __init__(self, options):
        self.options = options
        self.mark = secrets.token_hex(8)
        self.gate = enclosed.Gate() if options.enclosed else None
        self.number, self.lock = (self.gate.number, self.gate.lock) if self.gate else own_network()
        self.directory = tempfile.mkdtemp(prefix="rcr-", dir="/tmp")
        self.endpoint = self.control = None

    def free_port(self):
        """One for a server of the region, which is reached from outside, too."""
        return self.gate.open("127.0.0.1").getsockname()[1] if self.gate else 0


def own_network():
    """The number of a /16 that no other region has, and the lock on it, which ends with whoever holds it last."""
    for number in random.sample(NETWORKS, len(NETWORKS)):
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0rayconcile-region-127.{number}")  # In Linux's abstract namespace: it leaves no file.
        except OSError:
            lock.close()
            continue
        return number, lock
    raise SystemExit("all networks are taken by other regions")


def start_guard(place):
    python_path = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return subprocess.Popen(
        [sys.executable, "-B", "-m", "ec2.guard", place.mark, place.directory],
        env={"PYTHONPATH": python_path}, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        pass_fds=[place.lock.fileno()], start_new_session=True,
    )  # fmt: skip


def wait_for_the_end():
    """Until standard input is closed, or a signal comes."""
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())

    def read():
        while os.read(0, 4096):
            pass
        over.set()

    threading.Thread(target=read, daemon=True).start()
    over.wait()


def parse():
    parser = argparse.ArgumentParser(prog="ec2.region", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--env", metavar="KEY=VALUE", action="append", default=[], help="for all instances")
    parser.add_argument(
        "--never-boot", metavar="TYPE", action="append", nargs="?", const="*", default=[],
        help="instances of this type, or all of them, run nothing",
    )  # fmt: skip
    parser.add_argument("--ray-arguments", default=machine.RAY_ARGUMENTS, help="for `ray start`, one a line")
    parser.add_argument("--python", default=sys.executable, help="whose directory instances have on their PATH")
    parser.add_argument(
        "--enclosed", metavar="PORT", type=int, action="append", default=[],
        help="instances can reach nothing outside; outside, this port of instances is reached at their addresses",
    )  # fmt: skip
    parser.add_argument("--pending-s", type=float, default=0.2, help="how long an instance is pending")
    return parser.parse_args()


def main():
    options = parse()
    if options.enclosed and enclosed.ASKING not in os.environ:
        enclosed.enclose(*own_network())
    place = Place(options)
    guard = start_guard(place)
    machine.write_stubs(os.path.join(place.directory, "bin"), sys.executable)
    moto = moto_server.Moto(f"127.{place.number}")
    endpoint, commands = proxy.Proxy(moto, left.Left(moto), place.free_port()), control.Control(place.free_port())
    place.endpoint, place.control = endpoint.url, commands.url
    commands.metadata = imds.Metadata(moto)
    commands.instances = instances.Instances(moto, commands.metadata, place)
    parts = (endpoint, commands, commands.instances)
    for part in parts:
        part.start()
    print(json.dumps({
        "endpoint": endpoint.url, "control": commands.url, "region": moto_server.REGION, "vpc": moto.vpc.id,
        "subnets": {zone: subnet.id for zone, subnet in moto.subnets.items()}, "image": moto.image,
        "imageParameter": moto_server.IMAGE_PARAMETER, "instanceProfile": moto_server.INSTANCE_PROFILE,
        "network": f"127.{place.number}.0.0/16", "pid": os.getpid(),
    }), flush=True)  # fmt: skip
    wait_for_the_end()
    for part in reversed(parts):
        part.stop()
    guard.stdin.close()
    guard.wait()


if __name__ == "__main__":
    main()

"""Three machines of a Ray cluster, each in a network namespace of its own, whose links can be cut.

    apart.py TOKEN-FILE

A is the head and has no CPU for jobs, B and C have one each. Their links meet in a bridge; nothing leads out. What
connects to one of two ports on 127.0.0.1 out here is connected to A: to its dashboard by the first, to the same port
there by the second. When A serves, both are printed, and after them the directory of all temporary files. Then
commands come on stdin, `cut B` or `mend B`, and each is printed when it is done. When stdin ends, or on SIGTERM, all
of it ends and nothing is left.
"""

import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

from enclosed import forward

ADDRESSES = {"A": "10.87.0.1", "B": "10.87.0.2", "C": "10.87.0.3"}
# The namespaces are new: every port is free in them.
GCS_PORT, DASHBOARD_PORT = 6379, 8265
TRIES = 3
# How A finds out that a machine is out of reach, in about ten seconds: before a slot's lease is over.
HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "4000",
    "RAY_health_check_period_ms": "200",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
}


def ask_kernel(request, *parts, form="16s"):
    """An ioctl on whatever socket: netdevice(7), and linux/sockios.h for bridges."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, request, struct.pack(form, *parts))


def set_up(interface, up=True):
    ask_kernel(0x8914, interface.encode(), up, form="16sh")  # SIOCSIFFLAGS, IFF_UP


def set_address(interface, address):
    parts = interface.encode(), socket.AF_INET, 0, socket.inet_aton(address)
    ask_kernel(0x8916, *parts, form="16sHH4s8x")  # SIOCSIFADDR
    set_up(interface)


def make_bridge(name):
    ask_kernel(0x89A0, name.encode())  # SIOCBRADDBR


def add_to_bridge(bridge, interface):
    ask_kernel(0x89A2, bridge.encode(), socket.if_nametoindex(interface), form="16si")  # SIOCBRADDIF
    set_up(interface)


def make_link(interface, other, pid):
    """Make a pair of interfaces, the other one in the namespace of a process. For that there is only rtnetlink(7)."""

    def attribute(kind, content):
        return struct.pack("HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)

    def named(name):
        return bytes(16) + attribute(3, name.encode() + b"\0")  # An ifinfomsg, IFLA_IFNAME

    peer = attribute(1, named(other) + attribute(19, struct.pack("i", pid)))  # VETH_INFO_PEER, IFLA_NET_NS_PID
    # IFLA_LINKINFO of IFLA_INFO_KIND and IFLA_INFO_DATA
    body = named(interface) + attribute(18, attribute(1, b"veth") + attribute(2, peer))
    # RTM_NEWLINK; NLM_F_REQUEST, _ACK, _EXCL and _CREATE
    header = struct.pack("IHHII", 16 + len(body), 16, 0x1 | 0x4 | 0x200 | 0x400, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
        kernel.send(header + body)
        (error,) = struct.unpack_from("i", kernel.recv(1 << 16), 16)
    if error:
        raise OSError(-error, f"cannot make link {interface}: {os.strerror(-error)}")


def ray(name, directory, token):
    """The command that starts a machine's Ray node, and its environment."""
    temp = os.path.join(directory, name)
    os.mkdir(temp)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats"]
    command += [f"--node-ip-address={ADDRESSES[name]}", f"--temp-dir={temp}", f"--object-store-memory={128 << 20}"]
    command += ["--min-worker-port=0", "--max-worker-port=0", "--include-log-monitor=false"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=token, RAY_USAGE_STATS_ENABLED="0", TMPDIR=temp)
    environment["PATH"] = os.path.dirname(sys.executable) + os.pathsep + environment["PATH"]
    if name == "A":
        command += ["--head", "--num-cpus=0", f"--port={GCS_PORT}"]
        command += [f"--dashboard-host={ADDRESSES[name]}", f"--dashboard-port={DASHBOARD_PORT}"]
        return command, environment | HEALTH_CHECKS
    return [*command, "--num-cpus=1", f"--address={ADDRESSES['A']}:{GCS_PORT}"], environment


def machine(name, directory, token):
    """What B and C are, in their namespaces: they wait for their link, then they start Ray nodes."""
    print("here", flush=True)
    sys.stdin.read()
    set_up("lo")
    set_address("eth0", ADDRESSES[name])
    start(*ray(name, directory, token))


def add_machine(name, directory, token):
    """Make a machine in a new network namespace, and give the process that starts its node."""
    command = ["unshare", "--net", sys.executable, __file__, "machine", name, directory, token]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    make_link(f"to-{name}", "eth0", child.pid)
    add_to_bridge("bridge", f"to-{name}")
    return child


def end(namespaces):
    """Kill everybody in these network namespaces but this process."""

    def living():
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{entry}/ns/net") in namespaces and int(entry) != os.getpid():
                    yield int(entry)

    while pids := list(living()):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def start(command, environment):
    """Start a Ray node in this namespace, on a busy machine again and again: Ray gives it 30 s (its `node.py`)."""
    for _ in range(TRIES):
        if subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode == 0:
            return
        end({os.readlink("/proc/self/ns/net")})
    raise SystemExit("a Ray node does not start")


def serve(directory, token, dashboard, agent):
    """What A is, in its namespace; the listeners are outside."""
    namespaces = {os.readlink("/proc/self/ns/net")}
    try:
        set_up("lo")
        make_bridge("bridge")
        set_address("bridge", ADDRESSES["A"])
        # Only to a head that is there: a node waits for it for seconds.
        start(*ray("A", directory, token))
        children = [add_machine(name, directory, token) for name in ("B", "C")]
        namespaces |= {os.readlink(f"/proc/{child.pid}/ns/net") for child in children}
        for child in children:
            child.stdin.close()
        if any([child.wait() for child in children]):
            raise SystemExit("a machine does not start")
        agent_port = agent.getsockname()[1]
        for listener, port in ((dashboard, DASHBOARD_PORT), (agent, agent_port)):
            threading.Thread(target=forward, args=(listener, ADDRESSES["A"], port), daemon=True).start()
        print(dashboard.getsockname()[1], agent_port, directory, flush=True)
        for line in sys.stdin:
            verb, name = line.split()
            set_up(f"to-{name}", {"cut": False, "mend": True}[verb])
            print(verb, name, flush=True)
    finally:
        end(namespaces)


def launch(program, name, serve, arguments):
    """Have a program serve, with its temporary files and two listeners out here, in a new network namespace."""
    role, *arguments = arguments
    if role == "serve":
        token, *descriptors = arguments
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        # Ray puts sockets there, and a socket's path is limited to 107 characters.
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir="/tmp") as directory:
            serve(directory, token, *(socket.socket(fileno=int(descriptor)) for descriptor in descriptors))
    else:
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        for listener in listeners:
            listener.set_inheritable(True)
        command = ["unshare", "--map-root-user", "--net", sys.executable, program, "serve", role]
        os.execvp(command[0], [*command, *(str(listener.fileno()) for listener in listeners)])


if __name__ == "__main__":
    if sys.argv[1] == "machine":
        machine(*sys.argv[2:])
    else:
        launch(__file__, "apart", serve, sys.argv[1:])

"""A region that can be reached, and from which nothing can be.

The region, with all its instances, runs in a network namespace of its own, in which there is nothing but a loopback
interface: no instance can connect to anything out here. Whoever is out here reaches the region's servers, and some
ports of the instances, at the addresses that they have in there: through listeners that are made out here, and handed
in. So connections lead only inwards, as they do to a cluster behind a firewall.
"""

import array
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading

ASKING, LOCK = "REGION_ASKING", "REGION_LOCK"


def enclose(number, lock):
    """Run this program once more in a namespace, and make the listeners that it asks for until it ends."""
    ours, theirs = socket.socketpair()
    command = ["unshare", "--map-root-user", "--net", sys.executable, "-B", "-m", "ec2.region", *sys.argv[1:]]
    passed = {ASKING: str(theirs.fileno()), LOCK: f"{number} {lock.fileno()}"}
    descriptors = [theirs.fileno(), lock.fileno()]
    child = subprocess.Popen(command, env={**os.environ, **passed}, pass_fds=descriptors)
    for end in (signal.SIGTERM, signal.SIGINT):
        signal.signal(end, lambda *_: child.terminate())
    theirs.close()
    lock.close()
    threading.Thread(target=make_listeners, args=(ours,), daemon=True).start()
    sys.exit(child.wait())


def make_listeners(asking):
    while request := asking.recv(1 << 10):
        try:
            with socket.create_server(tuple(json.loads(request))) as listener:
                rights = array.array("i", [listener.fileno()])
                asking.sendmsg([b"made"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        except OSError as error:
            asking.send(str(error).encode())


class Gate:
    """What is in the namespace has of the outside."""

    def __init__(self):
        self.number, descriptor = map(int, os.environ.pop(LOCK).split())
        self.lock = socket.socket(fileno=descriptor)
        self.asking, self.turn = socket.socket(fileno=int(os.environ.pop(ASKING))), threading.Lock()
        # Bring the loopback interface up (SIOCSIFFLAGS, IFF_UP | IFF_RUNNING).
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 0x41))

    def open(self, address, port=0):
        """Have what connects to a port out there connected to the same one in here; returns what closes it again."""
        with self.turn:
            self.asking.send(json.dumps([address, port]).encode())
            said, ancillary, _, _ = self.asking.recvmsg(1 << 10, socket.CMSG_SPACE(4))
        if not ancillary:
            raise OSError(f"{address}:{port} cannot be listened to: {said.decode()}")
        listener = socket.socket(fileno=array.array("i", ancillary[0][2])[0])
        threading.Thread(target=forward, args=(listener,), daemon=True).start()
        return listener


def forward(listener):
    """Until the listener is shut down."""
    target = listener.getsockname()
    with listener:
        while True:
            try:
                outer, _ = listener.accept()
            except OSError:
                return
            try:
                inner = socket.create_connection(target)
            except OSError:
                outer.close()
                continue
            for ends in ((outer, inner), (inner, outer)):
                threading.Thread(target=relay, args=ends, daemon=True).start()


def relay(source, sink):
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
    except OSError:
        pass
    finally:
        for end, how in ((source, socket.SHUT_RD), (sink, socket.SHUT_WR)):
            try:
                end.shutdown(how)
            except OSError:
                pass

"""Run a command in a network namespace of its own, which can reach a few ports outside and cannot be reached.

    enclosed.py ADDRESS PORT[=PORT][,PORT...] -- COMMAND [ARGUMENT...]

Inside, there is nothing but a loopback interface. What connects to one of the ports on 127.0.0.1 there is
connected to the same port of ADDRESS out here, or to the one after the `=`, as through `ssh -L`. Nobody out here can connect to anything in
there. The command replaces the process that made the namespace, whose pid is printed; when it ends this ends.
"""

import array
import os
import socket
import subprocess
import sys
import threading

INSIDE = """
import array, fcntl, os, socket, struct, sys

ports, command = sys.argv[1].split(","), sys.argv[2:]
# Bring the loopback interface up (SIOCSIFFLAGS, IFF_UP | IFF_RUNNING).
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 0x41))
listeners = []
for port in ports:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(port.partition("=")[0])))
    listener.listen(64)
    listeners.append(listener)
with socket.socket(fileno=int(os.environ.pop("PASS"))) as passing:
    rights = array.array("i", [listener.fileno() for listener in listeners])
    passing.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
os.execvp(command[0], command)
"""


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


def forward(listener, address, port):
    while True:
        inner, _ = listener.accept()
        try:
            outer = socket.create_connection((address, port))
        except OSError:
            inner.close()
            continue
        for ends in ((inner, outer), (outer, inner)):
            threading.Thread(target=relay, args=ends, daemon=True).start()


def main():
    address, ports, _, *command = sys.argv[1:]
    ours, theirs = socket.socketpair()
    child = subprocess.Popen(
        ["unshare", "--map-root-user", "--net", sys.executable, "-c", INSIDE, ports, *command],
        env={**os.environ, "PASS": str(theirs.fileno())},
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    rights = array.array("i")
    _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(len(ports) * rights.itemsize))
    for _, _, data in ancillary:
        rights.frombytes(data[: len(data) - len(data) % rights.itemsize])
    for descriptor, port in zip(rights, ports.split(","), strict=True):
        listener = socket.socket(fileno=descriptor)
        outer = int(port.rpartition("=")[2])
        threading.Thread(target=forward, args=(listener, address, outer), daemon=True).start()
    print(child.pid, flush=True)
    sys.exit(child.wait())


if __name__ == "__main__":
    main()

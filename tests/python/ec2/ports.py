"""Ports for servers that begin later, and are told theirs now."""

import random
import socket

# Above those that the kernel gives to connections and to listeners that ask for any: Ray's processes ask for many, and
# would take one of these between the look and the use. AdaptDL's workers have theirs below.
RANGE = range(61000, 65536)


def free_ports(count):
    """Ports that nobody on this machine has now, at any address."""
    free = []
    for port in random.sample(RANGE, len(RANGE)):
        if len(free) == count:
            return free
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        free.append(port)
    raise OSError(f"not {count} free ports between {RANGE.start} and {RANGE.stop - 1}")

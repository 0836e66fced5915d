"""Points of a group's life at which a test has processes killed, to see that nothing depends on their living on.

A test that sets `RAYCONCILE_CRASH_POINTS` to a directory puts a file there, named after the point, with the ids of
the processes to kill (`self`: the bridge). A point is reached once: its file is removed first.
"""

import os
import signal

DIRECTORY = os.environ.get("RAYCONCILE_CRASH_POINTS")


def reached(name):
    """Kill what a test wants killed here."""
    if DIRECTORY is None:
        return
    path = os.path.join(DIRECTORY, name)
    try:
        with open(path, encoding="ascii") as file:
            victims = file.read().split()
        os.unlink(path)
    except FileNotFoundError:
        return
    for victim in victims:
        try:
            os.kill(os.getpid() if victim == "self" else int(victim), signal.SIGKILL)
        except ProcessLookupError:
            pass

"""Processes by a mark in their environment: the one thing that a daemon which leaves its group takes along."""

import os
import signal
import time

INSTANCE = "REGION_INSTANCE"
REGION = "REGION_ID"
CONTAINER = "REGION_CONTAINER"


def by_value(name):
    """All living processes that have the variable, by its value."""
    found, prefix = {}, os.fsencode(name) + b"="
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                variables = file.read().split(b"\0")
        except OSError:  # It has ended, or is not ours.
            continue
        for variable in variables:
            if variable.startswith(prefix):
                found.setdefault(os.fsdecode(variable[len(prefix) :]), []).append(int(entry))
                break
    return found


def marked(name, value):
    return by_value(name).get(value, [])


def end(name, value, grace_s=0.0, bound_s=10.0):
    """Ask them to end, and kill those that are still there after so long, and what they started meanwhile."""
    if grace_s > 0:
        _signal(marked(name, value), signal.SIGTERM)
        _until_none(name, value, grace_s)
    deadline = time.monotonic() + bound_s
    while (left := marked(name, value)) and time.monotonic() < deadline:
        _signal(left, signal.SIGKILL)
        time.sleep(0.01)


def _until_none(name, value, bound_s):
    deadline = time.monotonic() + bound_s
    while marked(name, value) and time.monotonic() < deadline:
        time.sleep(0.02)


def _signal(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

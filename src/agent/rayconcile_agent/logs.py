"""Bounded logs. A worker may write as much and as fast as it likes: the newest is kept, the rest is dropped.

Positions count from the first byte ever written, so a reader can tell what it has missed.
"""

import contextlib
import os
import threading

RING_BYTES = 4 << 20
SEGMENT_BYTES = 8 << 20


class Ring:
    """The newest output of one worker, in the slot's memory."""

    def __init__(self, limit=RING_BYTES):
        self.limit = limit
        self.lock = threading.Lock()
        self.data = bytearray()
        self.end = 0

    def append(self, chunk):
        with self.lock:
            self.data += chunk
            self.end += len(chunk)
            # Cut only at twice the limit: cutting moves what is kept.
            if len(self.data) > 2 * self.limit:
                del self.data[: -self.limit]

    def read(self, offset, size):
        """`(position, bytes)`: what follows `offset`, or the oldest that is left after it."""
        with self.lock:
            start = self.end - len(self.data)
            position = min(max(offset, start), self.end)
            return position, bytes(self.data[position - start : position - start + size])

    def tail(self, size):
        with self.lock:
            return bytes(self.data[-size:])


class Spool:
    """The newest output of one worker, on the head's disk until the controller has fetched it.

    Two files: when the newer is full it takes the place of the older.
    """

    def __init__(self, directory, name, segment_bytes=SEGMENT_BYTES):
        os.makedirs(directory, exist_ok=True)
        self.path = os.path.join(directory, name)
        self.segment_bytes = segment_bytes
        self.start = self.middle = self.end = 0
        self.source = self.missed = 0

    def append(self, source, chunk):
        """Add what the worker wrote from its position `source` on.

        What was added before is not added again; what is missing in between is marked.
        """
        self.missed += max(0, source - self.source)
        new = chunk[max(0, self.source - source) :]
        mark = f"\n[{self.missed} bytes of output dropped]\n".encode() if self.missed else b""
        self.missed = 0 if self._write(mark + new) else self.missed + len(new)
        self.source = max(self.source, source + len(chunk))

    def _write(self, data):
        """Write all of it or nothing, and say which: a full disk costs output, and nothing else."""
        try:
            if self.end - self.middle >= self.segment_bytes:
                os.replace(self.path, self.path + ".old")
                self.start, self.middle = self.middle, self.end
            with open(self.path, "ab") as file:
                file.write(data)
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(self.path, self.end - self.middle)
            return False
        self.end += len(data)
        return True

    def read(self, offset, size):
        """As `Ring.read`."""
        position = min(max(offset, self.start), self.end)
        if position == self.end:
            return position, b""
        path, begin = (self.path, self.middle) if position >= self.middle else (self.path + ".old", self.start)
        try:
            with open(path, "rb") as file:
                file.seek(position - begin)
                return position, file.read(size)
        except FileNotFoundError:  # Somebody has removed it: there is nothing left to wait for.
            return self.end, b""

    def remove(self):
        for path in (self.path, self.path + ".old"):
            if os.path.exists(path):
                os.unlink(path)


class Spools:
    """The spools of a job's workers, by group and rank."""

    def __init__(self, directory):
        self.directory = directory
        self.spools = {}

    def of(self, group, rank):
        if (group, rank) not in self.spools:
            self.spools[group, rank] = Spool(self.directory, f"{group}-{rank}.log")
        return self.spools[group, rank]

    def ends(self):
        """How far each worker's output reaches."""
        return [{"group": group, "rank": rank, "end": spool.end} for (group, rank), spool in self.spools.items()]

    def read(self, group, rank, offset, size):
        spool = self.spools.get((group, rank))
        return spool.read(offset, size) if spool else (offset, b"")

    def keep(self, groups):
        """Remove the spools of all other groups."""
        for group, rank in [key for key in self.spools if key[0] not in groups]:
            self.spools.pop((group, rank)).remove()

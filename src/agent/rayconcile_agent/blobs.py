"""Packing directories into files that are known by their digest: checkpoints and artifacts.

A blob is an uncompressed tar with names in order and no times or owners in it, so that equal contents have
equal digests; the digest is the SHA-256 of the file. A blob that exists under its name is complete: it is
written under a temporary name, synced, verified, and renamed.
"""

import contextlib
import glob
import hashlib
import os
import queue
import tarfile
import tempfile
import threading

BUFFER = 1 << 20


class Packing:
    """A blob in the making: a thread packs `(path, name)` pairs while somebody reads it, chunk by chunk."""

    def __init__(self, sources, chunk_bytes):
        self.chunk_bytes = chunk_bytes
        self.chunks = queue.Queue(maxsize=2)
        self.hash = hashlib.sha256()
        self.data = bytearray()
        self.size = self.files = 0
        self.abandoned = False
        threading.Thread(target=self._pack, args=(sources,), daemon=True, name="packer").start()

    def next(self):
        """`(chunk, None)`, or the last chunk and `{"digest", "size", "files"}` of it all."""
        chunk, end = self.chunks.get()
        if isinstance(end, Exception):
            raise end
        return chunk, end

    def abandon(self):
        """Have the thread end, whoever still waits for it."""
        self.abandoned = True
        with contextlib.suppress(queue.Empty):
            while True:
                self.chunks.get_nowait()

    def _pack(self, sources):
        try:
            with tarfile.open(fileobj=self, mode="w", format=tarfile.PAX_FORMAT) as archive:
                archive.copybufsize = BUFFER
                for path, name in sources:
                    archive.add(path, name, filter=self._plain)
            end = {"digest": self.hash.hexdigest(), "size": self.size, "files": self.files}
            self.chunks.put((bytes(self.data), end))
        except Exception as error:  # It belongs to whoever reads, not to this thread.
            if not self.abandoned:
                self.chunks.put((b"", error))

    def _plain(self, member):
        member.mtime = member.uid = member.gid = 0
        member.uname = member.gname = ""
        self.files += member.isreg()
        return member

    # What `tarfile` wants of a file.

    def tell(self):
        return self.size

    def write(self, data):
        self.hash.update(data)
        self.data += data
        self.size += len(data)
        while len(self.data) >= self.chunk_bytes:
            if self.abandoned:
                raise OSError("nobody reads it any more")
            self.chunks.put((bytes(self.data[: self.chunk_bytes]), None))
            del self.data[: self.chunk_bytes]


def matching(directory, patterns):
    """What to pack of a directory, for patterns of names in it; nothing that a link leads out of it to."""
    inside = os.path.realpath(directory) + os.sep
    names = sorted(
        {
            name.rstrip("/")
            for pattern in patterns
            for name in glob.glob(pattern, root_dir=directory, recursive=True)
            if os.path.realpath(os.path.join(directory, name)).startswith(inside)
        }
    )
    paths = {name: os.path.join(directory, name) for name in names}
    # What stands in a directory that is packed comes with it; a link to one is packed as a link.
    packed = {name for name, path in paths.items() if os.path.isdir(path) and not os.path.islink(path)}
    return [(path, name) for name, path in paths.items() if packed.isdisjoint(ancestors(name))]


def ancestors(name):
    """The directories that a relative name stands in."""
    while name := os.path.dirname(name):
        yield name


def unpack(path, directory):
    """Unpack a blob. The `data` filter refuses whatever would land outside, links and devices included."""
    os.makedirs(directory, exist_ok=True)
    # The first releases of Python 3.10 and 3.11 have no filters; what is unpacked has been verified in any case.
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(path, mode="r") as archive:
        archive.extractall(directory, **safely)


class Receiver:
    """Writes a blob that arrives in chunks; it exists under its digest only if it is whole.

    One that need not outlive the machine, for it is unpacked at once, is not synced to its disk.
    """

    def __init__(self, directory, durable=True):
        os.makedirs(directory, exist_ok=True)
        self.directory, self.durable = directory, durable
        self.hash = hashlib.sha256()
        descriptor, self.temporary = tempfile.mkstemp(prefix=".receiving-", dir=directory)
        self.file = os.fdopen(descriptor, "wb")

    def write(self, chunk):
        self.file.write(chunk)
        self.hash.update(chunk)

    def finish(self, digest):
        """Keep the blob if it is what was announced; say whether it is."""
        self.file.flush()
        if self.durable:
            os.fsync(self.file.fileno())
        self.file.close()
        if self.hash.hexdigest() != digest:
            os.unlink(self.temporary)
            return False
        os.rename(self.temporary, os.path.join(self.directory, digest))
        return True

    def abandon(self):
        self.file.close()
        if os.path.exists(self.temporary):
            os.unlink(self.temporary)

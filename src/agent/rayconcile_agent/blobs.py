"""Packing directories into files that are known by their digest: checkpoints and artifacts.

A blob is an uncompressed tar with names in order and no times or owners in it, so that equal contents have
equal digests; the digest is the SHA-256 of the file. A blob that exists under its name is complete: it is
written under a temporary name, synced, verified, and renamed.
"""

import hashlib
import os
import tarfile
import tempfile

BUFFER = 1 << 20


def pack(sources, directory):
    """Pack `(path, name)` pairs into `directory`; return `(digest, size, names)`."""
    names = []

    def plain(member):
        member.mtime = member.uid = member.gid = 0
        member.uname = member.gname = ""
        if member.isreg():
            names.append(member.name)
        return member

    os.makedirs(directory, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".packing-", dir=directory)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
                for path, name in sources:
                    archive.add(path, name, filter=plain)
            file.flush()
            os.fsync(file.fileno())
            digest, size = digest_of(file)
        os.rename(temporary, os.path.join(directory, digest))
    except BaseException:
        os.unlink(temporary)
        raise
    return digest, size, names


def digest_of(file):
    """The SHA-256, in hexadecimal, and the size of an open file."""
    file.seek(0)
    digest = hashlib.sha256()
    size = 0
    while chunk := file.read(BUFFER):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def unpack(path, directory):
    """Unpack a blob. The `data` filter refuses whatever would land outside, links and devices included."""
    os.makedirs(directory, exist_ok=True)
    # The first releases of Python 3.10 and 3.11 have no filters; what is unpacked has been verified in any case.
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(path, mode="r") as archive:
        archive.extractall(directory, **safely)


class Receiver:
    """Writes a blob that arrives in chunks; it exists under its digest only if it is whole."""

    def __init__(self, directory, digest):
        os.makedirs(directory, exist_ok=True)
        self.path = os.path.join(directory, digest)
        self.digest = digest
        self.hash = hashlib.sha256()
        descriptor, self.temporary = tempfile.mkstemp(prefix=".receiving-", dir=directory)
        self.file = os.fdopen(descriptor, "wb")

    def write(self, chunk):
        self.file.write(chunk)
        self.hash.update(chunk)

    def finish(self):
        """Keep the blob if it is what was announced; say whether it is."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        if self.hash.hexdigest() != self.digest:
            os.unlink(self.temporary)
            return False
        os.rename(self.temporary, self.path)
        return True

    def abandon(self):
        self.file.close()
        if os.path.exists(self.temporary):
            os.unlink(self.temporary)

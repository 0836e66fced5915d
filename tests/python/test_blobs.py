"""Blobs: equal contents, equal digests; whole under their name or not there."""

import hashlib
import io
import os
import tarfile
import tempfile
import threading
import time
import unittest

from rayconcile_agent import blobs
from rayconcile_agent.store import ARTIFACTS, CHECKPOINT, BlobStore
from support import enter


class BlobsTest(unittest.TestCase):
    def setUp(self):
        self.directory = enter(self, tempfile.TemporaryDirectory())
        self.store = os.path.join(self.directory, "store")

    def tree(self, name, files):
        for file, text in files.items():
            path = os.path.join(self.directory, name, file)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(text)
        return os.path.join(self.directory, name)

    def pack(self, path):
        """Pack a directory as `x` into the store; return what it was."""
        packing, receiver = blobs.Packing([(path, "x")], 1000), blobs.Receiver(self.store)
        try:
            while True:
                chunk, end = packing.next()
                receiver.write(chunk)
                if end:
                    self.assertTrue(receiver.finish(end["digest"]))
                    return end
        except OSError:
            receiver.abandon()
            raise

    def test_equal_contents_have_equal_digests(self):
        one = self.tree("one", {"b": "2", "a": "1", "deep/c": "3"})
        other = self.tree("other", {"deep/c": "3", "a": "1", "b": "2"})
        os.utime(os.path.join(other, "a"), (1, 1))
        what = self.pack(one)
        self.assertEqual(self.pack(other), what)
        first = what["digest"]
        self.assertEqual(what["files"], 3)
        self.assertEqual(os.path.getsize(os.path.join(self.store, first)), what["size"])
        with open(os.path.join(self.store, first), "rb") as file:
            self.assertEqual(hashlib.sha256(file.read()).hexdigest(), first)
        self.assertEqual(os.listdir(self.store), [first], "nothing temporary is left")
        target = os.path.join(self.directory, "unpacked")
        blobs.unpack(os.path.join(self.store, first), target)
        with open(os.path.join(target, "x/deep/c"), encoding="utf-8") as file:
            self.assertEqual(file.read(), "3")

    def test_what_cannot_be_packed_leaves_nothing(self):
        with self.assertRaises(FileNotFoundError):
            self.pack(os.path.join(self.directory, "nowhere"))
        self.assertEqual(os.listdir(self.store), [])

    def test_what_is_packed_comes_in_pieces_and_its_packer_does_not_outlive_its_reader(self):
        big = self.tree("big", {"file": "0123456789" * 10_000})
        packing = blobs.Packing([(big, "x")], 1000)
        pieces = [packing.next() for _ in range(5)]
        self.assertTrue(all(len(chunk) == 1000 and end is None for chunk, end in pieces))
        packers = [thread for thread in threading.enumerate() if thread.name == "packer"]
        packing.abandon()
        for thread in packers:
            thread.join(30)
            self.assertFalse(thread.is_alive())

    def test_what_would_land_outside_is_refused(self):
        for name in ("../evil", "/evil"):
            path = os.path.join(self.directory, "evil.tar")
            with tarfile.open(path, "w") as archive:
                member = tarfile.TarInfo(name)
                member.size = 1
                archive.addfile(member, io.BytesIO(b"x"))
            target = os.path.join(self.directory, "target")
            try:
                blobs.unpack(path, target)
            except tarfile.FilterError:
                pass
            self.assertFalse(os.path.exists(os.path.join(self.directory, "evil")) or os.path.exists("/evil"))
        path = os.path.join(self.directory, "link.tar")
        with tarfile.open(path, "w") as archive:
            member = tarfile.TarInfo("link")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
        with self.assertRaises(tarfile.FilterError):
            blobs.unpack(path, os.path.join(self.directory, "target"))

    def test_what_arrives_is_kept_only_if_it_is_whole(self):
        digest = hashlib.sha256(b"contents").hexdigest()
        broken = blobs.Receiver(self.store)
        broken.write(b"content")
        self.assertFalse(broken.finish(digest))
        abandoned = blobs.Receiver(self.store)
        abandoned.write(b"con")
        abandoned.abandon()
        self.assertEqual(os.listdir(self.store), [])
        whole = blobs.Receiver(self.store)
        whole.write(b"con")
        whole.write(b"tents")
        self.assertTrue(whole.finish(digest))
        self.assertEqual(os.listdir(self.store), [digest])

    def test_old_blobs_go_but_not_a_file_that_is_still_used(self):
        store = BlobStore(self.store)

        def add(kind, group, number, contents):
            digest = hashlib.sha256(contents).hexdigest()
            receiver = blobs.Receiver(self.store)
            receiver.write(contents)
            receiver.finish(digest)
            place = {"kind": kind, "group": group, "number": number}
            store.add({**place, "digest": digest, "size": len(contents), "at": time.monotonic()})
            return digest

        same = add(CHECKPOINT, 0, 1, b"same")
        add(CHECKPOINT, 2, 1, b"same")
        old = add(CHECKPOINT, 0, 2, b"old")
        newest = add(CHECKPOINT, 10, 1, b"new")
        store.add(store.newest_first()[0])
        places = [(blob["group"], blob["number"]) for blob in store.newest_first()]
        self.assertEqual(places, [(10, 1), (2, 1), (0, 2), (0, 1)])
        for group in range(5):
            add(ARTIFACTS, group, 0, b"artifacts %d" % group)
        store.prune(2)
        self.assertEqual([(blob["group"], blob["number"]) for blob in store.newest_first()], [(10, 1), (2, 1)])
        self.assertTrue(os.path.exists(store.path(same)) and os.path.exists(store.path(newest)))
        self.assertFalse(os.path.exists(store.path(old)))
        self.assertEqual([blob["group"] for blob in store.descriptions if blob["kind"] == ARTIFACTS], [2, 3, 4])
        # The next bridge finds them, but none that is not whole.
        os.truncate(store.path(newest), 1)
        found = BlobStore(self.store)
        self.assertEqual([(blob["group"], blob["number"]) for blob in found.newest_first()], [(2, 1)])
        self.assertEqual(found.newest(), (2, 1))
        self.assertEqual(len(found.descriptions), 4)


if __name__ == "__main__":
    unittest.main()

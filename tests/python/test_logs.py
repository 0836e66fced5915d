"""Bounded logs: positions count from the first byte ever, whatever of it is still there."""

import os
import tempfile
import threading
import unittest
from unittest import mock

from rayconcile_agent.logs import Ring, Spool, Spools
from support import enter


class RingTest(unittest.TestCase):
    def test_what_is_written_is_read_from_any_position(self):
        ring = Ring(limit=100)
        ring.append(b"one ")
        ring.append(b"two")
        self.assertEqual(ring.read(0, 100), (0, b"one two"))
        self.assertEqual(ring.read(4, 2), (4, b"tw"))
        self.assertEqual(ring.read(7, 10), (7, b""))
        self.assertEqual(ring.read(999, 10), (7, b""), "nobody is ahead of the writer")
        self.assertEqual(ring.tail(3), b"two")

    def test_the_newest_is_kept_and_no_more_than_twice_the_limit(self):
        ring = Ring(limit=10)
        for number in range(1000):
            ring.append(b"%03d " % number)
            self.assertLessEqual(len(ring.data), 20)
        position, chunk = ring.read(0, 1000)
        self.assertEqual(position + len(chunk), 4000)
        self.assertGreaterEqual(len(chunk), 10)
        self.assertTrue((b"998 999 ").endswith(chunk[-8:]))

    def test_one_chunk_larger_than_all_is_cut(self):
        ring = Ring(limit=10)
        ring.append(b"x" * 1000 + b"end")
        self.assertEqual(ring.read(0, 100), (993, b"x" * 7 + b"end"))

    def test_a_reader_follows_a_writer(self):
        ring = Ring(limit=1 << 20)
        written = bytes(range(256)) * 100
        pieces = [written[at : at + 7] for at in range(0, len(written), 7)]
        writer = threading.Thread(target=lambda: [ring.append(piece) for piece in pieces])
        writer.start()
        read = b""
        while len(read) < len(written):
            position, chunk = ring.read(len(read), 1000)
            self.assertEqual(position, len(read))
            read += chunk
        writer.join()
        self.assertEqual(read, written)


class SpoolTest(unittest.TestCase):
    def setUp(self):
        self.directory = enter(self, tempfile.TemporaryDirectory())

    def test_what_was_added_before_is_not_added_again(self):
        spool = Spool(self.directory, "a")
        spool.append(0, b"one two ")
        spool.append(4, b"two three")
        spool.append(0, b"one")
        self.assertEqual(spool.read(0, 100), (0, b"one two three"))
        self.assertEqual(spool.source, 13)

    def test_what_is_missing_is_marked(self):
        spool = Spool(self.directory, "a")
        spool.append(0, b"one")
        spool.append(10, b"two")
        self.assertEqual(spool.read(0, 100)[1], b"one\n[7 bytes of output dropped]\ntwo")
        spool.append(13, b"three")
        self.assertTrue(spool.read(0, 100)[1].endswith(b"twothree"), "positions of the worker go on from there")

    def test_two_segments_are_kept(self):
        spool = Spool(self.directory, "a", segment_bytes=100)
        written = b""
        for number in range(100):
            chunk = b"line %d\n" % number
            spool.append(len(written), chunk)
            written += chunk
            self.assertLessEqual(len(os.listdir(self.directory)), 2)
        self.assertEqual(spool.end, len(written))
        read, position = b"", 0
        while True:
            position, chunk = spool.read(position, 13)
            if not chunk:
                break
            read += chunk
            position += len(chunk)
        self.assertTrue(written.endswith(read) and 100 <= len(read) <= 220, len(read))
        spool.remove()
        self.assertEqual(os.listdir(self.directory), [])

    def test_what_cannot_be_written_is_missing_and_nothing_more(self):
        spool = Spool(self.directory, "a")
        spool.append(0, b"one")
        with mock.patch("builtins.open", side_effect=OSError(28, "No space left on device")):
            spool.append(3, b"two")
        self.assertEqual((spool.source, spool.end), (6, 3), "the worker's output is not waited for")
        spool.append(6, b"three")
        self.assertEqual(spool.read(0, 100)[1], b"one\n[3 bytes of output dropped]\nthree")
        os.unlink(spool.path)
        self.assertEqual(spool.read(0, 100), (spool.end, b""))

    def test_all_other_groups_go(self):
        spools = Spools(self.directory)
        for group in range(5):
            for rank in range(2):
                spools.of(group, rank).append(0, b"x")
        spools.keep({3, 4})
        self.assertEqual([(end["group"], end["rank"]) for end in spools.ends()], [(3, 0), (3, 1), (4, 0), (4, 1)])
        self.assertEqual(len(os.listdir(self.directory)), 4)
        self.assertEqual(spools.read(0, 0, 7, 10), (7, b""))
        self.assertEqual(spools.read(4, 1, 0, 10), (0, b"x"))


if __name__ == "__main__":
    unittest.main()

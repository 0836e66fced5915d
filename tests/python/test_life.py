"""What an instance is told of itself: who needs it, whether it has joined, and what would be lost with the head."""

import os
import tempfile
import time
import unittest
from unittest import mock

from rayconcile_agent import life, store
from support import enter

NODES = [
    {"id": "h", "address": "10.0.0.1", "alive": True},
    {"id": "old", "address": "10.0.0.2", "alive": False},
    {"id": "n", "address": "10.0.0.2", "alive": True},
    {"id": "gone", "address": "10.0.0.3", "alive": False},
]


def report(node, phase="Running", pid=7, exit=None):
    return {"groups": [{"phase": phase, "ranks": [{"node": node, "pid": pid, "exit": exit}]}]}


class LifeTest(unittest.TestCase):
    def setUp(self):
        self.directory = enter(self, tempfile.TemporaryDirectory())
        enter(self, mock.patch.object(life, "COUNT_S", -1.0))
        self.life = life.Life(self.directory)

    def ask(self, address, asking=False):
        return self.life.describe(address, NODES, "h", asking)

    def test_what_never_happened_has_no_age(self):
        nothing = {"controllerS": None, "jobS": None, "unsafeCheckpoints": 0}
        for address in ("10.0.0.1", "10.0.0.2"):
            self.assertEqual(self.ask(address), {**nothing, "joined": True})
        for address in ("10.0.0.3", "10.0.0.9", ""):
            self.assertEqual(self.ask(address), {**nothing, "joined": False})

    def test_a_controller_that_waits_for_its_answer_is_there(self):
        self.life.note_controller()
        self.life.controller -= 40
        self.assertAlmostEqual(self.ask("10.0.0.2")["controllerS"], 40, delta=1)
        self.assertEqual(self.ask("10.0.0.2", asking=True)["controllerS"], 0.0)

    def test_a_worker_is_needed_where_it_lives_and_the_head_as_long_as_there_is_one(self):
        self.life.note_report(report("n"))
        self.assertEqual([self.ask(f"10.0.0.{host}")["jobS"] for host in (1, 2, 3)], [0.0, 0.0, None])
        self.life.worked["n"] -= 100
        self.assertAlmostEqual(self.ask("10.0.0.2")["jobS"], 100, delta=1)
        self.assertAlmostEqual(self.ask("10.0.0.1")["jobS"], 100, delta=1)
        # It was a worker of the node that was at this address before.
        self.life.note_report(report("old"))
        self.assertEqual(self.ask("10.0.0.2")["jobS"], 0.0)

    def test_a_worker_that_has_ended_or_was_never_started_needs_nothing(self):
        ended = report("n", exit={"code": 0}), report("n", phase="Ended"), {"phase": "Dead"}
        for ended in (*ended, report("n", pid=None)):
            self.life.note_report(ended)
        self.assertIsNone(self.ask("10.0.0.2")["jobS"])

    # --- What would be lost -----------------------------------------------------------------------------------

    def store(self, job="job"):
        return store.BlobStore(os.path.join(self.directory, job, "blobs"))

    def save(self, blobs, kind, group, number):
        digest = f"{kind}{group}{number}"
        with open(blobs.path(digest), "wb"):
            pass
        blobs.add({"kind": kind, "group": group, "number": number, "digest": digest, "size": 0, "at": time.monotonic()})
        return digest

    def unsafe(self):
        return self.ask("10.0.0.1")["unsafeCheckpoints"]

    def test_what_nobody_has_said_to_have_is_unsafe(self):
        blobs = self.store()
        first, second = (self.save(blobs, store.CHECKPOINT, 1, number) for number in (1, 2))
        self.assertEqual(self.unsafe(), 2)
        store.mark_kept(blobs.directory, first)
        self.assertEqual(self.unsafe(), 1)
        store.mark_kept(blobs.directory, second)
        self.assertEqual(self.unsafe(), 0)
        self.save(blobs, store.CHECKPOINT, 2, 1)
        self.assertEqual(self.unsafe(), 1)
        self.save(self.store("other"), store.CHECKPOINT, 1, 1)
        self.assertEqual(self.unsafe(), 2)

    def test_a_durable_checkpoint_makes_up_for_older_ones(self):
        blobs = self.store()
        self.save(blobs, store.CHECKPOINT, 1, 9)
        store.mark_kept(blobs.directory, self.save(blobs, store.CHECKPOINT, 2, 1))
        self.assertEqual(self.unsafe(), 0)

    def test_artifacts_are_each_their_own(self):
        blobs = self.store()
        first = self.save(blobs, store.ARTIFACTS, 1, 0)
        store.mark_kept(blobs.directory, self.save(blobs, store.ARTIFACTS, 2, 0))
        self.assertEqual(self.unsafe(), 1)
        store.mark_kept(blobs.directory, first)
        self.assertEqual(self.unsafe(), 0)

    def test_what_a_document_restores_the_controller_has(self):
        blobs = self.store()
        self.save(blobs, store.CHECKPOINT, 1, 1)
        self.save(blobs, store.CHECKPOINT, 1, 2)
        store.mark_place_kept(blobs.directory, 0, 7)
        store.mark_place_kept(os.path.join(self.directory, "unknown"), 1, 1)
        self.assertEqual(self.unsafe(), 2)
        store.mark_place_kept(blobs.directory, 1, 1)
        self.assertEqual(self.unsafe(), 1)

    def test_a_mark_goes_with_its_blob_and_is_found_by_the_next_bridge(self):
        blobs = self.store()
        store.mark_kept(blobs.directory, self.save(blobs, store.CHECKPOINT, 1, 1))
        blobs = self.store()
        self.assertEqual(self.unsafe(), 0)
        for number in (2, 3):
            self.save(blobs, store.CHECKPOINT, 1, number)
        blobs.prune(2)
        self.assertEqual((self.unsafe(), [name for name in os.listdir(blobs.directory) if "11" in name]), (2, []))

    def test_the_disk_is_not_read_for_everybody_who_asks(self):
        enter(self, mock.patch.object(life, "COUNT_S", 60.0))
        self.assertEqual(self.unsafe(), 0)
        self.save(self.store(), store.CHECKPOINT, 1, 1)
        self.assertEqual(self.unsafe(), 0)


if __name__ == "__main__":
    unittest.main()

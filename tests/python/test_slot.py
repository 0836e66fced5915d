"""A slot with real processes; of Ray, only what it asks about itself is stood in for."""

import importlib
import io
import json
import os
import shutil
import signal
import sys
import tarfile
import tempfile
import threading
import time
import types
import unittest
from unittest import mock

from support import enter


def request(group, script, **more):
    return {
        "group": group, "rank": 0, "job": "default/job", "replicas": 1, "nodes": 1, "masterPort": 1, "args": [],
        "entrypoint": None, "command": ["/bin/sh", "-c", script], "env": {}, "sharePath": None, "sharedPaths": [], "slots": [], "fork": False,
        "groupSecret": "5ec2e7",
        **more,
    }  # fmt: skip


def lives(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class SlotTest(unittest.TestCase):
    def setUp(self):
        self.session = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.session, ignore_errors=True)
        ray = types.ModuleType("ray")
        node = types.SimpleNamespace(get_session_dir_path=lambda: self.session)
        ray._private = types.SimpleNamespace(worker=types.SimpleNamespace(_global_node=node))
        ray.util = types.SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1")
        context = types.SimpleNamespace(get_accelerator_ids=lambda: {"GPU": []})
        ray.get_runtime_context = lambda: context
        enter(self, mock.patch.dict(sys.modules, {"ray": ray}))
        sys.modules.pop("rayconcile_agent.slot", None)
        self.module = importlib.import_module("rayconcile_agent.slot")
        self.addCleanup(sys.modules.pop, "rayconcile_agent.slot", None)
        self.slot = self.module.Slot("uid", "s0", 1, False, 3600.0, None)
        self.addCleanup(self.slot.close)

    def until(self, condition):
        deadline = time.monotonic() + 60
        while not (found := condition()):
            self.assertLess(time.monotonic(), deadline, "it never came to that")
            time.sleep(0.01)
        return found

    def report(self, group):
        runs = self.slot.poll(-1, 0, {}, 1 << 20, 0.0)["runs"]
        return next(run for run in runs if run["group"] == group)

    def output(self, group):
        return self.slot.poll(-1, 0, {}, 1 << 20, 0.0)["logs"][group][1].decode()

    def start(self, group, script, **more):
        self.assertEqual(self.slot.start(request(group, script, **more)), {"refusal": None, "unforked": None})
        self.slot.release(group, ["127.0.0.1"])

    def test_a_worker_runs_and_its_end_is_told(self):
        self.start(0, "echo $ADAPTDL_JOB_ID $A; exit 7", env={"A": "b"})
        run = self.until(lambda: (run := self.report(0))["exit"] and run)
        self.assertEqual((run["exit"]["code"], run["exit"]["signal"]), (7, None))
        self.assertEqual(self.output(0), "default/job b\n")
        self.start(1, "kill -40 $$")
        run = self.until(lambda: (run := self.report(1))["exit"] and run)
        self.assertEqual(run["exit"]["signal"], "SIG40", "a signal without a name")

    def test_what_cannot_be_started_ends_at_once_and_harms_nobody(self):
        self.start(0, "sleep 1000")
        self.start(1, "true", env={"A": "nul\0"})
        self.until(lambda: self.report(1)["exit"])
        self.assertEqual(self.report(1)["exit"]["code"], 127)
        self.assertIn("cannot start the worker: ValueError", self.output(1))
        self.assertIsNone(self.report(0)["exit"])

    def test_what_is_forgotten_while_it_is_launched_does_not_live_on(self):
        launch, entered, go_on = self.module.host.launch, threading.Event(), threading.Event()
        started = []

        def slowly(*arguments):
            entered.set()
            go_on.wait(60)
            started.append(launch(*arguments))
            return started[-1]

        with mock.patch.object(self.module.host, "launch", slowly):
            starting = threading.Thread(target=self.slot.start, args=(request(0, "sleep 1000"),))
            starting.start()
            entered.wait(60)
            forgetting = threading.Thread(target=self.slot.forget, args=(0,))
            forgetting.start()
            self.until(lambda: 0 not in self.slot.runs)
            go_on.set()
            starting.join(60)
            forgetting.join(60)
        self.assertFalse(lives(started[0].pid))

    def test_with_the_slot_all_that_a_worker_has_started_ends(self):
        program = (
            "import os, sys, time\n"
            "from rayconcile_agent import host\n"
            "process = host.launch(['/bin/sh', '-c', 'sleep 1000 & echo $!; wait'], dict(os.environ), sys.stdout)\n"
            "guard = host.guard(process.pid)\n"
            "os.write(1, b'guarded\\n')\n"
            "time.sleep(1000)\n"
        )
        slot = self.module.host.subprocess.Popen(
            [sys.executable, "-c", program], stdout=self.module.host.subprocess.PIPE, start_new_session=True
        )
        # The child writes at its own time; the guard is there when both have spoken.
        lines = {slot.stdout.readline(), slot.stdout.readline()} - {b"guarded\n"}
        child = int(lines.pop())
        self.assertTrue(lives(child))
        slot.send_signal(signal.SIGKILL)
        slot.wait()
        self.until(lambda: not lives(child))
        slot.stdout.close()

    def save(self, group, number, text="weights"):
        """A save, as rank 0 of a group leaves one."""
        path = os.path.join(self.slot.runs[group].saves, str(number), f"checkpoint-{group}")
        os.makedirs(path)
        with open(os.path.join(path, "model"), "w", encoding="ascii") as file:
            file.write(text)
        self.slot.runs[group].control.words[self.module.worker.SAVES] = number
        return path

    def read(self, stream, slot=None):
        """The names in a stream, and what it was."""
        data, end = b"", None
        while end is None:
            chunk, end = (slot or self.slot).next_chunk(stream)
            data += chunk
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            return [member.name for member in archive if member.isfile()], end

    def test_a_save_can_be_packed_as_often_as_it_is_asked_for(self):
        self.start(0, "sleep 1000")
        self.save(0, 2, "older")
        self.save(0, 3)
        names, what = self.read(self.slot.open_checkpoint(0, 3))
        self.assertEqual((names, what["files"]), (["checkpoint-0/model"], 1))
        self.assertEqual(self.read(self.slot.open_checkpoint(0, 3))[1], what, "its first answer was lost")
        self.slot.taken(0, 3)
        self.assertIsNone(self.slot.open_checkpoint(0, 2), "the head has a newer one")
        self.assertIsNotNone(self.slot.open_checkpoint(0, 3), "kept here too, until there is a newer one")
        self.assertIsNone(self.slot.open_checkpoint(0, 4))

    def test_the_next_group_has_the_save_without_its_being_moved_and_keeps_it(self):
        self.start(0, "sleep 1000")
        self.start(1, "sleep 1000")
        path = self.save(0, 1)
        self.assertTrue(self.slot.link(1, path))
        restored = os.path.join(self.slot.runs[1].restored, "checkpoint-0", "model")
        self.assertEqual(os.stat(restored).st_ino, os.stat(os.path.join(path, "model")).st_ino)
        self.slot.forget(0)
        self.assertEqual(self.read(self.slot.open_restored(1))[0], ["checkpoint-0/model"])
        self.assertFalse(self.slot.link(1, path), "it is gone, or of another machine")

    def test_what_is_saved_on_a_shared_file_system_is_neither_carried_nor_left_behind(self):
        # Memory is another file system than that of the session, as a network's would be.
        share = enter(self, tempfile.TemporaryDirectory(dir="/dev/shm"))
        paths = {"sharedPaths": [None, "/not/mounted/here", share]}
        self.start(0, "sleep 1000", slots=["s0"], **paths)
        path = self.save(0, 1)
        self.assertTrue(path.startswith(share), path)
        dead = os.path.join(share, ".rayconcile", "uid", "s-dead")
        os.makedirs(dead)
        other = self.module.Slot("uid", "s1", 1, False, 3600.0, None)
        self.addCleanup(other.close)
        other.start(request(1, "sleep 1000", slots=["s0", "s1"], **paths))
        self.assertFalse(os.path.exists(dead), "its node has died")
        self.assertTrue(other.link(1, path))
        restored = os.path.join(other.runs[1].restored, "checkpoint-0", "model")
        self.assertEqual(os.stat(restored).st_ino, os.stat(os.path.join(path, "model")).st_ino)
        self.assertEqual(self.read(other.open_path(path), other)[0], ["checkpoint-0/model"], "were the first node lost")
        self.slot.forget(0)
        self.assertIsNone(other.open_path(path))
        self.assertEqual(self.read(other.open_restored(1), other)[0], ["checkpoint-0/model"])
        self.slot.close()
        other.close()
        self.assertEqual(os.listdir(share), [])

    def test_what_comes_from_elsewhere_is_restored_only_if_it_is_whole(self):
        self.start(0, "sleep 1000")
        self.start(1, "sleep 1000")
        self.save(0, 1)
        stream = self.slot.open_checkpoint(0, 1)
        chunk, what = self.slot.next_chunk(stream)
        self.slot.receive("name", chunk)
        self.assertTrue(self.slot.received("name", what["digest"]))
        self.slot.restore(1, what["digest"])
        self.assertEqual(os.listdir(self.slot.runs[1].restored), ["checkpoint-0"])
        self.slot.receive("other", chunk[:-1])
        self.assertFalse(self.slot.received("other", what["digest"]))
        self.slot.receive("third", chunk)
        self.slot.give_up("third")
        self.assertEqual(os.listdir(self.slot.blobs), [], "nothing is left of it")

    def test_for_another_bridge_workers_save_and_end(self):
        words = self.module.worker
        self.start(0, "trap 'exit 143' TERM; echo; while :; do sleep 0.05; done")
        self.start(1, "trap '' TERM; echo; while :; do sleep 0.05; done")
        self.until(lambda: self.output(0) and self.output(1))
        self.slot.runs[0].control.words[words.FIRST_STEP_NS] = 1
        self.save(0, 1)
        saves = self.slot.retire(30.0)
        self.assertEqual([(save["group"], save["number"]) for save in saves], [(0, 1)])
        self.until(lambda: self.report(0)["exit"] and self.report(1)["exit"])
        self.assertEqual(self.report(0)["exit"]["code"], 143, "it trained, and was asked to leave")
        self.assertEqual(self.report(1)["exit"]["signal"], "SIGKILL", "it had nothing to save")

    def test_only_who_is_held_later_meets_its_peers_before_the_release(self):
        self.assertEqual(self.slot.start(request(0, "sleep 60"))["refusal"], None)
        run = self.slot.runs[0]
        self.assertIsNone(self.slot.await_peers(run, True, 0))
        self.slot.meet(0, ["a", "b"])
        self.assertEqual(self.slot.await_peers(run, True, 0), ["a", "b"])
        self.assertIsNone(self.slot.await_peers(run, False, 0))
        self.assertFalse(self.report(0)["held"])
        self.assertFalse(self.slot.await_release(run, 0))
        self.assertTrue(self.report(0)["held"])
        self.slot.release(0, ["a", "b"])
        self.assertEqual(self.slot.await_peers(run, False, 0), ["a", "b"])
        self.assertTrue(self.slot.await_release(run, 0))

    def test_who_asks_only_when_it_has_made_steps_has_not_waited(self):
        self.start(0, "sleep 60")
        run = self.slot.runs[0]
        run.control.step_done(0, 0.0, 1)
        self.assertTrue(self.slot.await_release(run, 0))
        self.assertEqual((self.report(0)["arrived"], self.report(0)["held"]), (True, False))

    def test_a_command_is_told_what_it_needs_and_nobody_else_reads_it(self):
        self.start(0, "stat -c '%a %n' $RAYCONCILE_WORKER")
        self.until(lambda: self.report(0)["exit"])
        mode, path = self.output(0).split()
        self.assertEqual(mode, "600")
        with open(path, encoding="utf-8") as file:
            told, run = json.load(file), self.slot.runs[0]
        self.assertEqual((told["control"], told["saves"], told["rank"]), (run.control_path, run.saves, 0))
        self.assertEqual(told["groupSecret"], "5ec2e7")
        self.assertEqual(self.slot.supervisor.secrets, {told["supervisor"][2]: run})
        self.assertNotIn("5ec2e7", str(self.report(0)))

    def test_who_is_stopped_is_seen_to_be(self):
        self.start(0, "sleep 1000")
        self.slot.signal(0, "SIGSTOP")
        self.until(lambda: self.report(0)["stopped"])
        self.slot.signal(0, "SIGCONT")
        self.until(lambda: not self.report(0)["stopped"])

    def test_artifacts_are_packed_once_each(self):
        self.start(0, "sleep 1000")
        cwd = self.slot.runs[0].cwd
        os.makedirs(os.path.join(cwd, "out", "a", "b"))
        os.makedirs(os.path.join(cwd, "out-of-order"))
        for name in ("out/a/b/model.pt", "out/top", "out-of-order/x", "single"):
            with open(os.path.join(cwd, name), "w", encoding="ascii") as file:
                file.write(name)
        os.symlink("out", os.path.join(cwd, "link"))
        patterns = ["out/**", "out-of-order/*", "single", "link/top", "nothing", "../*"]
        names, _ = self.read(self.slot.open_artifacts(0, patterns))
        self.assertEqual(names, ["link/top", "out/a/b/model.pt", "out/top", "out-of-order/x", "single"])
        self.assertIsNone(self.slot.open_artifacts(0, ["nothing*"]))

    def test_the_last_slot_of_a_job_leaves_nothing_on_the_node(self):
        other = self.module.Slot("uid", "s1", 1, False, 3600.0, None)
        self.start(0, "true")
        other.close()
        self.assertEqual(sorted(os.listdir(self.slot.home)), ["s0", "share"])
        self.slot.close()
        self.assertEqual(os.listdir(os.path.join(self.session, "rayconcile")), [])

    def test_a_live_worker_shows_itself_and_nothing_else_does(self):
        file = enter(self, tempfile.NamedTemporaryFile())
        enter(self, mock.patch.dict(os.environ, {"RAYCONCILE_BEAT": file.name}))
        enter(self, mock.patch("rayconcile_agent.beat.PERIOD_S", 0.1))
        self.slot.close()
        self.slot = self.module.Slot("uid", "s1", 1, False, 3600.0, None)
        self.addCleanup(self.slot.close)
        read = lambda: (file.seek(0), file.read())[1]
        time.sleep(0.5)
        self.assertEqual(read(), b"")
        self.start(0, "sleep 1000")
        first = self.until(read)
        self.until(lambda: read() != first)
        self.assertEqual(len(read()), len(first))
        self.slot.signal(0, "SIGKILL")
        self.until(lambda: self.report(0)["exit"])
        time.sleep(0.3)
        last = read()
        time.sleep(0.5)
        self.assertEqual(read(), last)

    def test_the_lease_counts_from_what_was_heard(self):
        before = self.slot.last_contact
        clock = self.slot.poll(-1, 0, {}, 10, 0.0)["clock"]
        self.assertEqual(self.slot.last_contact, before, "that a call arrived says nothing of the answer")
        self.slot.poll(-1, 0, {}, 10, clock)
        self.assertEqual(self.slot.last_contact, clock)


if __name__ == "__main__":
    unittest.main()

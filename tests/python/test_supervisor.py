"""The supervisor: who has not the secret is nobody, and what is reported is bounded."""

import http.client
import threading
import time
import unittest
from unittest import mock

from rayconcile_agent import supervisor
from support import enter


class Slot:
    """A slot that notes what it is told."""

    def __init__(self):
        self.released = threading.Event()
        self.met = threading.Event()
        self.hints, self.looked_at = [], []

    def await_release(self, _run, hold):
        return self.released.wait(hold)

    def await_peers(self, run, holds, hold):
        return run.peers if (self.met if holds else self.released).wait(hold) else None

    def look_at(self, run):
        self.looked_at.append(run)

    def note_hints(self, run, text):
        self.hints.append((run, text))


class Run:
    peers = ["127.0.0.1", "127.0.0.2"]


class SupervisorTest(unittest.TestCase):
    def setUp(self):
        enter(self, mock.patch.object(supervisor, "HOLD_S", 0.2))
        self.slot, self.run_of_worker = Slot(), Run()
        self.supervisor = supervisor.Supervisor(self.slot)
        self.addCleanup(self.supervisor.server.server_close)
        self.addCleanup(self.supervisor.server.shutdown)
        self.host, self.port, self.secret = self.supervisor.admit(self.run_of_worker)

    def ask(self, method, path, body=None, headers=None):
        """The status and the body of an answer to a request below the worker's address."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        self.addCleanup(connection.close)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()

    def of_worker(self, rest):
        return f"/{self.secret}/{rest}"

    def test_only_who_was_given_the_secret_is_answered(self):
        self.slot.released.set()
        for path in ("/", "", "/release", "/wrong/release", "//release", "/%s/release" % ("x" * 32)):
            self.assertEqual(self.ask("GET", path or "/")[0], 404, path)
        self.assertEqual(self.ask("PUT", "/wrong/hints/default/job", b"{}")[0], 404)
        self.assertEqual(self.ask("GET", self.of_worker("release"))[0], 200)
        self.assertEqual(self.slot.hints, [])
        other = self.supervisor.admit(Run())
        self.assertNotEqual(other[2], self.secret)
        self.supervisor.dismiss(self.run_of_worker)
        self.assertEqual(self.ask("GET", self.of_worker("release"))[0], 404, "its run is over")

    def test_a_secret_opens_its_own_run_and_no_other_address(self):
        self.slot.released.set()
        self.slot.met.set()
        other = Run()
        other.peers = ["127.0.0.9"]
        _, _, secret = self.supervisor.admit(other)
        # Whatever job an address names, it is the secret's own that is told and heard of.
        self.assertEqual(self.ask("GET", f"/{secret}/discover/default/job/0")[1], b'["127.0.0.9"]')
        self.assertEqual(self.ask("PUT", f"/{secret}/hints/another/job", b"{}")[0], 200)
        self.assertEqual([run for run, _ in self.slot.hints], [other])
        opened = set()
        for words in ("discover/a/b/0", "hints/a/b", "release", "saved", "left", "", "state", "jobs", "document", "logs",
                      "v1/life", "token", f"{self.secret}/discover/a/b/0", "discover/a/b/0/../../../../release", "metrics"):
            for method in ("GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS"):
                status, _ = self.ask(method, f"/{secret}/{words}", b"{}" if method == "PUT" else None)
                if status == 200:
                    opened.add((method, words.split("/")[0]))
        of_adaptdl, of_bootstrap = {("GET", "discover"), ("PUT", "hints")}, {("GET", "release"), ("POST", "saved"), ("POST", "left")}
        self.assertEqual(opened, of_adaptdl | of_bootstrap)
        self.assertNotIn(self.run_of_worker, [run for run, _ in self.slot.hints] + self.slot.looked_at)

    def test_discovery_is_held_until_the_group_is_released(self):
        began = time.monotonic()
        self.assertEqual(self.ask("GET", self.of_worker("discover/default/job/0")), (408, b""))
        self.assertGreaterEqual(time.monotonic() - began, 0.2)
        self.slot.met.set()
        self.assertEqual(self.ask("GET", self.of_worker("discover/default/job/0"))[0], 408, "it might train")
        self.slot.released.set()
        status, body = self.ask("GET", self.of_worker("discover/default/job/0?replicas=2"))
        self.assertEqual((status, body), (200, b'["127.0.0.1", "127.0.0.2"]'))
        for rest in ("discover/default/job", "discover", "elsewhere", "release/more"):
            self.assertEqual(self.ask("GET", self.of_worker(rest))[0], 404, rest)

    def test_who_is_held_later_meets_its_peers_before(self):
        self.assertEqual(self.ask("GET", self.of_worker("discover/default/job/0?held"))[0], 408)
        self.slot.met.set()
        status, body = self.ask("GET", self.of_worker("discover/default/job/0?held"))
        self.assertEqual((status, body), (200, b'["127.0.0.1", "127.0.0.2"]'))
        self.assertEqual(self.ask("GET", self.of_worker("release"))[0], 408)

    def test_what_a_worker_says_that_it_has_done_is_looked_at(self):
        self.assertEqual(self.ask("POST", self.of_worker("saved"))[0], 200)
        self.assertEqual(self.ask("POST", self.of_worker("left"))[0], 200)
        self.assertEqual(self.ask("POST", self.of_worker("right"))[0], 404)
        self.assertEqual(self.ask("POST", "/wrong/left")[0], 404)
        self.assertEqual(self.slot.looked_at, [self.run_of_worker] * 2)

    def test_hints_are_bounded_and_passed_on_as_text(self):
        hints = self.of_worker("hints/default/job")
        self.assertEqual(self.ask("PUT", hints, b'{"a": 1}')[0], 200)
        self.assertEqual(self.ask("PUT", hints, b"\xff no json")[0], 200)
        self.assertEqual([text for _, text in self.slot.hints], ['{"a": 1}', "\ufffd no json"])
        self.assertEqual(self.ask("PUT", hints, b"x" * supervisor.HINTS_BYTES)[0], 200)
        noted = len(self.slot.hints)
        for length in (str(supervisor.HINTS_BYTES + 1), "-1", "many", "1e3", ""):
            self.assertEqual(self.ask("PUT", hints, b"x", {"Content-Length": length})[0], 413, length)
        self.assertEqual(self.ask("PUT", self.of_worker("hints/default"), b"{}")[0], 404)
        self.assertEqual(len(self.slot.hints), noted)
        self.assertEqual(self.ask("GET", self.of_worker("discover/a/b/0"))[0], 408, "others are served as before")


if __name__ == "__main__":
    unittest.main()

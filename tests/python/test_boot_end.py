"""When an instance ends itself, and when it does not."""

import contextlib
import os
import signal
import threading
import time
import unittest

from boot import BOUND_S, FORGOTTEN, NEEDED, Machine

class EndTest(unittest.TestCase):
    """When an instance ends itself, and when it does not."""

    def test_what_cannot_become_a_node_ends(self):
        refuses = "[[ $1 != run ]] || { echo unknown flag >&2; exit 125; }"
        ends_at_once = "if [[ $1 == exec ]]; then exit 1; fi; [[ $1 != logs ]] || echo usage"
        no_metadata = Machine(self, JOIN_S="1")
        no_metadata.server.metadata_fails = 1 << 20
        cases = [(no_metadata, "asking the metadata service failed for 1 s")]
        for settings, command, action, said in (
            ({"TOKEN_PARAMETER": "/token"}, "aws", None, "no AWS CLI"),
            ({"TOKEN_PARAMETER": "/token", "JOIN_S": "1"}, "aws", "exit 254", "fetching Ray's token failed for 1 s"),
            # An empty token would be none.
            ({"TOKEN_PARAMETER": "/token", "JOIN_S": "1"}, "aws", "", "fetching Ray's token failed for 1 s"),
            ({"DOCKER_IMAGE": "i"}, "docker", None, "no Docker"),
            ({"DOCKER_IMAGE": "i"}, "docker", refuses, "docker run failed with status 125"),
            ({"DOCKER_IMAGE": "i"}, "docker", ends_at_once, "i does not run what it is told: usage"),
        ):
            machine = Machine(self, **settings)
            machine.without(command) if action is None else machine.stub(command, action)
            cases.append((machine, said))
        for machine, _ in cases:
            machine.boot()
        for machine, said in cases:
            machine.until_shut_down()
            machine.until_said(said)
            self.assertEqual(machine.calls("ray"), [], said)

    def test_what_does_not_join_in_time_ends(self):
        lonely = [
            Machine(self, JOIN_S="1"),
            Machine(self, JOIN_S="1"),
            Machine(self, JOIN_S="1", ROLE="head"),
            # Whatever it hangs in.
            Machine(self, JOIN_S="1", SETUP=["sleep 1000"]),
        ]
        lonely[0].server.life = {**NEEDED, "joined": False}
        lonely[1].server.life = None
        lonely[2].server.healthy = False
        lonely[3].server.life = {**NEEDED, "joined": False}
        joined = [Machine(self, JOIN_S="5"), Machine(self, JOIN_S="5", ROLE="head")]
        joined[1].server.life = None
        for machine in lonely + joined:
            machine.boot()
        begun = time.monotonic()
        for machine in joined:
            machine.until_said("this node has joined")
        for machine in lonely:
            machine.until_shut_down()
            machine.until_said("it has not joined within 1 s")
        time.sleep(max(0.0, begun + 6.5 - time.monotonic()))
        self.assertEqual([machine.calls("shutdown") for machine in joined], [[], []])
        self.assertIn("address=127.0.0.1", joined[0].server.asked)

    def test_a_node_that_nobody_needs_ends_itself(self):
        forgotten, never_asked, silent = (Machine(self, ORPHAN_S="1") for _ in range(3))
        lonely_head, saved_head = (Machine(self, ORPHAN_S="1", ROLE="head") for _ in range(2))
        forgotten.server.life = saved_head.server.life = FORGOTTEN
        never_asked.server.life = {**FORGOTTEN, "controllerS": None, "jobS": None}
        lonely_head.server.life = None
        controlled, working, unsafe_head, silent_head = needed = [
            Machine(self, ORPHAN_S="1"), Machine(self, ORPHAN_S="1"),
            Machine(self, ORPHAN_S="1", ROLE="head"), Machine(self, ORPHAN_S="4", ROLE="head"),
        ]  # fmt: skip
        controlled.server.life = {**FORGOTTEN, "controllerS": 0.0}
        working.server.life = {**FORGOTTEN, "jobS": 0.0}
        unsafe_head.server.life = {**FORGOTTEN, "unsafeCheckpoints": 2}
        silent_head.server.life = FORGOTTEN
        ending = [forgotten, never_asked, silent, lonely_head, saved_head]
        for machine in ending + needed:
            machine.boot()
        for machine in ending + needed:
            machine.until_said("this node has joined")
        silent_head.until(lambda: silent_head.server.asked, "the agent has answered once")
        answered = time.monotonic()
        time.sleep(0.3)
        silent.server.life = silent_head.server.life = None
        for machine in ending:
            machine.until_shut_down()
            machine.until_said("it has had no job and heard of no controller for 1 s")
        time.sleep(max(0.0, answered + 5.5 - time.monotonic()))
        self.assertEqual([machine.calls("shutdown") for machine in needed], [[]] * 4)
        # The controller has come for the checkpoints, or the agent has been silent for twice as long.
        unsafe_head.server.life = FORGOTTEN
        for machine in (unsafe_head, silent_head):
            machine.until_shut_down()
        self.assertGreater(time.monotonic(), answered + 7)

    @contextlib.contextmanager
    def beating(self, *machines):
        """Machines on which a worker lives, or for a head anywhere."""
        over = threading.Event()

        def beat():
            while not over.wait(0.2):
                for machine in machines:
                    machine.beat()

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def test_a_node_with_a_worker_stays_though_nobody_tells_of_it(self):
        """The agent is dead, or does not know, and no controller is there."""
        silent, unknowing = (Machine(self, ORPHAN_S="4") for _ in range(2))
        head, unsafe = (Machine(self, ORPHAN_S="4", ROLE="head") for _ in range(2))
        machines = silent, unknowing, head, unsafe
        for machine in machines:
            machine.boot()
        for machine in machines:
            machine.until_said("this node has joined")
        unsafe.until(lambda: unsafe.server.asked, "the agent has answered once")
        with self.beating(*machines):
            unknowing.server.life = FORGOTTEN
            for machine in (silent, head, unsafe):
                machine.server.life = None
            time.sleep(9.5)
            self.assertEqual([machine.calls("shutdown") for machine in machines], [[]] * 4)
        # The workers have ended. What they have left on a head may still be fetched, but not for ever.
        over = time.monotonic()
        for machine in (head, unsafe):
            machine.until_shut_down()
            self.assertGreater(time.monotonic(), over + 6)
        for machine in (silent, unknowing):
            machine.until_shut_down()

    def test_a_head_whose_workers_have_ended_goes_when_it_is_known_to_hold_nothing(self):
        machine = Machine(self, ORPHAN_S="1", ROLE="head")
        machine.server.life = {**FORGOTTEN, "unsafeCheckpoints": 1}
        machine.boot()
        machine.until_said("this node has joined")
        machine.beat()
        time.sleep(2.5)
        self.assertEqual(machine.calls("shutdown"), [])
        machine.server.life = FORGOTTEN
        machine.until_shut_down()

    def test_a_node_whose_worker_shows_nothing_more_ends(self):
        """As one does that has hung without its bridge: its slot has ended with its lease."""
        machine = Machine(self, ORPHAN_S="1")
        machine.server.life = FORGOTTEN
        machine.boot()
        machine.until_said("this node has joined")
        machine.beat()
        machine.until_shut_down()

    def test_a_node_without_the_file_is_no_worse_off(self):
        machine = Machine(self, ORPHAN_S="1")
        machine.boot()
        machine.until_said("this node has joined")
        os.unlink(os.path.join(machine.root, "run/rayconcile/beat"))
        machine.server.life = FORGOTTEN
        machine.until_shut_down()
        self.assertNotIn("No such file", machine.output())

    def test_an_answer_that_is_none_does_not_end_a_head(self):
        machine = Machine(self, ORPHAN_S="1", ROLE="head")
        machine.server.life = {**FORGOTTEN, "unsafeCheckpoints": None}
        machine.boot()
        machine.until_said("this node has joined")
        time.sleep(2.5)
        self.assertEqual(machine.calls("shutdown"), [])

    def test_it_sees_to_it_until_it_is_off(self):
        machine = Machine(self, SETUP=["false"])
        machine.stub("shutdown", "exit 1")
        machine.boot()
        machine.until_called("systemctl", "poweroff", "--force")

    def test_what_is_ended_from_outside_does_not_shut_down(self):
        machine = Machine(self)
        process = machine.boot()
        machine.until_called("ray")
        machine.until_said("this node has joined")
        os.killpg(process.pid, signal.SIGTERM)
        self.assertEqual(process.wait(BOUND_S), 143)
        self.assertEqual(machine.calls("shutdown"), [])

    def test_a_script_that_breaks_ends_the_instance(self):
        machine = Machine(self)
        with open(os.path.join(machine.root, "run"), "w", encoding="ascii"):
            pass  # Where a directory is to be.
        machine.boot()
        machine.until_shut_down()
        self.assertEqual(machine.calls("ray"), [])


if __name__ == "__main__":
    unittest.main()

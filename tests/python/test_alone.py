"""What a bridge does while the controller is away, and that it does nothing of it while the controller is there."""

import asyncio
import time
import types
import unittest

from rayconcile_agent import alone


class Slot:
    def __init__(self, state="Ready", soon=False):
        self.state, self.soon, self.spec = state, soon, {"node": "n", "resources": {"gpu": 0}}

    def leaves_soon(self):
        return self.soon


class Bridge:
    """As much of a bridge as its judgement needs."""

    def __init__(self, **slots):
        self.slots = slots
        self.document = {"minReplicas": 1, "checkpoint": {"timeoutMs": 1000}}
        self.current = self.next = None
        self.groups, self.halted, self.notes = {}, [], []

    def _tell(self):
        pass

    def _note(self, *note):
        self.notes.append(note)

    def _begin(self, group):
        self.next = group

    async def _halt(self, group, _grace_s):
        self.halted.append(group)

    def ended(self, number, kind, slots=(), steps=5):
        self.groups[number] = types.SimpleNamespace(
            number=number, outcome={"kind": kind}, slots=list(slots), times={"ended": time.monotonic()},
            runs=lambda: [{"steps": steps}],
        )  # fmt: skip


WANTED = {"group": {"number": 3, "ranks": ["a", "b"], "prepare": "Nothing"}}


class AloneTest(unittest.TestCase):
    def judge(self, bridge, ago_s=alone.AWAY_S + 1):
        judgement = alone.Alone(bridge)
        judgement.heard = time.monotonic() - ago_s
        asyncio.run(judgement.step(WANTED))
        return bridge.next

    def test_what_was_lost_is_begun_again_on_the_slots_that_are_left(self):
        for kind, reason in (("Killed", "WorkerKilled"), ("Lost", "NodeLost"), ("Hung", "WorkerKilled")):
            bridge = Bridge(a=Slot("Lost"), b=Slot(), c=Slot())
            bridge.ended(3, kind)
            group = self.judge(bridge)
            self.assertEqual((group.number, group.alone, group.spec["ranks"]), (4, reason, ["b"]))
            self.assertEqual((group.spec["prepare"], list(group.slot_specs)), ("Full", ["b"]))

    def test_the_controller_decides_while_it_is_there(self):
        bridge = Bridge(a=Slot(), b=Slot())
        bridge.ended(3, "Killed")
        self.assertIsNone(self.judge(bridge, ago_s=5.0))

    def test_what_becomes_of_a_program_that_failed_or_stopped_is_not_for_a_bridge_to_say(self):
        for kind in ("Failed", "Stopped", "Succeeded", "RuntimeEnvFailed", "NoCheckpoint"):
            bridge = Bridge(a=Slot(), b=Slot())
            bridge.ended(3, kind, slots=bridge.slots.values())
            self.assertIsNone(self.judge(bridge), kind)

    def test_no_more_groups_are_begun_than_numbers_are_left_out_for_them(self):
        for last, begins in ((2 + alone.MOST_ALONE, True), (3 + alone.MOST_ALONE, False)):
            bridge = Bridge(a=Slot(), b=Slot())
            bridge.ended(last, "Killed")
            self.assertEqual(self.judge(bridge) is not None, begins, last)

    def test_fewer_workers_than_the_manifest_wants_are_none(self):
        bridge = Bridge(a=Slot(), b=Slot("Lost"))
        bridge.document["minReplicas"] = 2
        bridge.ended(3, "Lost")
        self.assertIsNone(self.judge(bridge))

    def test_a_node_that_goes_is_left_and_the_rest_goes_on(self):
        bridge = Bridge(a=Slot(soon=True), b=Slot())
        bridge.current = types.SimpleNamespace(slots=list(bridge.slots.values()))
        self.assertIsNone(self.judge(bridge))
        self.assertEqual(bridge.halted, [bridge.current])
        bridge.current = None
        bridge.ended(3, "Stopped", slots=bridge.slots.values())
        group = self.judge(bridge)
        self.assertEqual((group.alone, group.spec["ranks"]), ("Notice", ["b"]))

    def test_what_never_trains_is_not_tried_in_a_hot_loop(self):
        bridge = Bridge(a=Slot(), b=Slot())
        bridge.ended(3, "Killed", steps=0)
        self.assertIsNone(self.judge(bridge))
        bridge.groups[3].times["ended"] -= 2
        self.assertEqual(self.judge(bridge).number, 4)


if __name__ == "__main__":
    unittest.main()

"""Which groups are got ready beside the one that trains: a bridge and its groups, with slots that are stood in for."""

import copy
import json
import tempfile
import unittest
from unittest import mock

from rayconcile_agent import bridge as module
from rayconcile_agent.group import Group
from rayconcile_agent.report import describe
from support import enter

PROGRAM = {"entrypoint": None, "command": ["./train"], "args": ["--fast"]}


def run(**more):
    return {
        "arrived": False, "held": False, "joined": False, "leaving": False, "exit": None, "pid": 1, "saves": 0, "steps": 0,
        "savePath": None, "activeAt": None, "firstStepAt": None, **more,
    }  # fmt: skip


class Method:
    def __init__(self, function):
        self.function = function

    async def remote(self, *arguments):
        return self.function(*arguments)


class Slot:
    """A slot that is ready, and what its actor was told. Its workers do what `waits` says."""

    def __init__(self, slot_id, spec, told):
        self.slot_id, self.spec, self.node, self.told = slot_id, spec, spec["node"], told
        self.state, self.notice, self.info, self.message = "Ready", None, {"address": "127.0.0.1"}, None
        self.runs, self.waits = {}, True
        self.actor = mock.Mock()
        self.actor.free_port = Method(lambda: 20000)
        self.actor.start = Method(self.start)
        for name in ("meet", "release"):
            setattr(self.actor, name, Method(lambda group, *_, name=name: self.told.append((name, group))))
        self.actor.signal = Method(self.signal)

    def start(self, request):
        self.told.append(("start", request["group"], request))
        self.runs[request["group"]] = run(arrived=self.waits, held=self.waits)
        return {"refusal": None, "unforked": None}

    def signal(self, group, name):
        self.told.append((name, group))
        self.runs[group] = run(arrived=True, exit={"code": 143, "signal": None, "tail": "", "at": 0.0})

    async def opened(self):
        return True

    async def forget(self, group):
        self.told.append(("forget", group))
        self.runs.pop(group, None)

    def run(self, group):
        return self.runs.get(group)

    def surely_gone(self, _dead_nodes):
        return False


class OverlapTest(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        directory = enter(self, tempfile.TemporaryDirectory())
        self.told = []
        self.bridge = module.Bridge({"uid": "uid", "namespace": "default", "name": "job"}, directory, 20.0, False)
        self.bridge._reservation = lambda slot_id, spec: Slot(slot_id, spec, self.told)
        checkpoint = {"path": None, "timeoutMs": 5000, "intervalMs": 0, "keep": 2}
        self.bridge.document = {"revision": 1, "checkpoint": checkpoint, "fencedNodes": [], "metadataEndpoint": None}
        enter(self, mock.patch.object(module, "PREPARE_S", 0.1))

    def group(self, number, ranks=("a", "b"), environment="one", prepare="Full", **more):
        spec = {
            "number": number, "ranks": list(ranks), "program": copy.deepcopy(PROGRAM), "prepare": prepare,
            "env": [{"name": "A", "value": "b"}], "sharePath": None, "fork": False, "restore": None, **more,
        }  # fmt: skip
        slots = {
            slot_id: {"node": "node", "resources": {"gpu": 0}, "environment": {"working_dir": environment}}
            for slot_id in ranks
        }
        return Group(spec, slots, self.bridge._tell)

    async def running(self, held, **more):
        """The bridge's running group, whose ranks have waited for their release, or have not."""
        group = self.group(0, **more)
        await self.bridge._reserve(group)
        for slot, has_waited in zip(group.slots, held):
            slot.runs[0] = run(arrived=True, held=has_waited)
        group.phase, group.started = "Running", True
        group.mark("released")
        self.bridge.current = self.bridge.groups[0] = group
        return group

    async def prepared(self, group):
        self.bridge.next = self.bridge.groups[group.number] = group
        await self.bridge._prepare(group)
        self.assertEqual(group.phase, "Prepared", group.outcome)
        return group.started

    def calls(self, group):
        return [call[0] for call in self.told if call[1] == group]

    async def test_a_command_that_has_waited_is_got_ready_beside_itself(self):
        await self.running([True, True])
        self.assertTrue(await self.prepared(self.group(1, ("a", "b", "c"))))
        self.assertEqual(self.calls(1), ["start"] * 3 + ["meet"] * 3, "met, and not released")
        self.assertEqual(self.bridge.notes, [])

    async def test_one_that_has_not_waited_starts_when_the_running_one_has_stopped(self):
        old = await self.running([True, False])
        group = self.group(1)
        self.assertFalse(await self.prepared(group), "one of its workers did not wait")
        self.assertEqual(self.bridge.notes, [], "that is how it always was")
        await self.bridge._switch(group)
        self.assertEqual((old.outcome["kind"], group.phase), ("Stopped", "Running"))
        order = [call[:2] for call in self.told if call[:2] != ("forget", 0)]
        self.assertEqual(order, [("SIGTERM", 0)] * 2 + [("start", 1)] * 2 + [("release", 1)] * 2)

    async def test_of_another_program_nothing_is_known(self):
        await self.running([True, True])
        others = [
            {"program": {**PROGRAM, "command": ["./other"]}},
            {"program": {**PROGRAM, "args": []}},
            {"env": [{"name": "A", "value": "c"}]},
            {"sharePath": "/share"},
            {"environment": "another package"},
        ]
        for number, other in enumerate(others, 1):
            self.assertFalse(await self.prepared(self.group(number, **other)), other)
        self.assertTrue(await self.prepared(self.group(9)), "it is forgotten of nobody else for that")

    async def test_nor_of_one_that_is_the_first_or_has_no_room(self):
        group = self.group(0)
        self.assertFalse(await self.prepared(group))
        self.assertFalse(group.waits_as(self.group(1)), "a group without workers has shown nothing")
        await self.running([True, True])
        self.assertFalse(await self.prepared(self.group(1, prepare="Slots")))

    async def test_scripts_need_not_have_shown_it(self):
        script = {"program": {**PROGRAM, "command": None, "entrypoint": "main.py"}}
        await self.running([False, False], **script)
        self.assertTrue(await self.prepared(self.group(1, **script)))

    async def test_one_that_does_not_come_this_time_is_ended_and_starts_after_the_switch(self):
        old = await self.running([True, True])
        old.slots[1].waits = False
        group = self.group(1)
        self.assertFalse(await self.prepared(group))
        self.assertEqual(self.calls(1), ["start", "start", "forget", "forget"])
        self.assertEqual([note["reason"] for note in self.bridge.notes], ["NoOverlap"])
        await self.bridge._switch(group)
        self.assertEqual(self.calls(1)[4:], ["start", "start", "release", "release"])
        self.assertTrue(group.trains_unreleased(), "it was not seen to wait")

    async def test_who_waits_on_a_slot_that_is_lost_was_not_let_go(self):
        await self.running([True, True])
        group = self.group(1)
        self.assertTrue(await self.prepared(group))
        self.assertFalse(group.trains_unreleased())
        group.slots[1].runs[1]["held"] = False
        self.assertTrue(group.trains_unreleased())

    async def test_the_ranks_of_a_group_share_a_secret_that_nobody_else_hears(self):
        await self.running([True, True])
        for number in (1, 2):
            self.assertTrue(await self.prepared(self.group(number)))
        of_group = lambda number: {call[2]["groupSecret"] for call in self.told if call[:2] == ("start", number)}
        (first,), (second,) = of_group(1), of_group(2)
        self.assertEqual((len(bytes.fromhex(first)), first == second), (32, False))
        report = json.dumps(describe(self.bridge))
        self.assertFalse(first in report or second in report)


if __name__ == "__main__":
    unittest.main()

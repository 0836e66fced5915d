"""A slot as its bridge sees it: when its workers are surely gone. Ray is stood in for."""

import asyncio
import copy
import importlib
import os
import sys
import tempfile
import types
import unittest
from unittest import mock

from support import enter

LEASE_S = 20.0


class Lost(Exception):
    pass


class Gone(Lost):
    pass


class BadEnvironment(Lost):
    pass


class Method:
    def __init__(self, function):
        self.function = function

    async def remote(self, *arguments):
        return await self.function(*arguments)


class Actor:
    """A slot that is there, until it is told to fail."""

    def __init__(self):
        self.error = None
        self.polls = 0
        self.stubborn = False
        self.notice, self.runs = None, []
        for name in ("describe", "poll", "forget", "close"):
            setattr(self, name, Method(getattr(self, "_" + name)))

    async def _describe(self):
        if self.error:
            raise self.error
        return {"address": "127.0.0.1"}

    async def _poll(self, _seen, wait, _positions, _size, heard):
        await asyncio.sleep(min(wait, 0.01))
        if self.error:
            raise self.error
        self.polls, self.heard = self.polls + 1, heard
        notice = dict(self.notice) if self.notice else None
        return {
            "version": 1, "clock": float(self.polls), "runs": copy.deepcopy(self.runs), "notice": notice, "logs": {},
            "logEnds": {},
        }  # fmt: skip

    async def _forget(self, _group):
        if self.error or self.stubborn:
            raise self.error or Lost("it does not answer")

    async def _close(self):
        if self.error:
            raise self.error


class FakeRay(types.ModuleType):
    """As much of Ray as a reservation uses."""

    def __init__(self, actor):
        super().__init__("ray")
        self.actor, self.killed, self.alive = actor, [], ["node"]

    def remote(self, _class):
        made = types.SimpleNamespace(remote=lambda *_: self.actor)
        return types.SimpleNamespace(options=lambda **options: setattr(self, "options", options) or made)

    def kill(self, actor):
        self.killed.append(actor)

    def nodes(self):
        return [{"NodeID": node, "Alive": True} for node in self.alive]


class ReservationTest(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.actor = Actor()
        self.ray = FakeRay(self.actor)
        exceptions = types.ModuleType("ray.exceptions")
        exceptions.RayError, exceptions.ActorDiedError = Lost, Gone
        exceptions.ActorUnschedulableError = exceptions.RayActorError = Gone
        exceptions.RuntimeEnvSetupError = BadEnvironment
        strategies = types.ModuleType("ray.util.scheduling_strategies")
        strategies.NodeAffinitySchedulingStrategy = lambda node, soft: (node, soft)
        modules = {
            "ray": self.ray, "ray.exceptions": exceptions, "ray.util": types.ModuleType("ray.util"),
            "ray.util.scheduling_strategies": strategies, "rayconcile_agent.slot": types.SimpleNamespace(Slot=object),
        }
        enter(self, mock.patch.dict(sys.modules, modules))
        sys.modules.pop("rayconcile_agent.reservation", None)
        self.module = importlib.import_module("rayconcile_agent.reservation")
        self.addCleanup(sys.modules.pop, "rayconcile_agent.reservation", None)
        self.changes = 0

    def reserve(self):
        def changed():
            self.changes += 1

        spec = {"node": "node", "resources": {"cpu": 1, "gpu": 0, "memory": 0, "custom": {}}, "environment": {}}
        return self.module.Reservation("uid", "s0", spec, LEASE_S, None, None, changed)

    async def until(self, condition):
        for _ in range(1000):
            if condition():
                return
            await asyncio.sleep(0.005)
        self.fail("it never came to that")

    async def test_a_slot_is_opened_followed_and_closed(self):
        slot = self.reserve()
        self.assertTrue(await slot.opened())
        self.assertEqual(self.ray.options["name"], "slot-uid-s0")
        self.assertEqual(self.ray.options["scheduling_strategy"], ("node", False))
        self.assertIsNone(self.ray.options["memory"], "0 is no reservation")
        await self.until(lambda: self.actor.polls > 2)
        self.assertFalse(slot.surely_gone(set()))
        await slot.close()
        self.assertTrue(slot.state == "Closed" and slot.surely_gone(set()))
        self.assertEqual(self.ray.killed, [self.actor])

    async def test_a_slot_that_cannot_be_had_says_why(self):
        for error, failure in (
            (BadEnvironment("no such package"), "RuntimeEnvFailed"),
            (ValueError("bad"), "RuntimeEnvFailed"),
            (Gone("no room"), "SlotFailed"),
        ):
            self.actor.error = error
            slot = self.reserve()
            self.assertFalse(await slot.opened())
            self.assertEqual((slot.state, slot.failure, slot.message), ("Failed", failure, str(error)))
            self.assertTrue(slot.surely_gone(set()), "nothing ever ran in it")

    async def test_workers_of_a_lost_slot_are_gone_only_when_that_is_certain(self):
        slot = self.reserve()
        await slot.opened()
        self.actor.error = Gone("its node died")
        await self.until(lambda: slot.state == "Lost")
        self.ray.alive = []
        self.assertFalse(slot.surely_gone(set()), "nobody has seen its processes die")
        self.assertTrue(slot.surely_gone({"node"}), "the provider says that the node is dead")
        self.ray.alive = ["node"]
        self.assertTrue(slot.surely_gone(set()), "its node's raylet lives, and has confirmed the death")
        self.ray.alive = []
        slot.last_contact -= LEASE_S + self.module.LEASE_MARGIN_S
        self.assertTrue(slot.surely_gone(set()), "its lease is over, so it has ended itself")

    async def test_being_out_of_reach_for_a_while_is_not_death(self):
        self.module.POLL_S = 0.01
        slot = self.reserve()
        await slot.opened()
        self.actor.error = Lost("out of reach")
        await asyncio.sleep(0.05)
        self.assertEqual(slot.state, "Ready")
        self.actor.error = None
        polls = self.actor.polls
        await self.until(lambda: self.actor.polls > polls)
        self.actor.error = Lost("out of reach")
        await slot.close()
        self.assertEqual(slot.state, "Lost")
        self.assertFalse(slot.surely_gone(set()), "it may live on: it was killed, but nobody has seen it end")
        slot.last_contact -= LEASE_S + self.module.LEASE_MARGIN_S
        self.assertTrue(slot.surely_gone(set()))

    async def test_a_slot_is_told_which_report_was_heard_last(self):
        slot = self.reserve()
        await slot.opened()
        await self.until(lambda: self.actor.polls > 2)
        self.assertGreaterEqual(self.actor.heard, self.actor.polls - 1)

    async def test_the_head_shows_that_a_worker_is_heard_of_and_no_more_than_that(self):
        file = enter(self, tempfile.NamedTemporaryFile())
        enter(self, mock.patch.dict(os.environ, {"RAYCONCILE_BEAT": file.name}))
        enter(self, mock.patch("rayconcile_agent.beat.PERIOD_S", 0.0))
        slot = self.reserve()
        slot.spools = mock.Mock()
        await slot.opened()
        ages = {"lastStepAgoMs": None, "firstStepAgoMs": None, "activeAgoMs": None}
        run = {"group": 1, "rank": 0, "pid": 7, "exit": None, **ages}
        for runs, shown in (
            ([], False),
            ([{**run, "pid": None}], False),
            ([{**run, "exit": {"code": 0, "agoMs": 0}}], False),
            ([{**run, "exit": {"code": 0, "agoMs": 0}}, {**run, "group": 2}], True),
        ):
            self.actor.runs = runs
            polls = self.actor.polls + 1
            await self.until(lambda: self.actor.polls > polls)
            self.assertEqual(bool(file.read()), shown, runs)
        self.actor.error = Lost("out of reach")
        await asyncio.sleep(0.1)
        file.seek(0)
        last = file.read()
        await asyncio.sleep(0.1)
        file.seek(0)
        self.assertEqual(file.read(), last)

    async def test_a_node_is_left_at_once_only_if_it_goes_soon(self):
        slot = self.reserve()
        await slot.opened()
        for notice, soon in (
            ({"kind": "SpotInterruption", "action": "hibernate", "deadlineMs": None}, True),
            ({"kind": "SpotInterruption", "action": "terminate", "deadlineMs": 120_000.0}, True),
            ({"kind": "RebalanceRecommendation", "action": "rebalance", "deadlineMs": None}, False),
            ({"kind": "ScheduledMaintenance", "action": "system-reboot", "deadlineMs": 1e8}, False),
            ({"kind": "ScheduledMaintenance", "action": "system-reboot", "deadlineMs": 60_000.0}, True),
            (None, False),
        ):
            self.actor.notice = notice
            polls = self.actor.polls + 1
            await self.until(lambda: self.actor.polls > polls)
            self.assertEqual(slot.leaves_soon(), soon, notice)

    async def test_a_group_is_forgotten_or_the_slot_is_given_up(self):
        self.module.POLL_S = 0.01
        slot = self.reserve()
        await slot.opened()
        slot.runs[1] = {"rank": 0}
        self.actor.stubborn = True
        slot.spools = mock.Mock()
        slot.spools.of.return_value.source = 0
        asyncio.get_running_loop().call_later(0.02, setattr, self.actor, "stubborn", False)
        await slot.forget(1)
        self.assertEqual((slot.state, slot.runs), ("Ready", {}))
        self.actor.stubborn = True
        await slot.forget(2)
        self.assertEqual((slot.state, self.ray.killed), ("Lost", [self.actor]))
        self.assertFalse(slot.surely_gone(set()))


if __name__ == "__main__":
    unittest.main()

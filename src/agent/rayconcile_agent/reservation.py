"""The bridge's side of a slot: makes the actor, follows what it reports, and knows when it is gone for sure."""

import asyncio
import time

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnschedulableError,
    RayError,
    RuntimeEnvSetupError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from .beat import Beat
from .slot import Slot

POLL_S = 1.0
LOG_BYTES = 512 << 10
# How often a slot is asked to forget a group before it is given up, and its workers with it.
FORGET_TRIES = 5
# A machine that will be taken away within this time is left at once.
URGENT_S = 300.0
# Beyond the lease, for the slot's clock and its watch interval, before its workers are taken for dead.
LEASE_MARGIN_S = 2.0


def slot_name(job_uid, slot_id):
    """Slots are named so that a new bridge can find what an earlier one left."""
    return f"slot-{job_uid}-{slot_id}"


class Reservation:
    """One slot. `changed` is called whenever there is something new to be seen in it."""

    def __init__(self, job_uid, slot_id, spec, lease_s, metadata_endpoint, spools, changed):
        self.job_uid, self.slot_id, self.spec, self.lease_s = job_uid, slot_id, spec, lease_s
        self.metadata_endpoint = metadata_endpoint
        self.spools, self.changed = spools, changed
        self.state, self.message, self.info = "Pending", None, None
        self.failure = "SlotFailed"
        # Whether Ray has said by itself that it died. What we had killed Ray calls dead before it is.
        self.confirmed = False
        self.runs = {}
        # That its node will be taken away: the slot's report of it, and when it came.
        self.notice = None
        self.last_contact = time.monotonic()
        # The slot's own clock, in the newest report.
        self.clock = 0.0
        # Of the head, on which this runs: it is needed as long as there is a worker anywhere.
        self.beat = Beat()
        self.ready = asyncio.Event()
        self.actor = None
        self.task = asyncio.ensure_future(self._live())

    @property
    def node(self):
        return self.spec["node"]

    def run(self, group):
        return self.runs.get(group)

    async def opened(self):
        """Wait until the slot can be used; False if it cannot."""
        await self.ready.wait()
        return self.state == "Ready"

    async def forget(self, group):
        """Kill a group's worker, if it lives, and remove what it left on the node."""
        failure = None
        for _ in range(FORGET_TRIES):
            if self.state != "Ready":
                return  # The slot goes, and its workers with it.
            try:
                await self._drain_logs([group])
                await self.actor.forget.remote(group)
            except RayError as error:  # Out of reach for now, perhaps: until it is forgotten it may live.
                failure = error
                await asyncio.sleep(POLL_S)
                continue
            self.runs.pop(group, None)
            return
        self._lose("Lost", failure)

    async def _live(self):
        resources = self.spec["resources"]
        environment = self.spec["environment"]
        try:
            self.actor = (
                ray.remote(Slot)
                .options(
                    name=slot_name(self.job_uid, self.slot_id),
                    # It outlives its bridge for the lease, so that the next one finds what its workers have saved.
                    lifetime="detached",
                    num_cpus=resources["cpu"],
                    num_gpus=resources["gpu"],
                    memory=resources["memory"] or None,
                    resources=resources["custom"] or None,
                    runtime_env=environment,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(self.node, soft=False),
                    max_restarts=0,
                    max_concurrency=16,
                )
                .remote(
                    self.job_uid,
                    self.slot_id,
                    resources["cpu"],
                    "working_dir" in environment,
                    self.lease_s,
                    self.metadata_endpoint,
                )
            )
            self.info = await self.actor.describe.remote()
            self.state = "Ready"
        except Exception as error:  # Ray refuses some runtime environments with a plain ValueError.
            if isinstance(error, (RuntimeEnvSetupError, ValueError, TypeError)):
                self.failure = "RuntimeEnvFailed"
            self._lose("Failed", error)
        self.ready.set()
        self.changed()
        try:
            await self._follow()
        except Exception as error:  # Nobody would follow it any more, and nobody would know.
            self._lose("Lost", error)

    async def _follow(self):
        seen = -1
        while self.state == "Ready":
            try:
                report = await self._poll(seen, POLL_S)
            except (ActorDiedError, ActorUnschedulableError) as error:
                self.confirmed = self.state == "Ready"
                self._lose("Lost", error)
                return
            except RayError:
                await asyncio.sleep(POLL_S)  # Out of reach for now; Ray will say if it is dead.
                continue
            if report["version"] != seen:
                seen = report["version"]
                self.changed()

    async def _poll(self, seen, timeout_s):
        positions = {group: self.spools.of(group, run["rank"]).source for group, run in self.runs.items()}
        report = await self.actor.poll.remote(seen, timeout_s, positions, LOG_BYTES, self.clock)
        self.last_contact, self.clock = time.monotonic(), max(self.clock, report["clock"])
        self._absorb(report)
        return report

    def _absorb(self, report):
        now = time.monotonic()
        if notice := report["notice"]:
            left_ms = notice.pop("deadlineMs")
            self.notice = {**notice, "deadline": None if left_ms is None else now + left_ms / 1000}
        else:
            self.notice = None
        if any(run["pid"] and not run["exit"] for run in report["runs"]):
            self.beat.give()
        for run in report["runs"]:
            for key in ("lastStep", "firstStep", "active"):
                ago = run.pop(f"{key}AgoMs")
                run[f"{key}At"] = None if ago is None else now - ago / 1000
            if run["exit"]:
                run["exit"]["at"] = now - run["exit"].pop("agoMs") / 1000
            self.runs[run["group"]] = run
        for group, (position, chunk) in report["logs"].items():
            if chunk and group in self.runs:
                self.spools.of(group, self.runs[group]["rank"]).append(position, chunk)

    async def _drain_logs(self, groups):
        """Take in what the slot now has of these groups' output, before it forgets them."""
        ends = (await self._poll(-1, 0))["logEnds"]

        def missing():
            known = ((group, self.runs.get(group)) for group in groups)
            return any(run and self.spools.of(group, run["rank"]).source < ends.get(group, 0) for group, run in known)

        while missing():
            await self._poll(-1, 0)

    def _lose(self, state, error):
        self.state, self.message = state, str(error).strip()
        if self.actor is not None:
            ray.kill(self.actor)
        self.changed()

    def surely_gone(self, dead_nodes):
        """Whether no worker of this slot can be alive: it closed, its death is confirmed, or its lease is over.

        An actor's death is confirmed by its node's raylet; if the node itself is gone nobody has seen the
        processes die, unless the provider has.
        """
        if self.state in ("Closed", "Failed"):
            return True
        if self.state != "Lost":
            return False
        if self.node in dead_nodes or (self.confirmed and self.node in alive_nodes()):
            return True
        return time.monotonic() > self.last_contact + self.lease_s + LEASE_MARGIN_S

    def leaves_soon(self):
        """Whether its node will be taken away so soon that nothing should be on it any more."""
        if not self.notice:
            return False
        deadline = self.notice["deadline"]
        soon = deadline is not None and deadline < time.monotonic() + URGENT_S
        return soon or self.notice["kind"] == "SpotInterruption"

    async def close(self):
        """Give the reservation back. When this returns no worker of the slot lives, if that can be known."""
        if self.state == "Ready":
            try:
                await self._drain_logs(list(self.runs))
                await asyncio.wait_for(self.actor.close.remote(), self.lease_s)
                self.state = "Closed"
            except (RayError, asyncio.TimeoutError) as error:
                self._lose("Lost", error)
        elif self.state == "Pending":
            self.state = "Closed"
        self.ready.set()
        self.task.cancel()
        if self.actor is not None:
            ray.kill(self.actor)


def alive_nodes():
    """The ids of the nodes that Ray takes for alive."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}

"""One group of a job: the workers that train together, from their preparation to their end.

Phases only go forward: Reserving, Starting, Prepared, Running, Stopping, Ended. A group is all or nothing: when
one rank is lost the others are killed.
"""

import asyncio
import secrets
import time

from . import points
from .unavailable import Unavailable

SIGTERM_EXIT = 143


class Group:
    """`slots` are the reservations in rank order, made as `slot_specs` say, by id."""

    def __init__(self, spec, slot_specs, changed, alone=None):
        self.spec, self.slot_specs, self.changed = spec, slot_specs, changed
        # Why the bridge began it without being told, if it did.
        self.alone = alone
        self.number = spec["number"]
        self.slots = []
        self.phase = "Reserving"
        self.outcome = None
        self.started = False
        self.stop_asked = False
        self.times = {"created": time.monotonic()}
        self.restored = None
        self.packed = self.save_fails = 0
        self.save_asked_at = 0.0
        self.final_runs = None
        self.unforked = None

    def mark(self, event):
        self.times[event] = time.monotonic()
        self.changed()
        points.reached(event)

    # --- What is known of its workers ------------------------------------------------------------------------

    def runs(self):
        """The last report of each rank, or None where there is none."""
        return self.final_runs or [slot.run(self.number) for slot in self.slots]

    def rank0(self):
        return next(iter(self.runs()), None)

    def arrived(self):
        """Whether every worker waits where AdaptDL has it wait."""
        runs = self.runs()
        return bool(runs) and all(run and run["arrived"] for run in runs)

    def holds(self):
        """Of each worker, whether it has come as far as it can before its release."""
        return [bool(run and run["held"]) for run in self.runs()]

    def exits(self):
        """The ranks' exits; a rank whose slot is gone has no run to tell of it."""
        return [run and run["exit"] for run in self.runs()]

    def waits_as(self, before):
        """Whether its workers are taken to wait for their release beside the group before, if there is one.

        Scripts are held by the bootstrap. Another program may begin at once: of it this is known only from the running
        group, when all its workers have waited and this one's are to do the same.
        """
        if not self.spec["program"].get("command"):
            return True
        return before is not None and before.have_waited() and before.runs_the_same(self)

    def have_waited(self):
        """Whether each of its workers is known to have asked for its release before it trained."""
        return bool(self.slots) and all(self.holds())

    def runs_the_same(self, other):
        """Whether another group's workers do what this one's do, as far as can be told."""
        mine, others = ([group.spec[key] for key in ("program", "env", "sharePath")] for group in (self, other))
        environments = [slot["environment"] for group in (self, other) for slot in group.slot_specs.values()]
        return mine == others and all(environment == environments[0] for environment in environments)

    def trains_unreleased(self):
        """Whether a worker may have begun to train when it was started: another program's that was not seen to wait."""
        return self.started and bool(self.spec["program"].get("command")) and not self.have_waited()

    def uses_gpus(self):
        return any(spec["resources"]["gpu"] for spec in self.slot_specs.values())

    def lost_slots(self):
        return [slot for slot in self.slots if slot.state in ("Lost", "Failed")]

    def over(self, dead_nodes):
        """Whether no worker of this group can be alive."""
        return all(
            slot.surely_gone(dead_nodes) or bool((run := slot.run(self.number)) and run["exit"])
            for slot in self.slots
        )

    def cannot_train(self, dead_nodes):
        """Whether no worker of this group can make another step: each has ended, or has saved and leaves.

        A worker on a GPU must have ended: until then the next one has no memory there.
        """
        if self.uses_gpus():
            return self.over(dead_nodes)
        return all(
            slot.surely_gone(dead_nodes) or bool((run := slot.run(self.number)) and (run["exit"] or run["leaving"]))
            for slot in self.slots
        )

    def begins(self, seconds):
        """Whether it was released less than so many seconds ago, and has made no step yet."""
        run = self.rank0()
        released = self.times.get("released")
        return bool(released and run and not run["steps"]) and time.monotonic() < released + seconds

    def still_since(self):
        """When it last got on, or None if it has not begun to train or is not training."""
        times = [run["activeAt"] for run in self.runs() if run and run["activeAt"]]
        return max(times) if times and self.phase == "Running" else None

    def ending(self):
        """Whether the group cannot go on: the master has ended, another rank failed, or a slot is gone."""
        exits = self.exits()
        return bool(self.lost_slots()) or any(
            exit and (rank == 0 or exit["code"] != 0) for rank, exit in enumerate(exits)
        )

    def finished(self):
        """Whether the master has ended as a program does whose work is done.

        One that was asked to leave may end like that too; only of AdaptDL's it is known that they then do not.
        """
        run = self.rank0()
        done = bool(run and run["exit"] and run["exit"]["code"] == 0)
        return done and (run["joined"] or "signalled" not in self.times)

    def leaving(self):
        """Whether somebody else has told the workers to end: all that have ended did as AdaptDL's then do."""
        exits = [exit for exit in self.exits() if exit]
        return bool(exits) and not self.lost_slots() and all(exit["code"] == SIGTERM_EXIT for exit in exits)

    # --- Its life --------------------------------------------------------------------------------------------

    async def start(self, job, shared_path, slots):
        """Start a worker in each slot; return why not if a node lacks the memory for it.

        The nodes may share `shared_path`; `slots` are the ids of all that the job has.
        """
        port = await self.slots[0].actor.free_port.remote()
        program = self.spec["program"]
        common = {
            "group": self.number,
            "job": f"{job['namespace']}/{job['name']}",
            "replicas": len(self.slots),
            "nodes": len({slot.node for slot in self.slots}),
            "masterPort": port,
            "entrypoint": program.get("entrypoint"),
            "command": program.get("command"),
            "args": program["args"],
            "env": {variable["name"]: variable["value"] for variable in self.spec["env"]},
            "sharePath": self.spec["sharePath"],
            "sharedPaths": [shared_path, self.spec["sharePath"]],
            "slots": slots,
            "fork": self.spec["fork"],
            # With it the ranks know each other, where a program makes use of it.
            "groupSecret": secrets.token_hex(32),
        }
        calls = [slot.actor.start.remote({**common, "rank": rank}) for rank, slot in enumerate(self.slots)]
        answers = await asyncio.gather(*calls)
        refusals = [answer["refusal"] for answer in answers if answer["refusal"]]
        if refusals:
            await self.forget()
            return refusals[0]
        self.unforked = next((answer["unforked"] for answer in answers if answer["unforked"]), None)
        self.started = True
        self.phase = "Starting"
        self.mark("started")
        return None

    def addresses(self):
        return [slot.info["address"] for slot in self.slots]

    async def meet(self):
        """Let the workers meet, as far as they are sure to wait for their release afterwards."""
        await asyncio.gather(*(slot.actor.meet.remote(self.number, self.addresses()) for slot in self.slots))

    async def release(self):
        """Let the workers go on, the master first: the others would have to wait for its port."""
        for slot in self.slots:
            await slot.actor.release.remote(self.number, self.addresses())
            points.reached("releasing")
        self.phase = "Running"
        self.mark("released")

    async def signal(self, name):
        calls = (slot.actor.signal.remote(self.number, name) for slot in self.slots if slot.state == "Ready")
        await asyncio.gather(*calls, return_exceptions=True)

    async def forget(self):
        """Kill what lives of it and remove what it left on its nodes."""
        await asyncio.gather(*(slot.forget(self.number) for slot in self.slots))

    def alive(self):
        """The ranks whose workers are not known to have ended."""
        return {rank for rank, exit in enumerate(self.exits()) if not exit}

    def at_work(self):
        """Those of them that are not known to leave either."""
        return {rank for rank in self.alive() if not ((run := self.runs()[rank]) and run["leaving"])}

    def end(self, kind, **details):
        self.final_runs = self.runs()
        self.phase = "Ended"
        self.outcome = {"kind": kind, **details}
        self.mark("ended")

    def judge(self, killed_by_us):
        """Why the group ended, from the ranks' exits.

        `killed_by_us` are the ranks that still lived when we killed the rest: their exits say nothing.
        """
        if self.finished():
            return {"kind": "Succeeded"}
        for slot in self.lost_slots():
            return {"kind": "Lost", "node": slot.node, "message": slot.message}
        own = {rank: exit for rank, exit in enumerate(self.exits()) if exit and rank not in killed_by_us}
        for rank, exit in own.items():
            # Nobody's program sends itself SIGKILL: the kernel did, or a person.
            if exit["signal"] == "SIGKILL":
                return {"kind": "Killed", "rank": rank, "message": f"rank {rank} was killed (SIGKILL)"}
        if own and all(exit["code"] == SIGTERM_EXIT or exit["signal"] == "SIGTERM" for exit in own.values()):
            return {"kind": "Terminated", "message": "the workers were sent SIGTERM by somebody else"}
        # The first to fail is the cause; its peers fail because of it.
        rank = min((rank for rank in own if own[rank]["code"] != 0), key=lambda rank: own[rank]["at"])
        return {"kind": "Failed", "rank": rank, **own[rank]}

    def death(self):
        """What to say of a group that was to take over and has lost a worker."""
        outcome = self.judge(killed_by_us=self.alive())
        return Unavailable(outcome.pop("kind"), outcome)


def ended(exit):
    """How a rank ended, in words."""
    if not exit:
        return "lost"
    return f"exit {exit['code']}" if exit["code"] is not None else exit["signal"]

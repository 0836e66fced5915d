"""The bridge: a detached actor on the head that runs the groups of one job on the controller's behalf.

It is level-triggered, as a kubelet is. The controller gives it a document: which group should run, in which
slots, and whether it may be switched to. The bridge makes it so and reports what is. Repeating a document
changes nothing; an older one is refused; group numbers never go back. It decides no allocation. A switch, once
begun, is finished here alone, so that no slow link and no dead controller leaves a job between two groups. While
the controller is away it keeps the job going on the slots that are left (`alone.py`).

At most one group trains: another is released only when no worker of the one before can make another step.
"""

import asyncio
import os
import shutil
import time
import uuid

import ray
from ray.exceptions import RayError

from .alone import Alone
from .group import Group, ended
from .heirloom import Heirloom
from .logs import Spools
from .report import describe
from .reservation import LEASE_MARGIN_S, Reservation
from .saves import Saves
from .store import BlobStore
from .unavailable import Unavailable

# How long a group that is prepared beside a running one may take to come where AdaptDL has it wait.
PREPARE_S = 300.0
# After a rank has ended, how long to wait for the others, so that the first cause is known.
SETTLE_S = 2.0
# After rank 0 has finished or saved, how long the others may take to leave.
LEAVE_S = 30.0
# How long the workers of a prepared group may come later than the first to where they are held.
HOLD_S = 10.0
# How long nothing is copied or tidied up for the sake of a group's first step.
BEGIN_S = 10.0
# While a bridge shuts down, how often it looks whether all its slots have ended.
SHUT_DOWN_WATCH_S = 0.2
KEEP_GROUPS = 20
KEEP_NOTES = 50


class Bridge:
    """The actor. The agent calls its public methods; everything else happens in `_drive`."""

    def __init__(self, job, directory, lease_s, inherits):
        self.job, self.directory, self.lease_s = job, directory, lease_s
        # Whatever an earlier bridge left that was never removed may still train, until its lease is over.
        self.inherited_s = lease_s + LEASE_MARGIN_S if inherits else 0.0
        self.heirloom = Heirloom(job["uid"], directory)
        self.alone = Alone(self)
        self.incarnation = uuid.uuid4().hex
        self.document = None
        self.slots, self.groups = {}, {}
        self.current = self.next = self.preparation = None
        # Groups that have saved and leave, and what sees each of them out; whether something waits for these.
        self.leaving, self.awaited = {}, False
        self.phase = "Fencing"
        self.store = BlobStore(os.path.join(directory, "blobs"))
        self.spools = Spools(os.path.join(directory, "logs"))
        self.saves = Saves(self)
        self.notes, self.noted = [], 0
        self.version, self.news = 0, asyncio.Event()
        self.driver = None

    # --- Called by the agent ---------------------------------------------------------------------------------

    async def apply(self, document):
        """Take a document, unless it is older than the one in force; say which revision is in force then."""
        target = document["desired"].get("group", {}).get("number")
        newest = max(self.groups, default=-1)
        if self.document is None or document["revision"] > self.document["revision"]:
            known = self.groups.get(target)
            # One of that number that was begun here alone is another group, even if the controller chose it too.
            same = known and known.spec["ranks"] == document["desired"]["group"]["ranks"]
            if target is None or same or (known is None and target > newest):
                self.document = document
                self._tell()
        if self.driver is None:
            self.driver = asyncio.ensure_future(self._drive())
        return self.document and self.document["revision"]

    async def watch(self, seen, timeout_s, controller_ago_s):
        """Wait for news, and report. The agent also tells how long ago it heard the controller."""
        self.alone.note_controller(controller_ago_s)
        await self._until(lambda: self.version > seen, timeout_s)
        return describe(self)

    async def read_log(self, group, rank, offset, size):
        """`(position, bytes)` of a worker's output from `offset` on."""
        return self.spools.read(group, rank, offset, size)

    async def add_blob(self, description):
        """Count a blob that the agent has put into the store's directory."""
        self.store.add(description)
        self._tell()

    async def shut_down(self):
        """Kill every worker, give everything back, and leave nothing on any node."""
        if self.driver:
            self.driver.cancel()
        if self.preparation:
            self.preparation.cancel()
        for task in self.leaving.values():
            task.cancel()
        await asyncio.gather(*(slot.close() for slot in self.slots.values()))
        # What cannot be reached ends with its lease. Until then no other bridge may take this one's place.
        while not all(slot.surely_gone(set()) for slot in self.slots.values()):
            await asyncio.sleep(SHUT_DOWN_WATCH_S)
        shutil.rmtree(self.directory, ignore_errors=True)

    # --- Driving ---------------------------------------------------------------------------------------------

    def _tell(self):
        self.version += 1
        event, self.news = self.news, asyncio.Event()
        event.set()

    async def _until(self, condition, seconds):
        """Wait for a condition, which is looked at again at every piece of news and every second."""
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            try:
                await asyncio.wait_for(self.news.wait(), min(left, 1.0))
            except asyncio.TimeoutError:
                pass
        return True

    def _note(self, kind, reason, message):
        """Record an event for the user: `kind` is Normal or Warning."""
        self.noted += 1
        note = {"number": self.noted, "type": kind, "reason": reason, "message": message, "at": time.monotonic()}
        self.notes = [*self.notes, note][-KEEP_NOTES:]
        self._tell()

    async def _drive(self):
        while True:
            before = self.version
            try:
                if self.phase == "Fencing":
                    await self._fence()
                    self.phase = "Active"
                await self._step()
            except Exception as error:  # Whatever it was, the job must not be left without anybody who drives.
                self._note("Warning", "BridgeError", f"{type(error).__name__}: {error}")
                await asyncio.sleep(1.0)
            await self._until(lambda: self.version > before, 1.0)

    async def _fence(self):
        """Take over what an earlier bridge of this job left: have it save, bring that to the head, and end it."""
        timeout_s = self.document["checkpoint"]["timeoutMs"] / 1000
        unsure = await self.heirloom.collect(timeout_s, set(self.document["fencedNodes"]), self.saves.inherit)
        # Those that could not be reached end with their lease. If the controller saw the earlier bridge die it
        # knows how much of that is left.
        if unsure or (self.inherited_s and not self.heirloom.known):
            await asyncio.sleep(max(self.document["fenceMs"] / 1000, self.inherited_s))

    async def _step(self):
        """Bring what is nearer to what is wanted. Long steps are waited for: a switch is never left half done."""
        if self.current and self.current.ending():
            await self._conclude(self.current)
        elif self.current and self._is_hung(self.current):
            await self._end_hung(self.current)
        desired = self.document["desired"]
        if desired["kind"] == "Stop":
            await self._stop(desired["graceMs"] / 1000)
        else:
            self.phase = "Active"
            await self._run(desired)
            await self.alone.step(desired)
        self.saves.save_sometimes()
        self._trim()

    async def _run(self, desired):
        number = desired["group"]["number"]
        if self.next and self.next.number != number and not self.next.alone:
            await self._abandon_next()
        if self.current and self.current.number == number:
            return
        if number not in self.groups:
            await self._abandon_next()
            self._begin(Group(desired["group"], self.document["slots"], self._tell))
        group = self.next
        if group and group.phase == "Prepared" and group.ending() and not group.finished():
            # It was ready once: nobody is stopped for workers that are gone.
            await self._give_up(group, group.death())
        elif group and group.phase == "Prepared" and (desired["activate"] or group.alone):
            await self._switch(group)

    def _begin(self, group):
        self.next = self.groups[group.number] = group
        self.preparation = asyncio.ensure_future(self._prepare(group))

    async def _stop(self, grace_s):
        await self._abandon_next()
        if self.current:
            await self._halt(self.current, grace_s)
        await self._wait_for_leaving()
        await self._close_slots(keep=set())
        if self.phase != "Idle":
            self.phase = "Idle"
            self._tell()

    # --- Preparing and switching -----------------------------------------------------------------------------

    async def _prepare(self, group):
        """Get a group ready beside the one that runs, as far as its `prepare` says and memory allows."""
        try:
            if group.spec["prepare"] == "Nothing" and self.current:
                await self._probe(group.slot_specs)
            else:
                await self._reserve(group)
                # A program that has not come where AdaptDL has it wait may never do: it must not train beside itself.
                overlaps = not self.current or (group.spec["prepare"] == "Full" and self.current.arrived())
                if overlaps and group.waits_as(self.current):
                    await self._start_beside(group)
            group.phase = "Prepared"
            group.mark("prepared")
        except Unavailable as error:
            await self._give_up(group, error)
        except Exception as error:  # Nobody waits for this task: what is not said here is never known.
            await self._give_up(group, Unavailable("Lost", str(error)))

    async def _reserve(self, group):
        for slot_id in group.spec["ranks"]:
            if slot_id not in self.slots:
                self.heirloom.note(slot_id, group.slot_specs[slot_id]["node"])
                self.slots[slot_id] = self._reservation(slot_id, group.slot_specs[slot_id])
        group.slots = [self.slots[slot_id] for slot_id in group.spec["ranks"]]
        await asyncio.gather(*(slot.opened() for slot in group.slots))
        for slot in group.slots:
            if slot.state != "Ready":
                raise Unavailable(slot.failure, f"slot on node {slot.node}: {slot.message}")

    def _reservation(self, slot_id, spec):
        endpoint = self.document["metadataEndpoint"]
        return Reservation(self.job["uid"], slot_id, spec, self.lease_s, endpoint, self.spools, self._tell)

    async def _probe(self, slot_specs):
        """Build the new slots' runtime environment before the running group is stopped for them."""
        for spec in slot_specs.values():
            bare = {**spec, "resources": {"cpu": 0, "gpu": 0, "memory": 0, "custom": {}}}
            probe = self._reservation(f"probe-{uuid.uuid4().hex}", bare)
            try:
                opened = await probe.opened()
            finally:
                await probe.close()
            if not opened:
                raise Unavailable(probe.failure, f"probe on node {probe.node}: {probe.message}")

    async def _start_beside(self, group):
        """Start a group's workers; beside a running group, wait until all have come as far as they can.

        They have then met and have their data ready: what they still do while the job stands still is to load the
        checkpoint, and a first step.
        """
        if refusal := await self._start(group):
            self._note("Normal", "NoOverlap", f"group {group.number} starts when the running one is gone: {refusal}")
            return

        def decided():
            return not self.current or group.arrived() or group.ending()

        in_time = await self._until(decided, PREPARE_S)
        if group.ending() and not group.finished():
            await self._until(lambda: not group.alive(), SETTLE_S)
            raise group.death()
        if self.current and (group.finished() or not in_time):
            # A program that does not come cannot be held: it must not run beside the one before.
            await group.forget()
            group.started = False
            self._note(
                "Warning",
                "NoOverlap",
                f"the workers of group {group.number} did not come to where AdaptDL lets them wait; "
                "they start again when the running group has stopped",
            )
        elif self.current:
            await group.meet()
            # A node that is about to go is not kept waiting for more than workers that can take over.
            stop = lambda: self._is_hurried() or group.ending()
            await self._until(lambda: any(group.holds()) or stop(), PREPARE_S)
            # What holds one of them may keep the others from getting there: a step that all have to make together.
            await self._until(lambda: all(group.holds()) or stop(), HOLD_S)

    def _is_hurried(self):
        """Whether the running group, if there is one, must soon leave a node."""
        return not self.current or any(slot.notice for slot in self.current.slots)

    async def _start(self, group):
        """Start a group's workers; say why not, if a node lacks the memory for it."""
        refusal = await group.start(self.job, self.document["checkpoint"]["path"], sorted(self.slots))
        if group.unforked:
            message = f"the workers of group {group.number} start afresh, which takes longer: {group.unforked}"
            self._note("Normal", "NotForked", message)
        return refusal

    async def _switch(self, group):
        """From the running group, if any, to a prepared one. Nothing interrupts this."""
        old = self.current
        if old:
            await self._halt(old, self.document["checkpoint"]["timeoutMs"] / 1000)
            if old.outcome["kind"] == "Succeeded":
                await self._abandon_next()
                return
        try:
            if not group.slots:
                await self._wait_for_leaving()
                await self._close_slots(keep=set(group.spec["ranks"]))
                await self._reserve(group)
            if not group.started and (refusal := await self._start(group)):
                raise Unavailable("Lost", refusal)
            # What has been seen out already has nothing left to hand over but what is at the head.
            if not (old and old.number in self.leaving and await self.saves.hand_over(old, group)):
                await self._wait_for_leaving()
                await self.saves.restore(group)
        except (Unavailable, RayError, OSError) as error:
            if not (group.lost_slots() and group.trains_unreleased()):
                refused = isinstance(error, Unavailable)
                return await self._give_up(group, error if refused else Unavailable("Lost", str(error)))
            # It trains without having been released, maybe where it cannot be reached: it is seen out as others are.
        # From here on its workers may train, even if nobody hears that they do.
        self.current, self.next = group, None
        try:
            await group.release()
        except RayError as error:
            await self._kill_rest(group)
            await self._bury(group, {"kind": "Lost", "message": str(error)})
        self._tell()

    async def _give_up(self, group, error):
        """End a group that never trained."""
        self.next = None
        await group.forget()
        detail = error.args[0]
        group.end(error.kind, **(detail if isinstance(detail, dict) else {"message": detail}))

    async def _abandon_next(self):
        group, self.next = self.next, None
        if self.preparation:
            self.preparation.cancel()
            await asyncio.wait([self.preparation])
            self.preparation = None
        if group and group.phase != "Ended":
            await group.forget()
            group.end("Superseded")

    # --- Ending ----------------------------------------------------------------------------------------------

    async def _halt(self, group, grace_s):
        """Have a group save and leave. When this returns it cannot train any more; it is seen out beside."""
        group.phase = "Stopping"
        group.mark("signalled")
        await group.signal("SIGTERM")

        def done():
            return group.cannot_train(self._dead_nodes())

        await self._until(lambda: done() or 0 not in group.at_work(), grace_s)
        if 0 not in group.at_work():
            await self._until(done, min(LEAVE_S, grace_s))
        if not done():
            await self._kill_rest(group)
        run = group.rank0()
        saved = bool(run and run["savePath"] and run["saves"] > group.packed and group.slots[0].state == "Ready")
        group.mark("saved")
        if not saved and not group.finished():
            exits = ", ".join(f"rank {rank}: {ended(exit)}" for rank, exit in enumerate(group.exits()))
            self._note("Warning", "NotSaved", f"group {group.number} saved no checkpoint when it was stopped ({exits})")
        if group.finished():
            return await self._bury(group, {"kind": "Succeeded"})
        self.current = None
        group.end("Stopped", saved=saved)
        self.leaving[group.number] = asyncio.ensure_future(self._see_out(group))

    async def _see_out(self, group):
        """Bring what a group has saved to the head, and remove the group when its processes have ended.

        Not while the next one loads and makes its first step, which this would slow down: it has the checkpoint.
        """
        def has_time():
            taking_over = self.next or (self.current and self.current.begins(BEGIN_S))
            return not taking_over or self.awaited or any(slot.notice for slot in group.slots)

        try:
            await self._until(has_time, BEGIN_S)
            await self.saves.take_checkpoint(group)
            await self._until(lambda: self._over(group), LEAVE_S)
            await self._kill_rest(group)
            await group.forget()
        except Exception as error:  # Nobody waits for this task: what is not said here is never known.
            self._note("Warning", "BridgeError", f"group {group.number}: {type(error).__name__}: {error}")
        self.leaving.pop(group.number, None)
        self._tell()

    async def _wait_for_leaving(self):
        if self.leaving:
            self.awaited = True
            self._tell()
            await asyncio.wait(list(self.leaving.values()))
            self.awaited = False

    def _is_hung(self, group):
        limit_s = self.document["progressDeadlineMs"] / 1000
        since = group.still_since()
        return bool(limit_s and since and time.monotonic() > since + limit_s)

    async def _end_hung(self, group):
        """End a group that has not got on for too long. Who stopped a worker is not the program; else it is."""
        runs = group.runs()
        behind = min(run["steps"] for run in runs if run)
        ranks = ", ".join(f"rank {run['rank']}" for run in runs if run and (run["stopped"] or run["steps"] == behind))
        message = f"no step for {self.document['progressDeadlineMs'] / 1000:g} s; behind: {ranks}"
        stopped = any(run and run["stopped"] for run in runs)
        await self._kill_rest(group)
        if stopped:
            await self._bury(group, {"kind": "Hung", "message": f"{message}, which was stopped by a signal"})
        else:
            await self._bury(group, {"kind": "Failed", "rank": 0, "code": None, "signal": None, "tail": message})

    async def _conclude(self, group):
        """See a group out that ended by itself or lost a worker."""
        if group.leaving():
            # The others leave at once; rank 0 may still be saving.
            timeout_s = self.document["checkpoint"]["timeoutMs"] / 1000
            await self._until(lambda: 0 not in group.alive() or not group.leaving(), timeout_s)
        # Of a failure the first cause is looked for; of a loss it is known.
        if not group.lost_slots() and not any(exit and exit["signal"] == "SIGKILL" for exit in group.exits()):
            await self._until(lambda: self._over(group), LEAVE_S if group.finished() else SETTLE_S)
        killed = group.alive()
        await self._kill_rest(group)
        await self._bury(group, group.judge(killed))

    async def _kill_rest(self, group):
        while not self._over(group):
            await group.signal("SIGKILL")
            await self._until(lambda: self._over(group), 1.0)

    async def _bury(self, group, outcome):
        """Keep what a group left behind, then remove it from its nodes."""
        # It may be the last to have what the one before has saved.
        for saved in (*(self.groups[number] for number in self.leaving), group):
            await self.saves.take_checkpoint(saved)
        if outcome["kind"] == "Succeeded":
            await self.saves.take_artifacts(group)
        self.current = None
        group.end(outcome.pop("kind"), **outcome)
        await group.forget()

    def _over(self, group):
        return group.over(self._dead_nodes())

    def _dead_nodes(self):
        return set(self.document["fencedNodes"])

    async def _close_slots(self, keep):
        leaving = [self.slots.pop(slot_id) for slot_id in list(self.slots) if slot_id not in keep]
        await asyncio.gather(*(self._close(slot) for slot in leaving))

    async def _close(self, slot):
        await slot.close()
        if slot.state == "Closed":
            self.heirloom.drop(slot.slot_id)

    def _trim(self):
        """Give back the slots that nobody wants, and forget old history, when there is time for it."""
        if self.current and self.current.begins(BEGIN_S):
            return
        leaving = [self.groups[number] for number in self.leaving]
        held = [group for group in (self.current, self.next, *leaving) if group]
        wanted = {slot.slot_id for group in held for slot in group.slots}
        if self.current is None or self.next is not None:
            wanted |= set(self.document.get("slots", ()))
        leaving = [self.slots.pop(slot_id) for slot_id in list(self.slots) if slot_id not in wanted]
        for slot in leaving:
            asyncio.ensure_future(self._close(slot))
        kept = {*sorted(self.groups)[-KEEP_GROUPS:], *(group.number for group in held)}
        for number in self.groups.keys() - kept:
            del self.groups[number]
        self.spools.keep(kept)
        self.store.prune(max(2, self.document["checkpoint"]["keep"]))

"""What a bridge does by itself while the controller is away: it keeps the job going on the slots that are left.

A worker or a node that is lost, or a notice that a node will be taken away, ends a group. Then the last wanted group
is begun again, under the next number, from the newest checkpoint. Where to run more is not for a bridge to decide,
nor what becomes of a program that fails: that waits for the controller, which adopts what it finds.
"""

import time

from .group import Group

# After this long without a word from the controller it is taken to be away. It asks at least every ten seconds.
AWAY_S = 15.0
# What a group may have ended of to be begun again here, and what its successor is reported as.
REASONS = {"Killed": "WorkerKilled", "Terminated": "WorkerKilled", "Hung": "WorkerKilled", "Lost": "NodeLost"}
LONGEST_WAIT_S = 60.0
# How many groups are begun after the one that was told. If nobody ever hears of them, the controller leaves out as many
# numbers (`api/document.rs`).
MOST_ALONE = 100


class Alone:
    """A bridge's own judgement."""

    def __init__(self, bridge):
        self.bridge = bridge
        self.heard = time.monotonic()
        self.tries = 0

    def note_controller(self, ago_s):
        self.heard = max(self.heard, time.monotonic() - ago_s)

    def away(self):
        return time.monotonic() > self.heard + AWAY_S

    async def step(self, desired):
        """Do what the controller would, if it is away and there is anything to be done."""
        bridge = self.bridge
        if bridge.next or not self.away():
            return
        if group := bridge.current:
            if any(slot.leaves_soon() for slot in group.slots):
                await bridge._halt(group, bridge.document["checkpoint"]["timeoutMs"] / 1000)
            return
        last = bridge.groups[max(bridge.groups)] if bridge.groups else None
        if last and last.number >= desired["group"]["number"] + MOST_ALONE:
            return
        reason = last and self._reason(last)
        slots = self._slots_left(desired["group"]["ranks"])
        if reason and len(slots) >= max(1, bridge.document["minReplicas"]) and self._rested(last):
            spec = {**desired["group"], "number": last.number + 1, "ranks": slots, "prepare": "Full"}
            kept = {slot_id: bridge.slots[slot_id].spec for slot_id in slots}
            message = f"the controller is away: group {last.number + 1} begins with what is left"
            bridge._note("Warning", "GoesOnAlone", message)
            bridge._begin(Group(spec, kept, bridge._tell, alone=reason))

    def _reason(self, last):
        if not last.outcome:
            return None
        if last.outcome["kind"] == "Stopped" and any(slot.leaves_soon() for slot in last.slots):
            return "Notice"
        return REASONS.get(last.outcome["kind"])

    def _slots_left(self, wanted):
        """The slots that are there and stay, those of the wanted ranks in their order."""
        slots = self.bridge.slots
        usable = [id for id in slots if slots[id].state == "Ready" and not slots[id].leaves_soon()]
        return [id for id in wanted if id in usable]

    def _rested(self, last):
        """Whether it may be tried now: at once after a group that trained, else with more and more patience."""
        if last.runs() and any(run and run["steps"] for run in last.runs()):
            self.tries = 0
            return True
        wait_s = min(LONGEST_WAIT_S, 2.0**self.tries)
        if time.monotonic() < last.times["ended"] + wait_s:
            return False
        self.tries += 1
        return True

"""A job's checkpoints and artifacts, as its bridge has them made, handed over and brought to the head."""

import asyncio
import contextlib
import time

from ray.exceptions import RayError

from . import transfer
from .store import ARTIFACTS, CHECKPOINT
from .unavailable import Unavailable

# A blob that does not arrive is asked for again after each of these, before it is taken for lost.
TAKE_PAUSES_S = (1.0, 2.0, 4.0, 0.0)


class Saves:
    """What a bridge does about them. `saving` is the newest wish of a person, and what came of it."""

    def __init__(self, bridge):
        self.bridge = bridge
        self.packing = asyncio.Lock()
        self.saving = None

    async def hand_over(self, old, group):
        """Give the new ranks what the old ones have just saved, straight from the old rank 0; False if that fails."""
        bridge = self.bridge
        run, source = old.rank0(), old.slots[0]
        if not (old.outcome.get("saved") and run["savePath"] and source.state == "Ready"):
            return False
        try:
            linked = await asyncio.gather(
                *(slot.actor.link.remote(group.number, run["savePath"]) for slot in group.slots)
            )
            others = [transfer.SlotSink(slot, group.number) for slot, done in zip(group.slots, linked) if not done]
            if others:
                stream = await source.actor.open_checkpoint.remote(old.number, run["saves"])
                if not stream or not await transfer.carry(source, stream, others):
                    raise OSError("what arrived does not match its digest")
        except (RayError, OSError) as error:
            # By way of the head it may still come.
            bridge._note("Warning", "HandOverFailed", f"group {old.number}: {error}")
            return False
        group.restored = {"group": old.number, "number": run["saves"]}
        group.mark("handedOver")
        return True

    async def restore(self, group):
        """Give every rank the newest good checkpoint, but none older than one that the controller has."""
        bridge = self.bridge
        least = group.spec["restore"]
        for blob in bridge.store.newest_first():
            if least and (blob["group"], blob["number"]) < (least["group"], least["number"]):
                break
            sinks = [transfer.SlotSink(slot, group.number) for slot in group.slots]
            if await transfer.send_file(bridge.store.path(blob["digest"]), blob["digest"], sinks):
                group.restored = {key: blob[key] for key in ("group", "number")}
                group.mark("handedOver")
                return
            bridge.store.remove(blob)
            bridge._note(
                "Warning",
                "CheckpointUnreadable",
                f"the checkpoint of group {blob['group']} does not match its digest; the one before is used",
            )
        if least:
            raise Unavailable("NoCheckpoint", "none of the newest checkpoints that are left on the cluster is good")

    async def inherit(self, slot, save):
        """Bring a save that an earlier bridge's slot has to the head, if it is newer than what is there."""
        bridge = self.bridge
        if (save["group"], save["number"]) > (bridge.store.newest() or (-1, -1)):
            opened = await slot.actor.open_checkpoint.remote(save["group"], save["number"])
            if opened and (what := await transfer.carry(slot, opened, [transfer.HeadSink(bridge.store.directory)])):
                extra = {key: save[key] for key in ("group", "number", "steps", "saveMs")}
                bridge.store.add({"kind": CHECKPOINT, **what, **extra, "at": time.monotonic()})
                bridge._note("Normal", "CheckpointInherited", f"what group {save['group']} had saved is brought to the head")

    def save_sometimes(self):
        """Have the running group save when its interval is over or somebody wants it, and take in what it saved."""
        bridge = self.bridge
        group = bridge.current
        run = group and group.rank0()
        if run and run["saveFails"] > group.save_fails:
            group.save_fails = run["saveFails"]
            message = f"group {group.number} could not save, for a disk of its node {group.slots[0].node} is full"
            bridge._note("Warning", "NotSaved", f"{message}; training goes on")
        if not run or self.packing.locked():
            return
        if run["saves"] > group.packed:
            asyncio.ensure_future(self.take_checkpoint(group))
        interval_s = bridge.document["checkpoint"]["intervalMs"] / 1000
        since = max(group.save_asked_at, group.times["released"])
        due = interval_s and time.monotonic() > since + interval_s
        wish = bridge.document["saveRequest"]
        wished = wish is not None and (self.saving is None or self.saving["id"] != wish)
        if run["firstStepAt"] and (due or wished):
            group.save_asked_at = time.monotonic()
            if wished:
                self.saving = {"id": wish, "after": (group.number, run["saves"]), "checkpoint": None}
            group.slots[0].actor.ask_save.remote(group.number)

    async def take_checkpoint(self, group):
        """Bring the newest save of a group to the head, from whoever has it."""
        bridge = self.bridge
        async with self.packing:
            run, slot = group.rank0(), group.slots[0]
            if not run or run["saves"] <= group.packed:
                return
            number, group.packed = run["saves"], run["saves"]
            extra = {"number": number, "steps": run["saveSteps"], "saveMs": run["saveMs"]}
            openers = [(slot, lambda: slot.actor.open_checkpoint.remote(group.number, number))]
            # On a shared file system the others see it too, when rank 0's node is gone.
            openers += [(other, seen_by(other, run["savePath"])) for other in group.slots[1:] if run["savePath"]]
            heirs = [other for other in (bridge.current, bridge.next) if other and other.restored]
            for heir in heirs:
                if (heir.restored["group"], heir.restored["number"]) == (group.number, number):
                    openers += [(other, restored_in(other, heir.number)) for other in heir.slots]
            if not await self._take(group, CHECKPOINT, openers, extra):
                return
            with contextlib.suppress(RayError):
                await slot.actor.taken.remote(group.number, number)
            if self.saving and not self.saving["checkpoint"] and (group.number, number) > self.saving["after"]:
                self.saving["checkpoint"] = {"group": group.number, "number": number}
                bridge._tell()

    async def take_artifacts(self, group):
        bridge = self.bridge
        slot, patterns = group.slots[0], bridge.document["artifacts"]
        if patterns and slot.state == "Ready":
            openers = [(slot, lambda: slot.actor.open_artifacts.remote(group.number, patterns))]
            await self._take(group, ARTIFACTS, openers, {"number": 0})

    async def _take(self, group, kind, openers, extra):
        """Bring to the head what a slot packs; try again while there is a slot that can. Say whether it came."""
        bridge = self.bridge
        failure = None
        for pause_s in TAKE_PAUSES_S:
            for slot, opener in openers:
                if slot.state != "Ready":
                    continue
                try:
                    if (stream := await opener()) is None:
                        continue
                    sink = transfer.HeadSink(bridge.store.directory)
                    if (what := await transfer.carry(slot, stream, [sink])) is None:
                        raise OSError("what arrived does not match its digest")
                except (RayError, OSError) as error:
                    failure = error
                    continue
                bridge.store.add({"kind": kind, "group": group.number, **what, **extra, "at": time.monotonic()})
                bridge._tell()
                return True
            if failure is None:
                break
            await asyncio.sleep(pause_s)
        if failure or not any(slot.state == "Ready" for slot, _ in openers):
            reason = failure or "no slot is left that had it"
            bridge._note("Warning", f"{kind}Lost", f"group {group.number}: {reason}")
        return False


def seen_by(slot, path):
    """What has a slot pack what is there, if it sees it."""
    return lambda: slot.actor.open_path.remote(path)


def restored_in(slot, group):
    """What has a slot pack the checkpoint that a group in it was given."""
    return lambda: slot.actor.open_restored.remote(group)

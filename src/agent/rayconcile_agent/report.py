"""What a bridge reports. Times are ages in milliseconds: the controller's clock is not the cluster's."""

import time


def describe(bridge):
    """A bridge's whole state, as the controller reads it."""
    now = time.monotonic()

    def age_ms(moment):
        return None if moment is None else (now - moment) * 1000

    def describe_rank(rank, slot, run):
        run = run or {}
        exit = run.get("exit")
        return {
            "rank": rank,
            "slot": slot.slot_id,
            "node": slot.node,
            "pid": run.get("pid"),
            "arrived": run.get("arrived", False),
            "joined": run.get("joined", False),
            "exit": exit and {"code": exit["code"], "signal": exit["signal"]},
        }

    def describe_group(group):
        run = group.rank0() or {}
        return {
            "number": group.number,
            "alone": group.alone,
            "phase": group.phase,
            "ranks": [describe_rank(rank, *pair) for rank, pair in enumerate(zip(group.slots, group.runs()))],
            "times": {event: age_ms(moment) for event, moment in group.times.items()},
            "outcome": group.outcome,
            "restored": group.restored,
            "steps": run.get("steps", 0),
            "firstStep": age_ms(run.get("firstStepAt")),
            "lastStep": age_ms(run.get("lastStepAt")),
            "epoch": run.get("epoch"),
            "progress": run.get("progress"),
            "batchSize": run.get("batchSize"),
            "hints": run.get("hints"),
            "hintsNumber": run.get("hintsNumber", 0),
        }

    def describe_notices():
        """What each node's slots say of it, once."""
        notices = {slot.node: slot.notice for slot in bridge.slots.values() if slot.notice}
        return [
            {
                "node": node,
                "kind": notice["kind"],
                "action": notice["action"],
                "deadlineMs": None if notice["deadline"] is None else (notice["deadline"] - now) * 1000,
            }
            for node, notice in notices.items()
        ]

    return {
        "bridge": bridge.incarnation,
        "version": bridge.version,
        "phase": bridge.phase,
        "revision": bridge.document and bridge.document["revision"],
        "slots": [
            {"id": slot.slot_id, "node": slot.node, "state": slot.state, "message": slot.message}
            for slot in bridge.slots.values()
        ],
        "groups": [describe_group(group) for group in bridge.groups.values()],
        "blobs": [{**blob, "at": age_ms(blob["at"])} for blob in bridge.store.descriptions],
        "notices": describe_notices(),
        "saveRequest": bridge.saves.saving and {"id": bridge.saves.saving["id"], "checkpoint": bridge.saves.saving["checkpoint"]},
        "notes": [{**note, "at": age_ms(note["at"])} for note in bridge.notes],
        "logs": bridge.spools.ends(),
    }

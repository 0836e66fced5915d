"""What a bridge leaves to the next one of its job: its slots, by name, which live on for their lease.

The slots' names and nodes are kept in a file on the head, so that the next bridge knows which there were, and can
tell when none of them can be alive any more.
"""

import asyncio
import json
import os
import types

import ray
from ray.exceptions import RayError

from .reservation import alive_nodes, slot_name

# Beyond what its workers may take to save, how long a slot may take to answer.
ANSWER_S = 10.0


class Heirloom:
    """The list of a job's slots. `known` says whether an earlier bridge has left one."""

    def __init__(self, job_uid, directory):
        self.job_uid, self.path = job_uid, os.path.join(directory, "slots.json")
        try:
            with open(self.path, encoding="utf-8") as file:
                self.slots = json.load(file)
            self.known = True
        except (OSError, ValueError):
            self.slots, self.known = {}, False

    def note(self, slot_id, node):
        """A slot is about to be made."""
        self.slots[slot_id] = node
        self._keep()

    def drop(self, slot_id):
        """A slot has ended, and all in it."""
        if self.slots.pop(slot_id, None):
            self._keep()

    async def collect(self, timeout_s, dead_nodes, inherit):
        """End the earlier bridge's slots, having their workers save first, and hand what they saved to `inherit`.

        Returns whether some of them may still be alive.
        """
        prefix = slot_name(self.job_uid, "")
        names = [name for name in ray.util.list_named_actors() if name.startswith(prefix)]
        ends = await asyncio.gather(*(self._end(name, timeout_s, inherit) for name in names))
        ended = {name.removeprefix(prefix) for name, end in zip(names, ends) if end}
        listed = {name.removeprefix(prefix) for name in names}
        alive = alive_nodes()
        # What Ray does not list has died: its node's raylet has seen it, if that is still there to be asked.
        sure = {id for id, node in self.slots.items() if id not in listed and (node in alive or node in dead_nodes)}
        unsure = self.slots.keys() - ended - sure
        self.slots = {id: node for id, node in self.slots.items() if id in unsure}
        self._keep()
        return bool(unsure or listed - ended)

    async def _end(self, name, timeout_s, inherit):
        """End one slot; say whether nothing of it can be alive."""
        try:
            actor = ray.get_actor(name)
        except ValueError:
            return False  # Gone in between; how, nobody has seen.
        slot = types.SimpleNamespace(actor=actor)
        try:
            saves = await asyncio.wait_for(actor.retire.remote(timeout_s), timeout_s + ANSWER_S)
            for save in sorted(saves, key=lambda save: (save["group"], save["number"])):
                await inherit(slot, save)
            await asyncio.wait_for(actor.close.remote(), ANSWER_S)
            return True
        except (RayError, OSError, asyncio.TimeoutError):
            return False
        finally:
            ray.kill(actor)

    def _keep(self):
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(self.path + ".new", "w", encoding="utf-8") as file:
            json.dump(self.slots, file)
        os.rename(self.path + ".new", self.path)

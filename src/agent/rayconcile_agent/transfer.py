"""Carrying blobs between slots, and to the head: in pieces, each once through Ray's object store.

The bridge passes references on and looks at no piece itself, but for the head's own copy. The sender counts the
digest while it packs, each receiver while it writes; a copy counts only if both agree.
"""

import asyncio
import contextlib
import os
import uuid

from ray.exceptions import RayError

from . import blobs


class SlotSink:
    """A slot that gets a checkpoint for a group's worker."""

    def __init__(self, slot, group):
        self.actor, self.group, self.name = slot.actor, group, uuid.uuid4().hex

    async def take(self, chunk):
        await self.actor.receive.remote(self.name, chunk)

    async def finish(self, digest):
        if not await self.actor.received.remote(self.name, digest):
            return False
        await self.actor.restore.remote(self.group, digest)
        return True

    async def abandon(self):
        with contextlib.suppress(RayError):
            await self.actor.give_up.remote(self.name)


class HeadSink:
    """The store on the head's disk."""

    def __init__(self, directory):
        self.receiver = blobs.Receiver(directory)

    async def take(self, chunk):
        # Written beside the event loop: a disk may take longer than a lease lasts.
        await asyncio.to_thread(self.receiver.write, await chunk)

    async def finish(self, digest):
        return await asyncio.to_thread(self.receiver.finish, digest)

    async def abandon(self):
        await asyncio.to_thread(self.receiver.abandon)


async def carry(slot, stream, sinks):
    """Carry a stream from a slot to every sink; return what it was, or None if a copy is not what it should be.

    The next piece is packed while one is being written.
    """
    next_chunk = slot.actor.next_chunk.options(num_returns=2)
    try:
        ahead = next_chunk.remote(stream)
        while True:
            chunk, end = ahead
            if (what := await end) is None:
                ahead = next_chunk.remote(stream)
            await asyncio.gather(*(sink.take(chunk) for sink in sinks))
            if what:
                break
        whole = await asyncio.gather(*(sink.finish(what["digest"]) for sink in sinks))
        return what if all(whole) else None
    except BaseException:
        await asyncio.gather(*(sink.abandon() for sink in sinks), return_exceptions=True)
        with contextlib.suppress(RayError):
            await slot.actor.close_stream.remote(stream)
        raise


async def send_file(path, digest, sinks, chunk_bytes=32 << 20):
    """Carry a blob of the head's store to every sink; say whether it arrived everywhere as it should be."""
    try:
        with open(path, "rb") as file:
            left = os.fstat(file.fileno()).st_size
            while left > 0:
                chunk = await asyncio.to_thread(file.read, chunk_bytes)
                if not chunk:
                    break
                left -= len(chunk)
                await asyncio.gather(*(sink.take(chunk) for sink in sinks))
        return all(await asyncio.gather(*(sink.finish(digest) for sink in sinks)))
    except BaseException:
        await asyncio.gather(*(sink.abandon() for sink in sinks), return_exceptions=True)
        raise

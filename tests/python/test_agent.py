"""The agent's HTTP: who is answered without a token, and that this does not count as a controller."""

import asyncio
import hashlib
import os
import tempfile
import time
import unittest
from unittest import mock

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from rayconcile_agent import agent, store
from rayconcile_agent.life import Life
from support import enter

TOKEN = {"Authorization": "Bearer secret"}
DIGEST = "0123456789abcdef" * 4


class AgentTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.agent = served = agent.Agent.__new__(agent.Agent)  # Without Ray, of which these requests need nothing.
        served.directory = enter(self, tempfile.TemporaryDirectory())
        served.life = Life(served.directory)
        served.nodes, served.head = [{"id": "n", "address": "10.0.0.2", "alive": True}], "h"
        served.asking, served.heard = 0, time.monotonic()
        digest = hashlib.sha256(b"secret").hexdigest()
        self.client = TestClient(TestServer(agent.application(served, digest)))
        await self.client.start_server()
        self.addAsyncCleanup(self.client.close)

    async def life(self):
        answer = await self.client.get("/v1/life?address=10.0.0.2")
        self.assertEqual(answer.status, 200)
        return await answer.json()

    async def test_life_is_told_without_a_token_and_nothing_else_is(self):
        blob = f"/v1/jobs/j/blobs/{DIGEST}"
        for request in ("GET /v1/state", f"GET {blob}", f"PUT {blob}/kept", "GET /v1/lifetime", "GET /"):
            method, path = request.split()
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                self.assertEqual((await self.client.request(method, path, headers=headers)).status, 401, path)
        nothing = {"controllerS": None, "jobS": None, "unsafeCheckpoints": 0, "joined": True}
        self.assertEqual(await self.life(), nothing)
        self.assertEqual((await self.client.post("/v1/life")).status, 405)
        self.assertIsNone((await self.life())["controllerS"], "who only asks for life is no controller")

    async def test_a_controller_is_heard_by_its_token_and_says_what_it_has(self):
        self.assertEqual((await self.client.put(f"/v1/jobs/j/blobs/{DIGEST}/kept", headers=TOKEN)).status, 404)
        self.assertLess((await self.life())["controllerS"], 60)
        directory = os.path.join(self.agent.directory, "j", "blobs")
        blobs = store.BlobStore(directory)
        with open(blobs.path(DIGEST), "wb"):
            pass
        blobs.add({"kind": "Checkpoint", "group": 1, "number": 1, "digest": DIGEST, "size": 0, "at": time.monotonic()})
        self.agent.life.counted = None
        self.assertEqual((await self.life())["unsafeCheckpoints"], 1)
        self.assertEqual((await self.client.put(f"/v1/jobs/j/blobs/{DIGEST}/kept", headers=TOKEN)).status, 200)
        self.agent.life.counted = None
        self.assertEqual((await self.life())["unsafeCheckpoints"], 0)

    async def test_a_controller_that_waits_for_news_is_there(self):
        self.agent.version, self.agent.news = 0, asyncio.Event()
        waiting = asyncio.ensure_future(self.agent.await_news(0, 60))
        await asyncio.sleep(0)
        self.assertEqual((await self.life())["controllerS"], 0.0)
        self.agent.tell()
        await asyncio.wait_for(waiting, 10)
        self.assertIsNone((await self.life())["controllerS"])
        await asyncio.wait_for(self.agent.await_news(1, 0.01), 10)
        self.assertEqual(self.agent.asking, 0)

    async def test_a_controller_that_leaves_in_the_middle_of_an_upload_is_not_there(self):
        enter(self, mock.patch.object(agent, "BODY_S", 1.0))
        enter(self, mock.patch.object(self.agent, "ask"))
        enter(self, mock.patch.object(self.agent, "bridge"))
        begun = time.monotonic()
        query = "uid=j&namespace=n&name=j&revision=1&group=0&number=1&files=1&steps=1"
        for head, piece in ((f"PUT /v1/jobs/j/blobs/{DIGEST}?{query}", b"a piece"), ("PUT /v1/jobs/j", b"{")):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.client.port)
            writer.write(f"{head} HTTP/1.1\r\nHost: x\r\n".encode())
            writer.write(b"Authorization: Bearer secret\r\nContent-Length: 1000000\r\n\r\n" + piece)
            await asyncio.sleep(0.5)
            # It counts from when the request came, and not from now.
            self.assertGreater((await self.life())["controllerS"], 0.3)
            self.assertEqual(self.agent.asking, 0)
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
            self.assertIn(b" 408 ", answer)
            self.assertGreater((await self.life())["controllerS"], 0.8, "that it is given up is no word from it")
            writer.close()
        self.assertLess(time.monotonic() - begun, 30)
        self.assertEqual(os.listdir(os.path.join(self.agent.directory, "j", "blobs")), [])

    async def test_what_was_kept_of_jobs_is_found_and_nothing_else(self):
        os.makedirs(os.path.join(self.agent.directory, "j"))
        os.makedirs(os.path.join(self.agent.directory, "none"))
        store.put_keepsake(os.path.join(self.agent.directory, "j"), {"a": 1})
        store.put_keepsake(os.path.join(self.agent.directory, "j"), {"a": 2})
        with open(os.path.join(self.agent.directory, "none", store.KEEPSAKE), "w") as file:
            file.write("{")
        answer = await self.client.get("/v1/keepsakes", headers=TOKEN)
        self.assertEqual(await answer.json(), {"j": {"a": 2}})
        self.assertEqual((await self.client.get("/v1/keepsakes")).status, 401)
        store.put_keepsake(os.path.join(self.agent.directory, "gone"), {})  # Its job was deleted meanwhile.

    async def test_an_agent_waits_for_the_port_of_the_one_before(self):
        first, second = web.AppRunner(web.Application()), web.AppRunner(web.Application())
        for runner in (first, second):
            await runner.setup()
            self.addAsyncCleanup(runner.cleanup)
        await agent.listen(first, "127.0.0.1", 0)
        port = first.addresses[0][1]
        waiting = asyncio.ensure_future(agent.listen(second, "127.0.0.1", port))
        await asyncio.sleep(0.1)
        self.assertFalse(waiting.done())
        await first.cleanup()
        await asyncio.wait_for(waiting, 10)
        self.assertEqual(second.addresses[0][1], port)


if __name__ == "__main__":
    unittest.main()

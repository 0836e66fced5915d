"""The agent: the one program in a Ray cluster that a controller talks to.

It runs as a Ray job on the head, opens no connection to the outside, and serves HTTP with a bearer token, of
which it knows only the digest. It keeps one detached bridge per AdaptDLJob and outlives none of them: when it
dies it is submitted again, and finds the bridges where they were.

    GET    /v1/state?seen=N&timeout=S     everything observed, as soon as it is newer than N
    PUT    /v1/jobs/{uid}                 a job's document
    DELETE /v1/jobs/{uid}?keep=           end its bridge and everything of it; what it has saved can be kept
    GET    /v1/jobs/{uid}/log             a worker's output: group, rank, offset
    GET    /v1/jobs/{uid}/blobs/{digest}  a checkpoint or artifacts (ranges allowed)
    PUT    /v1/jobs/{uid}/blobs/{digest}  a checkpoint to start from
    PUT    /v1/jobs/{uid}/blobs/{digest}/kept  the controller has it durably
    GET    /v1/keepsakes                  what an earlier controller gave of each job, for one that has lost its records
    GET    /v1/packages/{name}            a package of Ray's
    POST   /v1/nodes/{id}/drain           have Ray start nothing more on a node
    PUT    /v1/resources                  what Ray's autoscaler shall make room for
    GET    /v1/life?address=A             who needs the node at that address; no token is asked for (`life.py`):
        {"controllerS": seconds since a controller was heard, "jobS": seconds since a worker of a job was on that node,
         or on any node if it is the head (0 while there is one), "unsafeCheckpoints": how many checkpoints and
         artifacts on the head no controller is known to have durably, "joined": whether such a node is in the cluster};
        an age is null if there was nothing of it since this process began
"""

import asyncio
import contextlib
import errno
import hashlib
import hmac
import json
import os

import shutil
import time
import uuid

import ray
from aiohttp import web
from ray.autoscaler.sdk import request_resources as ask_autoscaler
from ray.exceptions import ActorUnavailableError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from . import PROTOCOL, blobs, store
from .bridge import Bridge
from .life import Life
from .reservation import LEASE_MARGIN_S, alive_nodes

NAMESPACE = "rayconcile"
NODES_S = 0.5
LOG_BYTES = 1 << 20
MAX_WAIT_S = 60.0
# How long a body, or a piece of one, may take to come.
BODY_S = 60.0
HAND_OVER_S = 30.0
CLAIM = b"rayconcile:claim"
LIFE = "/v1/life"


class Agent:
    """The state behind the HTTP API."""

    def __init__(self, settings):
        self.settings = settings
        self.instance = uuid.uuid4().hex
        self.version, self.news = 0, asyncio.Event()
        self.nodes = []
        # What Ray's autoscaler was asked for, by this process.
        self.requested = None
        self.bridges, self.reports, self.watchers = {}, {}, {}
        # The newest that was asked for, for each job: a revision, and whether its bridge was to be removed then.
        self.newest = {}
        # Until when something may still train of a job whose bridge died while it was removed.
        self.doubtful = {}
        # When a controller was heard last, and how many of its questions for news are held: each for a while only.
        self.heard, self.asking = time.monotonic(), 0
        context = ray.get_runtime_context()
        self.head = context.get_node_id()
        session = ray._private.worker._global_node.get_session_dir_path()
        self.directory = os.path.join(session, "rayconcile", "bridges")
        self.life = Life(self.directory)

    def tell(self):
        self.version += 1
        event, self.news = self.news, asyncio.Event()
        event.set()

    # --- What is observed ------------------------------------------------------------------------------------

    async def adopt(self):
        """Find the bridges that an earlier agent made."""
        for name in ray.util.list_named_actors():
            if name.startswith("bridge-"):
                self.follow(name.removeprefix("bridge-"), ray.get_actor(name))

    def follow(self, uid, actor):
        self.bridges[uid] = actor
        self.watchers[uid] = asyncio.ensure_future(self.watch_bridge(uid, actor))

    async def watch_bridge(self, uid, actor):
        seen = -1
        while True:
            try:
                ago_s = 0.0 if self.asking else time.monotonic() - self.heard
                report = await actor.watch.remote(seen, 2.0, ago_s)
            except RayError as error:
                if not isinstance(error, RayActorError) or isinstance(error, ActorUnavailableError):
                    await asyncio.sleep(1.0)  # Out of reach for now; Ray will say if it is dead.
                    continue
                self.reports[uid] = {"phase": "Dead", "message": str(error).strip()}
                self.bridges.pop(uid, None)
                self.tell()
                return
            seen = report["version"]
            # Even without news: steps go on, and ages are counted from now.
            report["received"] = time.monotonic()
            self.reports[uid] = report
            self.life.note_report(report)
            self.tell()

    async def watch_nodes(self):
        while await asyncio.to_thread(holds_claim, self.instance):
            draining = await asyncio.to_thread(ray._private.state.state.get_draining_nodes)
            nodes = [describe_node(node, draining) for node in await asyncio.to_thread(ray.nodes)]
            if nodes != self.nodes:
                self.nodes = nodes
                self.tell()
            await asyncio.sleep(NODES_S)

    def note_controller(self):
        self.heard = time.monotonic()
        self.life.note_controller()

    async def await_news(self, seen, timeout_s):
        """Wait for what is newer. Whoever asked is taken to be there meanwhile."""
        deadline = time.monotonic() + min(timeout_s, MAX_WAIT_S)
        self.asking += 1
        try:
            while self.version <= seen and (left := deadline - time.monotonic()) > 0:
                await asyncio.wait_for(self.news.wait(), left)
        except asyncio.TimeoutError:
            pass
        finally:
            self.asking -= 1

    async def state(self, request):
        await self.await_news(int(request.query.get("seen", -1)), float(request.query.get("timeout", 0)))
        now = time.monotonic()
        jobs = {
            uid: {**report, "ageMs": (now - report["received"]) * 1000 if "received" in report else 0}
            for uid, report in self.reports.items()
        }
        state = {
            "protocol": PROTOCOL,
            "rayVersion": ray.__version__,
            "instance": self.instance,
            "version": self.version,
            "head": self.head,
            "nodes": self.nodes,
            "requested": self.requested,
            "jobs": jobs,
        }
        # Hints are the program's own text and may say NaN: they are strings here, so this is always JSON.
        return web.json_response(text=json.dumps(state, allow_nan=False))

    async def tell_life(self, request):
        address = request.query.get("address", "")
        return web.json_response(self.life.describe(address, self.nodes, self.head, self.asking > 0))

    # --- What is asked ---------------------------------------------------------------------------------------

    def ask(self, uid, revision, removal=False):
        """Refuse what is older than something before it: it was given up, and arrives too late."""
        if (revision, removal) < self.newest.get(uid, (0, False)):
            raise web.HTTPConflict(text="something newer was asked for before")
        self.newest[uid] = revision, removal

    def bridge(self, uid, job=None):
        """A job's bridge, made if a job is given."""
        if uid not in self.bridges and job:
            # What was meant for one that has died, maybe long ago, is not for another.
            if self.reports.get(uid, {}).get("phase") == "Dead":
                raise web.HTTPConflict(text="its bridge has died and has not been removed")
            directory = os.path.join(self.directory, uid)
            inherits = os.path.isdir(directory) or time.monotonic() < self.doubtful.get(uid, 0.0)
            actor = (
                ray.remote(Bridge)
                .options(
                    name=f"bridge-{uid}",
                    lifetime="detached",
                    get_if_exists=True,
                    num_cpus=0,
                    max_restarts=0,
                    max_concurrency=1000,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(self.head, soft=False),
                )
                .remote(job, directory, self.settings["leaseS"], inherits)
            )
            self.follow(uid, actor)
        return self.bridges.get(uid)

    async def put_job(self, request):
        uid = request.match_info["uid"]
        document = await in_time(request.json())
        keepsake = document.pop("keepsake", None)
        self.ask(uid, document["revision"])
        if restore := document["desired"].get("group", {}).get("restore"):
            store.mark_place_kept(os.path.join(self.directory, uid, "blobs"), restore["group"], restore["number"])
        bridge = self.bridge(uid, document["job"])
        revision = await bridge.apply.remote(document)
        if keepsake and uid in self.bridges:
            store.put_keepsake(os.path.join(self.directory, uid), keepsake)
        return web.json_response({"revision": revision})

    async def keepsakes(self, request):
        return web.json_response(store.keepsakes(self.directory))

    async def package(self, request):
        client = ray._private.worker.global_worker.gcs_client
        uri = f"gcs://{request.match_info['name']}".encode()
        package = await asyncio.to_thread(client.internal_kv_get, uri, None)
        return web.Response(body=package) if package else missing("package")

    async def delete_job(self, request):
        uid = request.match_info["uid"]
        self.ask(uid, int(request.query["revision"]), removal=True)
        if bridge := self.bridge(uid):
            try:
                await bridge.shut_down.remote()
            except ActorUnavailableError as error:
                raise web.HTTPServiceUnavailable(text=str(error)) from error
            except RayActorError:
                # It died before it had ended all of its slots: they end with their lease.
                self.doubtful[uid] = time.monotonic() + self.settings["leaseS"] + LEASE_MARGIN_S
            ray.kill(bridge)
        if watcher := self.watchers.pop(uid, None):
            watcher.cancel()
        self.bridges.pop(uid, None)
        self.reports.pop(uid, None)
        if request.query.get("keep") != "true":
            shutil.rmtree(os.path.join(self.directory, uid), ignore_errors=True)
        self.tell()
        return web.json_response({})

    async def log(self, request):
        query = request.query
        bridge = self.bridge(request.match_info["uid"]) or missing("job")
        arguments = int(query["group"]), int(query["rank"]), int(query["offset"])
        position, data = await bridge.read_log.remote(*arguments, LOG_BYTES)
        return web.Response(body=data, headers={"X-Log-Position": str(position)})

    def blob_path(self, request):
        directory = os.path.join(self.directory, request.match_info["uid"], "blobs")
        return directory, os.path.join(directory, request.match_info["digest"])

    async def get_blob(self, request):
        _, path = self.blob_path(request)
        return web.FileResponse(path) if os.path.exists(path) else missing("blob")

    async def keep_blob(self, request):
        directory, path = self.blob_path(request)
        if not os.path.exists(path):
            missing("blob")
        store.mark_kept(directory, request.match_info["digest"])
        return web.json_response({})

    async def put_blob(self, request):
        directory, path = self.blob_path(request)
        query, digest = request.query, request.match_info["digest"]
        job = {key: query[key] for key in ("uid", "namespace", "name")}
        self.ask(query["uid"], int(query["revision"]))
        bridge = self.bridge(query["uid"], job)
        if not os.path.exists(path):
            receiver = blobs.Receiver(directory)
            try:
                while chunk := await in_time(request.content.read(blobs.BUFFER)):
                    receiver.write(chunk)
            except BaseException:
                receiver.abandon()
                raise
            if not await asyncio.to_thread(receiver.finish, digest):
                raise web.HTTPUnprocessableEntity(text="what arrived does not match its digest")
        description = {
            "kind": "Checkpoint",
            "group": int(query["group"]),
            "number": int(query["number"]),
            "digest": digest,
            "size": os.path.getsize(path),
            "files": int(query["files"]),
            "steps": int(query["steps"]),
            "saveMs": 0.0,
            "at": time.monotonic(),
        }
        await bridge.add_blob.remote(description)
        store.mark_kept(directory, digest)  # The controller has it: it has just brought it.
        return web.json_response({})

    async def drain(self, request):
        node = request.match_info["id"]
        if node == self.head:
            raise web.HTTPForbidden(text="the head is not drained: everything else depends on it")
        if node not in alive_nodes():
            return web.json_response({"accepted": True})
        client = ray._private.worker.global_worker.gcs_client
        reason = 2  # DRAIN_NODE_REASON_PREEMPTION: the other is refused while workers run.
        deadline_ms = int(time.time() * 1000) + int(request.query.get("deadlineMs", 0))
        accepted, rejection = await asyncio.to_thread(client.drain_node, node, reason, "rayconcile", deadline_ms)
        return web.json_response({"accepted": accepted, "rejection": rejection})

    async def request_resources(self, request):
        wanted = await in_time(request.json())
        bundles = [bundle["resources"] for bundle in wanted for _ in range(bundle["count"])]
        await asyncio.to_thread(ask_autoscaler, bundles=bundles)
        self.requested = wanted
        self.tell()
        return web.json_response({})


async def in_time(reading):
    """A request's body, or the next piece of a long one: whoever has gone without a word is not waited for."""
    try:
        return await asyncio.wait_for(reading, BODY_S)
    except asyncio.TimeoutError as error:
        raise web.HTTPRequestTimeout(text=f"nothing more of the body has come for {BODY_S:g} s") from error


def missing(what):
    raise web.HTTPNotFound(text=f"no such {what}")


def describe_node(node, draining):
    return {
        "id": node["NodeID"],
        "address": node["NodeManagerAddress"],
        "alive": node["Alive"],
        "draining": node["NodeID"] in draining,
        "head": "node:__internal_head__" in node["Resources"],
        "resources": node["Resources"],
        "labels": node.get("Labels", {}),
    }


def authenticate(agent, token_digest):
    """Refuse whoever does not know the token. Its digest is no secret: it can be read where jobs are listed."""

    @web.middleware
    async def check(request, handler):
        if request.path == LIFE:
            return await handler(request)  # An instance has no token. It is told numbers, and is no controller.
        _, _, token = request.headers.get("Authorization", "").partition("Bearer ")
        if not hmac.compare_digest(hashlib.sha256(token.encode()).hexdigest(), token_digest):
            raise web.HTTPUnauthorized(text="a bearer token is needed")
        # Not while it is answered: whoever has begun a request and never ends it may be gone.
        agent.note_controller()
        answer = await handler(request)
        agent.note_controller()
        return answer

    return check


def claim(settings, instance):
    """Make this cluster the controller's, unless another controller has jobs on it and is not known to be gone.

    An agent that loses the claim ends: to a newer one of the same controller, or to another's while idle, or to one
    that was told to take the cluster over.
    """
    client = ray._private.worker.global_worker.gcs_client
    holder = client.internal_kv_get(CLAIM, None)
    holder = json.loads(holder) if holder else {"controller": settings["controller"]}
    busy = any(name.startswith("bridge-") for name in ray.util.list_named_actors())
    if holder["controller"] != settings["controller"] and busy and not settings.get("takeOver"):
        raise SystemExit(f"this cluster is used by another controller, on host {holder['host']}")
    mine = {"controller": settings["controller"], "host": settings["host"], "agent": instance}
    client.internal_kv_put(CLAIM, json.dumps(mine).encode(), True, None)


def holds_claim(instance):
    client = ray._private.worker.global_worker.gcs_client
    return json.loads(client.internal_kv_get(CLAIM, None))["agent"] == instance


def application(agent, token_digest):
    app = web.Application(middlewares=[authenticate(agent, token_digest)], client_max_size=64 << 20)
    digest = "{digest:[0-9a-f]{64}}"
    app.add_routes(
        [
            web.get(LIFE, agent.tell_life),
            web.get("/v1/state", agent.state),
            web.get("/v1/keepsakes", agent.keepsakes),
            web.get("/v1/packages/{name}", agent.package),
            web.put("/v1/jobs/{uid}", agent.put_job),
            web.delete("/v1/jobs/{uid}", agent.delete_job),
            web.get("/v1/jobs/{uid}/log", agent.log),
            web.get(f"/v1/jobs/{{uid}}/blobs/{digest}", agent.get_blob),
            web.put(f"/v1/jobs/{{uid}}/blobs/{digest}", agent.put_blob),
            web.put(f"/v1/jobs/{{uid}}/blobs/{digest}/kept", agent.keep_blob),
            web.post("/v1/nodes/{id}/drain", agent.drain),
            web.put("/v1/resources", agent.request_resources),
        ]
    )
    return app


async def listen(runner, address, port):
    """Serve, as soon as the agent before this one has noticed that it is not wanted any more."""
    deadline = time.monotonic() + HAND_OVER_S
    while True:
        try:
            return await web.TCPSite(runner, address, port).start()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise
        await asyncio.sleep(NODES_S)


async def main():
    settings = json.loads(os.environ["RAYCONCILE_AGENT"])
    ray.init(address="auto", namespace=NAMESPACE, log_to_driver=False, logging_level="warning")
    agent = Agent(settings)
    claim(settings, agent.instance)
    await agent.adopt()
    nodes = asyncio.ensure_future(agent.watch_nodes())
    app = application(agent, settings["tokenSha256"])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    address = ray.util.get_node_ip_address()
    await listen(runner, address, settings["port"])
    # A dashboard is at loopback alone, unless told otherwise; who reaches it there looks for this beside it.
    with contextlib.suppress(OSError):
        await web.TCPSite(runner, "127.0.0.1", settings["port"]).start()
    print(f"agent {agent.instance} serves http://{address}:{settings['port']}", flush=True)
    await nodes  # Until another agent takes over, or the cluster is out of reach.


if __name__ == "__main__":
    asyncio.run(main())

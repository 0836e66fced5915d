"""A slot: a reservation on one node, with the job's runtime environment, that hosts workers of its groups.

The bridge owns slots and tells them what to do. A slot decides one thing alone: without word from its bridge
for the lease it kills its workers and ends, so that nobody has to wonder whether they still train. Calls can be
repeated: what is started is not started again.

Only `ray` and the standard library are used, for this runs inside the user's runtime environment.
"""

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid

import ray

from . import blobs, host, processes, shared, worker
from .beat import Beat
from .metadata import PERIOD_S, MetadataService
from .run import Run
from .supervisor import Supervisor

# What must stay free beside a prepared worker as large as the one that runs.
HEADROOM_BYTES = 256 << 20
TAIL_BYTES = 4096
# A blob is carried in pieces of this size.
CHUNK_BYTES = 32 << 20
# How soon a worker that was released begins to train, unless it waits for somebody who will not come.
BEGIN_S = 5.0
# How soon a first step is noticed, and the end of the lease.
WATCH_S = 0.1
WORKER = os.path.abspath(worker.__file__)


class Slot:
    """The actor. Its methods are called by the bridge, several at a time."""

    def __init__(self, job_uid, slot_id, cpus, has_package, lease_s, metadata_endpoint):
        processes.adopt_orphans()
        session = ray._private.worker._global_node.get_session_dir_path()
        self.job_uid, self.slot_id = job_uid, slot_id
        self.home = os.path.join(session, "rayconcile", job_uid)
        self.directory = os.path.join(self.home, slot_id)
        self.blobs = os.path.join(self.directory, "blobs")
        os.makedirs(self.blobs, exist_ok=True)
        self.address = ray.util.get_node_ip_address()
        self.gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        self.cpus, self.has_package, self.lease_s = cpus, has_package, lease_s
        self.last_contact = time.monotonic()
        self.runs, self.receivers, self.streams = {}, {}, {}
        self.fork_server = self.shared = self.notice = None
        self.beat = Beat()
        self.version = 0
        self.changed = threading.Condition()
        self.supervisor = Supervisor(self)
        # A worker is told to die with the thread that launched it: that thread must live as long as the slot.
        self.launches = queue.SimpleQueue()
        threads = {"launcher": self._launch_forever, "watcher": self._watch_forever}
        if metadata_endpoint:
            service = MetadataService(metadata_endpoint.replace("{address}", self.address))
            threads["metadata"] = lambda: self._follow_metadata(service)
        for name, target in threads.items():
            threading.Thread(target=target, daemon=True, name=name).start()

    # --- Called by the bridge --------------------------------------------------------------------------------

    def describe(self):
        return {"address": self.address, "pid": os.getpid(), "gpus": self.gpus, "python": sys.executable}

    def poll(self, seen, timeout_s, log_offsets, log_bytes, heard):
        """Wait for news; return a report. What keeps the lease is that reports arrive.

        `heard` is the `clock` of the newest report that the bridge has: however long this call was on its way,
        the slot never lives longer than the bridge expects.
        """
        self.last_contact = max(self.last_contact, heard)

        def news():
            return self.version > seen or any(
                run.log.end > log_offsets.get(group, 0) for group, run in self.runs.items()
            )

        with self.changed:
            self.changed.wait_for(news, timeout_s)
            now_ns = time.monotonic_ns()
            return {
                "version": self.version,
                "clock": time.monotonic(),
                "runs": [run.report(now_ns) for run in self.runs.values()],
                "notice": self.notice and self.notice.report(),
                "logs": {group: run.log.read(log_offsets.get(group, 0), log_bytes) for group, run in self.runs.items()},
                "logEnds": {group: run.log.end for group, run in self.runs.items()},
            }

    def free_port(self):
        return host.free_port()

    def start(self, request):
        """Start a worker, which will wait for its release before it loads or trains.

        Returns why not, if the node has no memory for one more beside that which runs here (`refusal`), and why
        it was not forked, if it should have been (`unforked`).
        """
        group = request["group"]
        with self.changed:
            if group not in self.runs:
                if refusal := self._lack_of_memory():
                    return {"refusal": refusal, "unforked": None}
                self.shared = shared.find_place(request["sharedPaths"], self.job_uid, self.slot_id)
                shared.sweep(self.shared, request["slots"])
                run = self.runs[group] = Run(self.directory, self.shared, group, request["rank"])
                self.launches.put((run, request))
            run = self.runs[group]
            self.changed.wait_for(lambda: run.launched)
        return {"refusal": None, "unforked": run.unforked}

    def restore(self, group, digest):
        """Put a checkpoint that was received where the group's worker will look for it."""
        path = os.path.join(self.blobs, digest)
        blobs.unpack(path, self.runs[group].restored)
        os.unlink(path)

    def link(self, group, path):
        """Do the same with a save that is on this very disk, or a shared one, without moving it; say whether it is."""
        if not os.path.isdir(path):
            return False
        run, name = self.runs[group], os.path.basename(path)
        target = os.path.join(run.restored, name)
        if shared.link_tree(path, target):
            return True
        # Not only pointed to: whoever has saved it there removes it when there is a newer one.
        linked = run.shared and os.path.join(run.shared, "restored", name)
        if not linked or not shared.link_tree(path, linked):
            return False
        os.symlink(linked, target)
        return True

    def meet(self, group, peers):
        """Let a worker meet its peers, if it is sure to wait for its release afterwards."""
        with self.changed:
            self.runs[group].peers = peers
            self.changed.notify_all()

    def release(self, group, peers):
        """Let a worker load its checkpoint, meet its peers and train."""
        run = self.runs[group]
        with self.changed:
            run.peers, run.released = peers, True
            self._tell()
        if run.alive():
            host.set_oom_score(run.process.pid, host.oom_score())

    def signal(self, group, name):
        """Signal a worker's main process alone: its data-loader children would die of it."""
        run = self.runs.get(group)
        if run and run.alive():
            run.process.send_signal(getattr(signal, name))

    def ask_save(self, group):
        """Ask for a checkpoint at the next step that all replicas agree on; training goes on."""
        words = self.runs[group].control.words
        words[worker.SAVE_ASKED] = words[worker.SAVES] + 1

    def open_checkpoint(self, group, number):
        """Begin to pack a save of rank 0; return the stream's name, or None if there is no whole one of that number."""
        path = self.runs[group].save_path(number) if group in self.runs else None
        return path and self._open([(path, os.path.basename(path))])

    def open_restored(self, group):
        """Begin to pack the checkpoint that a group was given, which others may have lost."""
        directory = self.runs[group].restored if group in self.runs else None
        names = directory and os.listdir(directory)
        paths = [(os.path.realpath(os.path.join(directory, name)), name) for name in sorted(names or ())]
        return self._open(paths) if paths else None

    def open_path(self, path):
        """Begin to pack what another slot has saved, if it is seen here."""
        return self._open([(path, os.path.basename(path))]) if os.path.isdir(path) else None

    def open_artifacts(self, group, patterns):
        """Begin to pack what the worker left of the job's artifacts; return None if there is nothing."""
        sources = blobs.matching(self.runs[group].cwd, patterns)
        return self._open(sources) if sources else None

    def _open(self, sources):
        name = uuid.uuid4().hex
        self.streams[name] = blobs.Packing(sources, CHUNK_BYTES)
        return name

    def next_chunk(self, stream):
        """The next piece of a stream, and what the whole was if that was the last."""
        chunk, end = self.streams[stream].next()
        if end:
            del self.streams[stream]
        return chunk, end

    def close_stream(self, stream):
        """Give a stream up."""
        if packing := self.streams.pop(stream, None):
            packing.abandon()

    def receive(self, name, chunk):
        """Take the next piece of a blob that comes from elsewhere."""
        if name not in self.receivers:
            self.receivers[name] = blobs.Receiver(self.blobs, durable=False)
        self.receivers[name].write(chunk)

    def received(self, name, digest):
        """Note that all of a blob has come; say whether it is what it should be."""
        return self.receivers.pop(name).finish(digest)

    def give_up(self, name):
        """Forget what was received of a blob."""
        if receiver := self.receivers.pop(name, None):
            receiver.abandon()

    def taken(self, group, number):
        """Note that the head has a save. It is kept here too, until there is a newer one that the head has."""
        run = self.runs.get(group)
        for other in os.listdir(run.saves) if run else ():
            if int(other) < number:
                shutil.rmtree(os.path.join(run.saves, other), ignore_errors=True)

    def retire(self, timeout_s):
        """Have every worker save and end, for another bridge has come; return the newest save of each."""
        deadline = time.monotonic() + timeout_s
        for run in list(self.runs.values()):
            if run.released and run.alive():
                run.process.send_signal(signal.SIGTERM)
            elif run.alive():
                host.kill_group(run.process.pid)
        with self.changed:
            # What has been let go may be about to train. If it is not soon, it has nothing to save.
            self.changed.wait_for(lambda: not any(run.may_train() for run in self.runs.values()), min(BEGIN_S, timeout_s))
            self.changed.wait_for(
                lambda: not any(run.trains() for run in self.runs.values()), max(0.0, deadline - time.monotonic())
            )
        for run in list(self.runs.values()):
            if run.alive():
                host.kill_group(run.process.pid)
        self.last_contact = time.monotonic()
        return [save for run in self.runs.values() if (save := run.save())]

    def forget(self, group):
        """Remove what is left of a group here, killing its worker if it lives."""
        with self.changed:
            run = self.runs.pop(group, None)
            if run is None:
                return
            run.forgotten = True
            # A launch that is under way is seen to its end, or what it starts would live on unnoticed.
            self.changed.wait_for(lambda: run.launched)
        self.supervisor.dismiss(run)
        if run.alive():
            host.kill_group(run.process.pid)
            with self.changed:
                self.changed.wait_for(lambda: not run.alive(), timeout=10)
        run.remove()

    def close(self):
        """Kill every worker and leave nothing on the node."""
        for group in list(self.runs):
            self.forget(group)
        self.launches.put(None)
        for stream in list(self.streams):
            self.close_stream(stream)
        self._remove_directory()

    # --- Called by the supervisor ----------------------------------------------------------------------------

    def await_release(self, run, timeout_s):
        """Note that a worker waits for its release; say whether it has come."""
        with self.changed:
            run.arrived = True
            # One that asks only when it has made steps has not waited.
            run.held = run.held or not run.control.words[worker.FIRST_STEP_NS]
            self._tell()
            return self.changed.wait_for(lambda: run.released, timeout_s)

    def await_peers(self, run, holds, timeout_s):
        """Note that a worker asks for its peers; return them if it may meet them now, else None."""
        with self.changed:
            run.arrived = True
            self._tell()
            if not self.changed.wait_for(lambda: run.released or holds and run.peers, timeout_s):
                return None
            run.joined = True
            self._tell()
            return run.peers

    def look_at(self, run):
        """Note what a worker says that it has done: it is in its control page."""
        with self.changed:
            run.noticed = run.seen()
            self._tell()

    def note_hints(self, run, text):
        with self.changed:
            run.hints, run.hints_number = text, run.hints_number + 1
            self._tell()

    # --- Inside ----------------------------------------------------------------------------------------------

    def _tell(self):
        """Wake whoever polls. The caller holds the lock."""
        self.version += 1
        self.changed.notify_all()

    def _remove_directory(self):
        """Remove the slot's directory, and, with the job's last slot on the node, what its workers shared."""
        shutil.rmtree(self.directory, ignore_errors=True)
        shared.remove(self.shared)
        with contextlib.suppress(OSError):  # It is not empty, for others are here; or they have removed it.
            if os.listdir(self.home) == ["share"]:
                shutil.rmtree(os.path.join(self.home, "share"))
            os.rmdir(self.home)

    def _lack_of_memory(self):
        running = [run.process.pid for run in self.runs.values() if run.alive()]
        need = max(map(host.resident_memory, running), default=0)
        free = host.memory_available()
        if running and free < need + HEADROOM_BYTES:
            return f"the running worker holds {need >> 20} MiB and the node has {free >> 20} MiB left"
        return None

    def _launch_forever(self):
        """Start workers, one after the other, in the thread on whose life theirs depend."""
        while item := self.launches.get():
            run, request = item
            try:
                if not run.forgotten:
                    self._launch(run, request)
            except Exception as error:  # This thread must live on: with it, every worker of the slot would end.
                if run.process:
                    host.kill_group(run.process.pid)
                    run.process.wait()
                run.log.append(f"cannot start the worker: {type(error).__name__}: {error}\n".encode())
                self._note_exit(run, 127)
            with self.changed:
                run.launched = True
                self.changed.notify_all()
        if self.fork_server:
            self.fork_server.stop()

    def _launch(self, run, request):
        """Start the bootstrap. The working directory is a copy, so that nobody writes into another's."""
        if self.has_package:
            shutil.copytree(os.getcwd(), run.cwd, symlinks=True, dirs_exist_ok=True)
        os.makedirs(run.cwd, exist_ok=True)
        share = request["sharePath"] or os.path.join(self.home, "share")
        os.makedirs(share, exist_ok=True)
        supervisor = self.supervisor.admit(run)
        config = {
            "cwd": run.cwd,
            "control": run.control_path,
            "saves": run.saves,
            "supervisor": supervisor,
            "rank": run.rank,
            **{key: request[key] for key in ("entrypoint", "command", "args", "groupSecret")},
        }
        config_path = run.configure(config)
        variables = {
            "ADAPTDL_JOB_ID": request["job"],
            "ADAPTDL_REPLICA_RANK": str(run.rank),
            "ADAPTDL_NUM_REPLICAS": str(request["replicas"]),
            "ADAPTDL_NUM_NODES": str(request["nodes"]),
            "ADAPTDL_NUM_RESTARTS": str(run.group),
            "ADAPTDL_MASTER_PORT": str(request["masterPort"]),
            "ADAPTDL_SUPERVISOR_URL": "http://{}:{}/{}".format(*supervisor),
            "ADAPTDL_CHECKPOINT_PATH": run.restored,
            "ADAPTDL_SHARE_PATH": share,
            "ADAPTDL_SCHED_VERSION": "0.2.11",
        }
        reader, writer = os.pipe()
        try:
            run.process = self._forked(run, request, config_path, variables, writer)
            if run.process is None:
                command = [sys.executable, WORKER, config_path, str(os.getpid())]
                environment = {**self._environment(run.cwd, request["env"]), **variables}
                run.process = host.launch(command, environment, writer)
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        if not run.released:
            host.set_oom_score(run.process.pid, 1000)
        guard = host.guard(run.process.pid)
        threading.Thread(target=self._follow, args=(run, reader, guard), daemon=True, name="follower").start()

    def _environment(self, directory, env):
        """What a worker's interpreter is started with, if its working directory is that one."""
        environment = {**host.worker_environment(self.address, self.cpus, self.gpus, directory), **env}
        return {**environment, **host.without_proxy(environment)}

    def _forked(self, run, request, config_path, variables, output):
        """A worker forked from the slot's fork server, or None where one is not wanted or cannot be had."""
        if not request["fork"] or request["command"]:
            return None
        here = os.getcwd() if self.has_package else run.cwd
        environment = self._environment(here, request["env"])
        script_directory = os.path.dirname(os.path.join(here, request["entrypoint"]))
        moved = {here: run.cwd}
        variables = {**variables, "PYTHONPATH": self._environment(run.cwd, request["env"])["PYTHONPATH"]}
        # One that has died, or was killed while it was asked, is started again, once.
        for _ in range(2):
            try:
                return self._server(environment, here, script_directory).fork(config_path, variables, moved, output)
            except processes.Unforkable as error:
                run.unforked = str(error)
                return None
            except (OSError, subprocess.SubprocessError, ValueError) as error:
                run.unforked = f"the fork server does not answer: {error}"
                self._stop_server()
        return None

    def _server(self, environment, directory, script_directory):
        server = self.fork_server
        if server and (server.environment != environment or not server.refusal and not server.lives()):
            self._stop_server()
        if self.fork_server is None:
            self.fork_server = processes.ForkServer(environment, directory, script_directory)
        return self.fork_server

    def _stop_server(self):
        if self.fork_server:
            self.fork_server.stop()
            self.fork_server = None

    def _follow(self, run, reader, guard):
        """Take in a worker's output until it ends; then note how it ended."""
        copier = threading.Thread(target=self._copy, args=(run, reader), daemon=True, name="copier")
        copier.start()
        code = run.process.wait()
        # What it started and left behind would hold its devices, its memory and this pipe.
        host.kill_group(run.process.pid)
        guard.kill()
        guard.communicate()
        copier.join(timeout=5)
        self._note_exit(run, code)
        processes.reap_orphans(run.process.pid)

    def _copy(self, run, reader):
        with open(reader, "rb", buffering=0) as pipe:
            while chunk := pipe.read(1 << 16):
                run.log.append(chunk)
                with self.changed:
                    self.changed.notify_all()

    def _note_exit(self, run, code):
        with self.changed:
            run.exit = {
                "code": code if code >= 0 else None,
                "signal": host.signal_name(-code) if code < 0 else None,
                "tail": run.log.tail(TAIL_BYTES).decode(errors="replace"),
                "at": time.monotonic(),
            }
            self._tell()

    def _watch_forever(self):
        """Notice what a worker did without telling, and the end of the lease; show the machine that one lives."""
        while True:
            time.sleep(WATCH_S)
            with self.changed:
                for run in self.runs.values():
                    if (seen := run.seen()) != run.noticed:
                        run.noticed = seen
                        self._tell()
                if any(run.alive() for run in self.runs.values()):
                    self.beat.give()
            if time.monotonic() - self.last_contact > self.lease_s:
                try:
                    for run in list(self.runs.values()):
                        if run.alive():
                            host.kill_group(run.process.pid)
                    self._stop_server()
                    self._remove_directory()
                finally:
                    os._exit(1)

    def _follow_metadata(self, service):
        """Ask the machine's metadata service, now and then, whether the machine will be taken away."""
        while True:
            try:
                notice = service.look()
                with self.changed:
                    if (notice or self.notice) and not (notice and notice.same(self.notice)):
                        self.notice = notice
                        self._tell()
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                pass  # Out of order for now: what is known stays known.
            time.sleep(PERIOD_S)

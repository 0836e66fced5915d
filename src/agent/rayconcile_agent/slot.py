"""A slot: a reservation on one node, with the job's runtime environment, that hosts workers of its groups.

The bridge owns slots and tells them what to do. A slot decides one thing alone: without word from its bridge
for the lease it kills its workers and ends, so that nobody has to wonder whether they still train. Calls can be
repeated: what is started is not started again.

Only `ray` and the standard library are used, for this runs inside the user's runtime environment.
"""

import contextlib
import glob
import json
import math
import os
import queue
import shutil
import signal
import sys
import threading
import time

import ray

from . import blobs, host, worker
from .logs import Ring
from .supervisor import Supervisor

# What must stay free beside a prepared worker as large as the one that runs.
HEADROOM_BYTES = 256 << 20
TAIL_BYTES = 4096
# How soon a finished save or a first step is noticed.
WATCH_S = 0.1
WORKER = os.path.abspath(worker.__file__)


class Run:
    """One worker: a rank of a group, from its preparation until it is forgotten."""

    def __init__(self, slot_directory, group, rank):
        self.group, self.rank = group, rank
        self.directory = os.path.join(slot_directory, f"group-{group}")
        self.cwd = os.path.join(self.directory, "cwd")
        self.saves = os.path.join(self.directory, "saves")
        self.restored = os.path.join(self.directory, "restored")
        self.process = self.exit = self.peers = None
        self.launched = self.forgotten = self.released = self.arrived = self.joined = False
        self.packed = None
        self.hints, self.hints_number = None, 0
        self.log = Ring()
        self.noticed = (0, 0)
        for directory in (self.saves, self.restored):
            os.makedirs(directory, exist_ok=True)
        control_path = os.path.join(self.directory, "control")
        with open(control_path, "wb") as file:
            # Written, not only made that long: on a full disk a page that is missing kills who touches it.
            file.write(bytes(worker.CONTROL_BYTES))
        self.control_path = control_path
        self.control = worker.Control(control_path)

    def alive(self):
        return self.process is not None and self.exit is None

    def report(self, now_ns):
        """What the bridge wants to know; times as ages, for clocks of two machines are never compared."""
        words, progress = self.control.words, self.control.floats[worker.PROGRESS]

        def age_ms(word):
            return (now_ns - words[word]) / 1e6 if words[word] else None

        return {
            "group": self.group,
            "rank": self.rank,
            "pid": self.process.pid if self.process else None,
            "arrived": self.arrived,
            "joined": self.joined,
            "exit": self.exit and {**self.exit, "at": None, "agoMs": now_ns / 1e6 - self.exit["at"] * 1e3},
            "steps": words[worker.STEPS],
            "lastStepAgoMs": age_ms(worker.LAST_STEP_NS),
            "firstStepAgoMs": age_ms(worker.FIRST_STEP_NS),
            "epoch": words[worker.EPOCH] - 1 if words[worker.EPOCH] else None,
            "progress": progress if math.isfinite(progress) else None,
            "batchSize": words[worker.BATCH] or None,
            "saves": words[worker.SAVES],
            "saveMs": words[worker.SAVE_NS] / 1e6,
            "saveSteps": words[worker.SAVE_STEPS],
            "hints": self.hints,
            "hintsNumber": self.hints_number,
        }


class Slot:
    """The actor. Its methods are called by the bridge, several at a time."""

    def __init__(self, job_uid, slot_id, cpus, has_package, lease_s):
        session = ray._private.worker._global_node.get_session_dir_path()
        self.home = os.path.join(session, "rayconcile", job_uid)
        self.directory = os.path.join(self.home, slot_id)
        self.blobs = os.path.join(self.directory, "blobs")
        os.makedirs(self.blobs, exist_ok=True)
        self.address = ray.util.get_node_ip_address()
        self.gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        self.cpus, self.has_package, self.lease_s = cpus, has_package, lease_s
        self.last_contact = time.monotonic()
        self.runs, self.receivers = {}, {}
        self.version = 0
        self.changed = threading.Condition()
        self.supervisor = Supervisor(self)
        # A worker is told to die with the thread that launched it: that thread must live as long as the slot.
        self.launches = queue.SimpleQueue()
        for name, target in (("launcher", self._launch_forever), ("watcher", self._watch_forever)):
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
                "logs": {group: run.log.read(log_offsets.get(group, 0), log_bytes) for group, run in self.runs.items()},
                "logEnds": {group: run.log.end for group, run in self.runs.items()},
            }

    def free_port(self):
        return host.free_port()

    def start(self, request):
        """Start a worker, which will wait for its release before it loads or trains.

        Returns why not, if the node has no memory for one more beside that which runs here.
        """
        group = request["group"]
        with self.changed:
            if group in self.runs:
                return None
            if refusal := self._lack_of_memory():
                return refusal
            run = self.runs[group] = Run(self.directory, group, request["rank"])
            self.launches.put((run, request))
            self.changed.wait_for(lambda: run.launched)
        return None

    def restore(self, group, digest):
        """Put a checkpoint where the group's worker will look for it."""
        blobs.unpack(os.path.join(self.blobs, digest), self.runs[group].restored)
        self.drop(digest)

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

    def pack_checkpoint(self, group, number):
        """Pack a save of rank 0, or return None if there is no complete one of that number."""
        run = self.runs[group]
        if run.packed and run.packed["number"] == number and self.has(run.packed["digest"]):
            return run.packed
        name = f"checkpoint-{group}"
        path = os.path.join(run.saves, str(number), name)
        if not os.path.isdir(path):
            return None
        digest, size, names = blobs.pack([(path, name)], self.blobs)
        for other in os.listdir(run.saves):
            if int(other) <= number:
                shutil.rmtree(os.path.join(run.saves, other), ignore_errors=True)
        run.packed = {"number": number, "digest": digest, "size": size, "files": len(names)} if names else None
        return run.packed

    def pack_artifacts(self, group, patterns):
        """Pack what the worker left of the job's artifacts, or return None if there is nothing."""
        cwd = self.runs[group].cwd
        inside = os.path.realpath(cwd) + os.sep
        names = sorted(
            {
                name.rstrip("/")
                for pattern in patterns
                for name in glob.glob(pattern, root_dir=cwd, recursive=True)
                if os.path.realpath(os.path.join(cwd, name)).startswith(inside)
            }
        )
        # What stands in a directory that is packed comes with it.
        packed = {name for name in names if is_directory(os.path.join(cwd, name))}
        names = [name for name in names if packed.isdisjoint(ancestors(name))]
        if not names:
            return None
        digest, size, files = blobs.pack([(os.path.join(cwd, name), name) for name in names], self.blobs)
        return {"digest": digest, "size": size, "files": len(files)}

    def read(self, digest, offset, size):
        """A chunk of a blob."""
        with open(os.path.join(self.blobs, digest), "rb") as file:
            file.seek(offset)
            return file.read(size)

    def has(self, digest):
        return os.path.exists(os.path.join(self.blobs, digest))

    def write(self, digest, offset, chunk, last):
        """Receive a blob chunk by chunk, from offset 0 on. At the last, say whether it is what it should be."""
        if offset == 0:
            if unfinished := self.receivers.pop(digest, None):
                unfinished.abandon()
            self.receivers[digest] = blobs.Receiver(self.blobs, digest)
        self.receivers[digest].write(chunk)
        return self.receivers.pop(digest).finish() if last else None

    def drop(self, digest):
        """Remove a blob."""
        path = os.path.join(self.blobs, digest)
        if os.path.exists(path):
            os.unlink(path)

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
        shutil.rmtree(run.directory, ignore_errors=True)

    def close(self):
        """Kill every worker and leave nothing on the node."""
        for group in list(self.runs):
            self.forget(group)
        self._remove_directory()

    # --- Called by the supervisor ----------------------------------------------------------------------------

    def await_release(self, run, timeout_s):
        """Note that a worker has arrived where it must wait; say whether it may go on."""
        with self.changed:
            if not run.arrived:
                run.arrived = True
                self._tell()
            return self.changed.wait_for(lambda: run.released, timeout_s)

    def note_joined(self, run):
        with self.changed:
            run.joined = True
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
        while True:
            run, request = self.launches.get()
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

    def _launch(self, run, request):
        """Start the bootstrap. The working directory is a copy, so that nobody writes into another's."""
        if self.has_package:
            shutil.copytree(os.getcwd(), run.cwd, symlinks=True, dirs_exist_ok=True)
        os.makedirs(run.cwd, exist_ok=True)
        share = request["sharePath"] or os.path.join(self.home, "share")
        os.makedirs(share, exist_ok=True)
        url = self.supervisor.admit(run)
        config = {
            "parent": os.getpid(),
            "cwd": run.cwd,
            "control": run.control_path,
            "saves": run.saves,
            "releaseUrl": url + "/release",
            "rank": run.rank,
            **{key: request[key] for key in ("entrypoint", "command", "args")},
        }
        config_path = os.path.join(run.directory, "config.json")
        with open(config_path, "w", encoding="utf-8") as file:
            json.dump(config, file)
        environment = {**host.worker_environment(self.address, self.cpus, self.gpus, run.cwd), **request["env"]}
        environment.update(
            **host.without_proxy(environment),
            ADAPTDL_JOB_ID=request["job"],
            ADAPTDL_REPLICA_RANK=str(run.rank),
            ADAPTDL_NUM_REPLICAS=str(request["replicas"]),
            ADAPTDL_NUM_NODES=str(request["nodes"]),
            ADAPTDL_NUM_RESTARTS=str(run.group),
            ADAPTDL_MASTER_PORT=str(request["masterPort"]),
            ADAPTDL_SUPERVISOR_URL=url,
            ADAPTDL_CHECKPOINT_PATH=run.restored,
            ADAPTDL_SHARE_PATH=share,
            ADAPTDL_SCHED_VERSION="0.2.11",
        )
        reader, writer = os.pipe()
        try:
            run.process = host.launch([sys.executable, WORKER, config_path], environment, writer)
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        if not run.released:
            host.set_oom_score(run.process.pid, 1000)
        guard = host.guard(run.process.pid)
        threading.Thread(target=self._follow, args=(run, reader, guard), daemon=True, name="follower").start()

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
        """Notice what a worker did without telling, and the end of the lease."""
        while True:
            time.sleep(WATCH_S)
            with self.changed:
                for run in self.runs.values():
                    words = run.control.words
                    seen = (words[worker.SAVES], words[worker.FIRST_STEP_NS])
                    if seen != run.noticed:
                        run.noticed = seen
                        self._tell()
            if time.monotonic() - self.last_contact > self.lease_s:
                try:
                    for run in list(self.runs.values()):
                        if run.alive():
                            host.kill_group(run.process.pid)
                    self._remove_directory()
                finally:
                    os._exit(1)


def is_directory(path):
    """Whether it is a directory, and not a link to one, which is packed as a link."""
    return os.path.isdir(path) and not os.path.islink(path)


def ancestors(name):
    """The directories that a relative name stands in."""
    while name := os.path.dirname(name):
        yield name

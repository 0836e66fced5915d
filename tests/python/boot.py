"""Machines that boot: `src/provider/aws/boot.sh`, run for real, with stubs for what acts on a machine.

A machine here is a directory that stands for /, commands of its own, and a service that is the metadata service, the
dashboard and the agent at once.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from support import enter

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../src/provider/aws/boot.sh")
BOUND_S = 60.0
NASTY = "it's $HOME `id` \"quoted\" \\ * \n second line"
# What is really run. An image needs no more than this.
REAL = (
    "awk", "bash", "cat", "curl", "date", "env", "flock", "id", "install", "mkdir", "mv", "sleep", "tail", "tee",
)  # fmt: skip
# What each stub does, as a piece of shell, after it has noted its arguments.
STUBS = {
    "apt-get": "", "chown": "", "mdadm": "", "mkfs.ext4": "", "mount": "", "mount.nfs4": "", "shutdown": "",
    "systemctl": "", "lsblk": "", "blkid": "exit 2", "mountpoint": "exit 1", "aws": "echo ray-secret",
    "docker": 'if [[ $1 == exec ]]; then shift 2; exec "$@"; fi',
    "ray": 'env -0 >"$MACHINE/ray-environment"; exec sleep 1000',
}  # fmt: skip
NEEDED = {"controllerS": 0.5, "jobS": None, "unsafeCheckpoints": 0, "joined": True}
FORGOTTEN = {**NEEDED, "controllerS": 5000.25, "jobS": 4000}


class Service(BaseHTTPRequestHandler):
    """All that an instance asks. What it says are its server's attributes."""

    def do_PUT(self):
        assert int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21600
        self.answer(200 if self.path == "/latest/api/token" else 404, "session")

    def do_GET(self):
        server = self.server
        path, _, query = self.path.partition("?")
        if path.startswith("/latest/"):
            if self.headers.get("X-aws-ec2-metadata-token") != "session":
                return self.answer(401)
            if server.metadata_fails:
                server.metadata_fails -= 1
                return self.answer(500)
            known = {"instance-id": "i-0123", "local-ipv4": "127.0.0.1"}.get(path.removeprefix("/latest/meta-data/"))
            return self.answer(200 if known else 404, known or "")
        if path == "/api/gcs_healthz":
            return self.answer(200 if server.healthy else 503)
        server.asked.append(query)
        return self.answer(200 if server.life else 503, json.dumps(server.life))

    def answer(self, status, body=""):
        with contextlib.suppress(ConnectionError):  # Who asked may have been killed.
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

    def log_message(self, *_arguments):
        pass


class Machine:
    """An instance that boots. `settings` are those that differ from a plain worker's."""

    def __init__(self, test, **settings):
        self.directory = enter(test, tempfile.TemporaryDirectory())
        self.root, self.bin = (os.path.join(self.directory, name) for name in ("root", "bin"))
        self.calls_path, self.output_path = (os.path.join(self.directory, name) for name in ("calls", "output"))
        for directory in (self.bin, os.path.join(self.root, "var/lib/cloud/scripts/per-boot")):
            os.makedirs(directory)
        for name in REAL:
            os.symlink(shutil.which(name), os.path.join(self.bin, name))
        # A link to it would not do in an environment, where it finds itself by its path.
        self.stub("python3", f'exec {shlex.quote(sys.executable)} "$@"')
        for name, action in STUBS.items():
            self.stub(name, action)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
        self.server.daemon_threads = True
        self.server.life, self.server.healthy, self.server.metadata_fails, self.server.asked = NEEDED, True, 0, []
        threading.Thread(target=self.server.serve_forever, args=[0.01], daemon=True).start()
        port = str(self.server.server_port)
        self.settings = {
            "CLUSTER_UID": "u-1", "NODE": "gpu-1", "LAUNCH": "launch-1", "ROLE": "worker", "REGION": "us-west-2",
            "HEAD_ADDRESS": "127.0.0.1", "GCS_PORT": "6379", "DASHBOARD_PORT": port, "AGENT_PORT": port,
            "TOKEN_PARAMETER": "", "JOIN_S": "600", "ORPHAN_S": "600", "DATA_PATH": "", "DOCKER_IMAGE": "",
            "DOCKER_OPTIONS": [], "FILE_SYSTEMS": [], "SETUP": [], "ENV": [], "RAY_ENV": [],
            "RAY_ARGUMENTS": ["--num-cpus=4", '--resources={"disk": 1.5}'], "LABELS": "rayconcile.dev/node=gpu-1",
            "RAY_START": [], **settings,
        }  # fmt: skip
        self.environment = {
            "PATH": self.bin, "MACHINE": self.directory, "RAYCONCILE_ROOT": self.root, "RAY_ADDRESS": "another:6379",
            "RAYCONCILE_METADATA": f"http://127.0.0.1:{port}", "RAYCONCILE_RETRY_S": "0.05",
            "RAYCONCILE_RESTART_MAX_S": "0.2", "RAYCONCILE_JOIN_POLL_S": "0.1", "RAYCONCILE_ORPHAN_POLL_S": "0.1",
        }  # fmt: skip
        self.script = os.path.join(self.directory, "user-data")
        self.processes = []
        test.addCleanup(self.end)

    def stub(self, name, action):
        note = f"printf '%s\\0' {name} \"$@\" $'\\1' >>{shlex.quote(self.calls_path)}"
        with open(os.path.join(self.bin, name), "w", encoding="utf-8") as file:
            file.write(f"#!{shutil.which('bash')}\n{note}\n{action}\n")
        os.chmod(file.name, 0o755)

    def without(self, *names):
        for name in names:
            os.unlink(os.path.join(self.bin, name))

    def user_data(self):
        """As `userdata.rs` puts it together."""
        lines = ["#!/bin/bash"]
        for name, value in self.settings.items():
            quoted = shlex.quote(value) if isinstance(value, str) else f"({' '.join(map(shlex.quote, value))})"
            lines.append(f"RC_{name}={quoted}")
        with open(SCRIPT, encoding="utf-8") as file:
            return "\n".join(lines) + "\n" + file.read()

    def boot(self):
        with open(self.script, "w", encoding="utf-8") as file:
            file.write(self.user_data())
        with open(self.output_path, "ab") as output:
            process = subprocess.Popen(
                ["bash", self.script], env=self.environment, stdout=output, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def end(self):
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.server.shutdown()
        self.server.server_close()

    # --- What has come of it ----------------------------------------------------------------------------------

    def output(self):
        with open(self.output_path, encoding="utf-8") as file:
            return file.read()

    def read(self, path):
        with open(os.path.join(self.root, path), encoding="utf-8") as file:
            return file.read()

    def calls(self, *beginning):
        """The calls of stubs that begin so, without that."""
        if not os.path.exists(self.calls_path):
            return []
        with open(self.calls_path, encoding="utf-8") as file:
            calls = [call.split("\0")[:-1] for call in file.read().split("\1\0")[:-1]]
        return [call[len(beginning) :] for call in calls if call[: len(beginning)] == list(beginning)]

    def until(self, condition, what):
        deadline = time.monotonic() + BOUND_S
        while not condition():
            assert time.monotonic() < deadline, f"not within {BOUND_S} s: {what}\n{self.output()}\n{self.calls()}"
            time.sleep(0.02)

    def until_called(self, *beginning, times=1):
        self.until(lambda: len(self.calls(*beginning)) >= times, " ".join(beginning))
        return self.calls(*beginning)

    def until_shut_down(self):
        return self.until_called("shutdown", "-h", "now")

    def until_said(self, text):
        self.until(lambda: text in self.output(), text)

    def beat(self):
        """Show it, once, that a worker lives: as `rayconcile_agent/beat.py` does."""
        with open(os.path.join(self.root, "run/rayconcile/beat"), "r+", encoding="ascii") as file:
            file.write(f"{time.monotonic_ns():020d}\n")

    def ray_environment(self):
        self.until_called("ray", "start")
        path = os.path.join(self.directory, "ray-environment")
        self.until(lambda: os.path.exists(path) and os.path.getsize(path), "ray runs")
        with open(path, encoding="utf-8") as file:
            return dict(variable.partition("=")[::2] for variable in file.read().split("\0"))

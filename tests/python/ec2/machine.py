"""One instance: its directories, its environment, its processes."""

import base64
import gzip
import json
import os
import socket
import shutil
import subprocess

from ec2 import marks
from ec2.ports import free_ports

STUBS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stubs", "main.py")
COMMANDS = (
    "docker", "aws", "mount", "mount.nfs4", "umount", "mdadm", "mkfs.ext4", "lsblk", "blkid", "systemctl", "apt-get",
    "yum", "shutdown",
)  # fmt: skip
# Several nodes share this machine: ports as the kernel gives them, and one who reads Ray's logs is enough.
RAY_ARGUMENTS = """--min-worker-port=0
--max-worker-port=0
--dashboard-agent-listen-port=0
--dashboard-agent-grpc-port=0
--runtime-env-agent-port=0
--node-manager-port=0
--object-manager-port=0
--metrics-export-port=0
--include-log-monitor=false"""
# Where nobody listens.
NOBODY = "127.0.0.1:1"
WAITS = {
    "RAYCONCILE_RETRY_S": "1", "RAYCONCILE_RESTART_MAX_S": "2", "RAYCONCILE_JOIN_POLL_S": "1",
    "RAYCONCILE_ORPHAN_POLL_S": "1",
}  # fmt: skip


class Machine:
    """`place` is the region's own: its mark, directory, endpoints and options. One that is `apart` reaches no head."""

    def __init__(self, place, number, instance, apart=False):
        self.id, self.address = instance.id, instance.private_ip_address
        self.directory = os.path.join(place.directory, self.id)
        self.root = os.path.join(self.directory, "root")
        # Ray's sockets lie in it, and the path of a socket has at most 107 characters.
        self.ray_temp = os.path.join(place.directory, f"r{number}")
        self.output_path = os.path.join(place.directory, f"{self.id}.output")
        self.calls_path = os.path.join(place.directory, f"{self.id}.calls")
        self.user_data = unpacked(instance.user_data)
        self.environment = self._environment(place)
        if apart:
            self.environment["RAYCONCILE_RAY_ARGUMENTS"] += f"\n--address={NOBODY}"
        self.processes = []
        self.listeners = [place.gate.open(self.address, port) for port in place.options.enclosed]

    def _environment(self, place):
        """Nothing of the region's own environment: an instance knows only what it is told. REGION_... is for stubs."""
        home, bin_ = os.path.join(self.root, "root"), os.path.join(place.directory, "bin")
        python = os.path.dirname(os.path.abspath(place.options.python))
        (client_port,) = free_ports(1)  # Ray takes no 0 for "any" here.
        return {
            "PATH": os.pathsep.join((bin_, python, "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")),
            "HOME": home, "LANG": "C.UTF-8", "TMPDIR": os.path.join(self.root, "tmp"),
            marks.REGION: place.mark, marks.INSTANCE: self.id,
            # Ray's processes give themselves titles, which by default are written over their environment, and with
            # it over the marks (setproctitle's documentation).
            "SPT_NOENV": "1",
            "REGION_DIRECTORY": self.directory, "REGION_CALLS": self.calls_path,
            "REGION_ENDPOINT": place.endpoint, "REGION_CONTROL": place.control,
            "RAYCONCILE_ROOT": self.root, "RAYCONCILE_ADDRESS": self.address,
            "RAYCONCILE_METADATA": f"{place.control}/imds/{self.address}", "RAYCONCILE_RAY_TEMP": self.ray_temp,
            "RAYCONCILE_RAY_ARGUMENTS": f"{place.options.ray_arguments}\n--ray-client-server-port={client_port}",
            **WAITS,
            **dict(variable.split("=", 1) for variable in place.options.env),
        }  # fmt: skip

    def boot(self):
        """Run the user data, as cloud-init does: if it is a script."""
        for directory in (self.environment["HOME"], self.environment["TMPDIR"], self.ray_temp):
            os.makedirs(directory, exist_ok=True)
        path = os.path.join(self.directory, "user-data")
        with open(path, "wb") as file:
            file.write(self.user_data)
        with open(self.output_path, "ab") as output:
            if not self.user_data.startswith(b"#!"):
                output.write(b"the user data is not a script\n")
                return
            self.processes.append(subprocess.Popen(
                ["bash", path], cwd=self.root, env=self.environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            ))  # fmt: skip

    def halt(self, grace_s=0.0):
        """End all of its processes."""
        if not self.processes:
            return
        marks.end(marks.INSTANCE, self.id, grace_s)
        for process in self.processes:
            process.wait()
        self.processes = []

    def end(self, grace_s):
        """End all of its processes, and remove what it wrote."""
        self.halt(grace_s)
        for listener in self.listeners:
            listener.shutdown(socket.SHUT_RDWR)
        self.listeners = []
        for directory in (self.directory, self.ray_temp):
            shutil.rmtree(directory, ignore_errors=True)

    def reap(self):
        for process in self.processes:
            process.poll()

    def output(self, size):
        """The end of what it said."""
        try:
            with open(self.output_path, "rb") as file:
                file.seek(max(0, os.path.getsize(self.output_path) - size))
                return file.read()
        except FileNotFoundError:
            return b""

    def calls(self):
        """The arguments of each of its calls of a stub."""
        try:
            with open(self.calls_path, encoding="utf-8") as file:
                return [json.loads(line) for line in file if line.endswith("\n")]
        except FileNotFoundError:
            return []


def unpacked(user_data):
    """As the instance gets it, unpacked if it was packed."""
    data = base64.b64decode(str(user_data)) if user_data is not None else b""
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def write_stubs(directory, interpreter):
    """The commands that stand for those which would act on this machine."""
    os.mkdir(directory)
    for name in COMMANDS:
        path = os.path.join(directory, name)
        with open(path, "w", encoding="utf-8") as file:
            # Without its site packages an interpreter is there in no time.
            file.write(f'#!/bin/sh\nexec "{interpreter}" -BES "{STUBS}" {name} "$@"\n')
        os.chmod(path, 0o755)

"""What an instance does when it boots: `src/provider/aws/boot.sh`, run for real, with stubs for what acts on a machine.

A machine here is a directory that stands for /, commands of its own, and a service that is the metadata service, the
dashboard and the agent at once.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import unittest
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
NVME, EBS = "Amazon EC2 NVMe Instance Storage", "Amazon Elastic Block Store"
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

    def ray_environment(self):
        self.until_called("ray", "start")
        path = os.path.join(self.directory, "ray-environment")
        self.until(lambda: os.path.exists(path) and os.path.getsize(path), "ray runs")
        with open(path, encoding="utf-8") as file:
            return dict(variable.partition("=")[::2] for variable in file.read().split("\0"))


def disk(name, kind="disk", filesystem="", mount="", read_only="0", parent="", model=""):
    return (
        f'NAME="/dev/{name}" TYPE="{kind}" FSTYPE="{filesystem}" MOUNTPOINT="{mount}" RO="{read_only}" '
        f'PKNAME="{parent and "/dev/" + parent}" MODEL="{model}"'
    )


# A root disk on NVMe has the model of every EBS volume.
ROOT_DISK = [disk("nvme0n1", model=EBS), disk("nvme0n1p1", "part", "ext4", "/", parent="nvme0n1")]


class ScriptTest(unittest.TestCase):
    def test_shellcheck_and_bash_find_nothing(self):
        machine = Machine(self, SETUP=[NASTY], DOCKER_OPTIONS=["--shm-size=8g", NASTY])
        rendered = os.path.join(machine.directory, "rendered")
        with open(rendered, "w", encoding="utf-8") as file:
            file.write(machine.user_data())
        shellcheck = os.path.join(sysconfig.get_path("scripts"), "shellcheck")
        for command in ([shellcheck, SCRIPT], ["bash", "-n", rendered]):
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            self.assertEqual((done.returncode, done.stdout), (0, ""))

    def test_it_is_small_enough_to_leave_room_for_a_manifest(self):
        packed = subprocess.run(["gzip", "-9", "-c", SCRIPT], stdout=subprocess.PIPE, check=True).stdout
        self.assertLess(len(packed), 8 << 10)


class RayTest(unittest.TestCase):
    def test_a_worker_joins_its_head(self):
        machine = Machine(self, RAY_START=["--num-cpus=3", f"--plasma-directory={NASTY}"], HEAD_ADDRESS="127.0.0.2")
        machine.environment["RAYCONCILE_RAY_TEMP"] = "/tmp/r1"
        machine.environment["RAYCONCILE_RAY_ARGUMENTS"] = "--min-worker-port=0\n--max-worker-port=0"
        machine.boot()
        (arguments,) = machine.until_called("ray", "start")
        self.assertEqual(
            arguments,
            [
                "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1", "--address=127.0.0.2:6379",
                "--node-manager-port=8271", "--object-manager-port=8272", "--runtime-env-agent-port=8273",
                "--dashboard-agent-listen-port=8274", "--dashboard-agent-grpc-port=8275", "--metrics-export-port=8276",
                "--min-worker-port=10002", "--max-worker-port=19999", "--num-cpus=4", '--resources={"disk": 1.5}',
                "--labels=rayconcile.dev/node=gpu-1,ec2.instance-id=i-0123", "--temp-dir=/tmp/r1",
                "--num-cpus=3", f"--plasma-directory={NASTY}", "--min-worker-port=0", "--max-worker-port=0",
            ],
        )  # fmt: skip
        self.assertEqual(machine.calls("aws") + machine.calls("docker") + machine.calls("shutdown"), [])

    def test_a_head_listens_at_its_own_address(self):
        machine = Machine(self, ROLE="head", DASHBOARD_PORT="8265")
        machine.boot()
        (arguments,) = machine.until_called("ray", "start")
        self.assertEqual(
            arguments[2:7],
            [
                "--node-ip-address=127.0.0.1", "--head", "--port=6379", "--dashboard-host=127.0.0.1",
                "--dashboard-port=8265",
            ],
        )  # fmt: skip
        self.assertIn("--ray-client-server-port=10001", arguments)
        self.assertEqual([word for word in arguments if word.startswith("--address")], [])

    def test_ray_has_the_manifests_environment_and_no_other_clusters(self):
        machine = Machine(
            self,
            TOKEN_PARAMETER="/rayconcile/u-1/ray-token",
            ENV=[f"NASTY={NASTY}", "EMPTY=", "RAY_AUTH_MODE=mine", "TWICE=1", "TWICE=2"],
            RAY_ENV=["RAY_health_check_period_ms=500"],
        )
        machine.boot()
        environment = machine.ray_environment()
        token = os.path.join(machine.root, "run/rayconcile/ray-token")
        expected = {
            "NASTY": NASTY, "EMPTY": "", "TWICE": "2", "RAY_health_check_period_ms": "500",
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token, "RAY_CLOUD_INSTANCE_ID": "i-0123",
            "RAY_USAGE_STATS_ENABLED": "0", "HOME": "/root",
        }  # fmt: skip
        self.assertEqual({name: environment.get(name) for name in expected}, expected)
        self.assertEqual({name for name in environment if name.startswith("RAY_")} - expected.keys(), set())
        self.assertEqual(machine.read("run/rayconcile/ray-token").strip(), "ray-secret")
        self.assertEqual(stat.S_IMODE(os.stat(token).st_mode), 0o600)
        self.assertEqual(
            machine.calls("aws"),
            [shlex.split("ssm get-parameter --with-decryption --name /rayconcile/u-1/ray-token --query Parameter.Value "
                         "--output text --region us-west-2")],
        )  # fmt: skip
        self.assertNotIn("ray-secret", machine.output())

    def test_without_a_token_ray_asks_for_none_even_if_the_image_has_one(self):
        machine = Machine(self)
        machine.boot()
        environment = machine.ray_environment()
        self.assertEqual((environment["RAY_AUTH_MODE"], environment.get("RAY_AUTH_TOKEN_PATH")), ("disabled", None))

    def test_ray_is_started_again_with_growing_waits(self):
        machine = Machine(self)
        machine.environment["RAYCONCILE_RAY"] = "python3 -m ray"
        machine.stub("python3", "exit 3")
        machine.boot()
        calls = machine.until_called("python3", "-m", "ray", "start", times=5)
        self.assertTrue(all(arguments == calls[0] for arguments in calls))
        waits = [line.split(" in ")[1] for line in machine.output().splitlines() if "started again" in line]
        self.assertEqual(waits[:4], ["0.05 s", "0.1 s", "0.2 s", "0.2 s"])
        self.assertEqual(machine.calls("shutdown"), [])

    def test_what_it_says_is_on_the_console_and_in_a_file(self):
        machine = Machine(self, SETUP=["echo to the console"])
        machine.boot()
        machine.until_called("ray")
        machine.until_said("\nto the console\n")
        machine.until(lambda: "\nto the console\n" in machine.read("var/log/rayconcile-boot.log"), "the file has it")

    def test_the_metadata_service_is_asked_until_it_answers(self):
        machine = Machine(self)
        machine.server.metadata_fails = 2
        machine.boot()
        machine.until_called("ray")
        self.assertIn("asking the metadata service failed; again in 0.05 s", machine.output())


class DockerTest(unittest.TestCase):
    def machine(self, **settings):
        return Machine(self, DOCKER_IMAGE="rayproject/ray:2.60.0", **settings)

    def run_arguments(self, machine):
        (arguments,) = machine.until_called("docker", "run")
        return arguments

    def test_ray_runs_in_a_container(self):
        options = ["--volume=/data:/data:ro", f"--env=A={NASTY}"]
        machine = self.machine(
            DOCKER_OPTIONS=options,
            TOKEN_PARAMETER="/rayconcile/u-1/ray-token",
            ENV=["NAME=it's a # value", f"NASTY={NASTY}"],
            FILE_SYSTEMS=["fs-1", "/", "/efs"],
        )
        machine.boot()
        arguments = self.run_arguments(machine)
        token, file = (os.path.join(machine.root, "run/rayconcile", name) for name in ("ray-token", "env"))
        with open("/proc/meminfo", encoding="ascii") as memory:
            half = int(next(line.split()[1] for line in memory if line.startswith("MemTotal"))) // 2
        self.assertEqual(
            arguments,
            [
                "--detach", "--init", "--name", "rayconcile", "--network", "host", "--ulimit", "nofile=65536:65536",
                "--label", "rayconcile.dev/cluster-uid=u-1", "--label", "rayconcile.dev/launch=launch-1",
                "--label", "rayconcile.dev/node=gpu-1", "--env-file", file, "--env", f"NASTY={NASTY}",
                "--volume", f"{token}:{token}:ro", "--volume", f"{machine.root}/efs:/efs", "--shm-size", f"{half}k",
                *options, "rayproject/ray:2.60.0", "sleep", "infinity",
            ],
        )  # fmt: skip
        self.assertEqual(
            set(machine.read("run/rayconcile/env").splitlines()),
            {
                "NAME=it's a # value", "RAY_USAGE_STATS_ENABLED=0", "RAY_CLOUD_INSTANCE_ID=i-0123",
                "RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN_PATH={token}",
            },
        )  # fmt: skip
        self.assertEqual(stat.S_IMODE(os.stat(file).st_mode), 0o600)
        machine.until_called("docker", "exec", "rayconcile", "ray", "start", "--block")
        order = [call[0] for call in machine.calls("docker")]
        self.assertEqual(order, ["info", "pull", "rm", "run", "exec", "exec"])
        self.assertEqual(machine.calls("docker", "rm"), [["--force", "rayconcile"]])
        self.assertEqual(machine.calls("chown"), [])

    def test_gpus_and_shared_memory_are_given_unless_the_user_says(self):
        plain, told = self.machine(), self.machine(DOCKER_OPTIONS=["--gpus", "device=0", "--ipc=host"])
        for machine in (plain, told):
            os.makedirs(os.path.join(machine.root, "dev"))
            with open(os.path.join(machine.root, "dev/nvidia0"), "w", encoding="ascii"):
                pass
            machine.boot()
        arguments = self.run_arguments(plain)
        self.assertEqual(arguments[arguments.index("--gpus") + 1], "all")
        arguments = self.run_arguments(told)
        self.assertEqual((arguments.count("--gpus"), "--shm-size" in arguments), (1, False))
        self.assertEqual(arguments[-6:-3], ["--gpus", "device=0", "--ipc=host"])

    def test_a_user_of_the_image_can_read_the_token(self):
        machine = self.machine(TOKEN_PARAMETER="/token")
        machine.without("id")
        machine.stub("id", "echo 1000")
        machine.boot()
        self.assertEqual(machine.until_called("chown"), [["1000", f"{machine.root}/run/rayconcile/ray-token"]])

    def test_a_pull_is_tried_again(self):
        machine = self.machine()
        fails_once = '[[ $1 != pull || -e $MACHINE/tried ]] || { : >"$MACHINE/tried"; exit 1; }'
        machine.stub("docker", f"{STUBS['docker']}\n{fails_once}")
        machine.boot()
        machine.until_called("docker", "exec")
        self.assertEqual(machine.calls("docker", "pull"), [["--quiet", "rayproject/ray:2.60.0"]] * 2)

    def test_docker_is_started_if_it_does_not_answer(self):
        machine = self.machine()
        machine.stub("docker", STUBS["docker"] + '\n[[ $1 != info || -e $MACHINE/up ]] || exit 1')
        machine.stub("systemctl", ': >"$MACHINE/up"')
        machine.boot()
        machine.until_called("docker", "run")
        self.assertEqual(machine.calls("systemctl"), [["start", "docker"]])

    def test_ecr_asks_for_a_password(self):
        registry = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
        machine = Machine(self, DOCKER_IMAGE=f"{registry}/team/ray:1")
        machine.stub("docker", STUBS["docker"] + '\n[[ $1 != login ]] || cat >"$MACHINE/password"')
        machine.boot()
        machine.until_called("docker", "pull")
        self.assertEqual(machine.calls("aws"), [["ecr", "get-login-password", "--region", "eu-west-1"]])
        self.assertEqual(machine.calls("docker", "login"), [["--username", "AWS", "--password-stdin", registry]])
        with open(os.path.join(machine.directory, "password"), encoding="ascii") as file:
            self.assertEqual(file.read(), "ray-secret\n")

    def test_a_container_that_ended_is_started_again_with_ray(self):
        machine = self.machine()
        machine.stub("ray", "exit 1")
        machine.boot()
        machine.until_called("ray", "start", times=2)
        self.assertEqual(machine.calls("docker", "start")[0], ["rayconcile"])


class SetUpTest(unittest.TestCase):
    def test_commands_are_run_in_order_where_ray_runs(self):
        commands = ["echo one", f"printf %s {shlex.quote(NASTY)}", 'echo "$A"']
        commands = [f'{command} >>"$MACHINE/log"' for command in commands]
        for settings, expected in (({}, "a"), ({"DOCKER_IMAGE": "image"}, "")):
            machine = Machine(self, SETUP=commands, ENV=["A=a"], **settings)
            machine.boot()
            machine.until_called("ray")
            with open(os.path.join(machine.directory, "log"), encoding="utf-8") as file:
                self.assertEqual(file.read(), f"one\n{NASTY}{expected}\n")
            inside = [call[2] for call in machine.calls("docker", "exec", "rayconcile") if call[:2] == ["bash", "-c"]]
            self.assertEqual(inside, commands if settings else [])

    def test_one_that_fails_ends_the_instance_and_shows_why(self):
        for settings in ({}, {"DOCKER_IMAGE": "image"}):
            machine = Machine(self, SETUP=["true", "echo cannot install it >&2; exit 7", "touch /never"], **settings)
            machine.boot()
            machine.until_shut_down()
            self.assertIn("cannot install it\n", machine.output())
            self.assertIn("set-up command 2 failed with status 7: echo cannot install it", machine.output())
            self.assertEqual(machine.calls("ray"), [])


class DataDiskTest(unittest.TestCase):
    def boot(self, listing, blkid="exit 2", **settings):
        machine = Machine(self, DATA_PATH="/data", **settings)
        with open(os.path.join(machine.directory, "listing"), "w", encoding="utf-8") as file:
            file.write("\n".join(listing) + "\n")
        machine.stub("lsblk", 'cat "$MACHINE/listing"')
        machine.stub("blkid", blkid)
        machine.boot()
        return machine

    def made(self, machine):
        """The calls that change a disk, and the mounts, of a machine that came as far as Ray."""
        machine.until_called("ray", "start")
        self.assertEqual(machine.calls("shutdown"), [])
        changes = [call for call in machine.calls() if call[0] in ("mkfs.ext4", "mdadm", "mount")]
        return [call for call in changes if call != ["mdadm", "--assemble", "/dev/md/rayconcile", "--name=rayconcile"]]

    def mounted(self, machine, device):
        return ["mount", "-o", "noatime", device, f"{machine.root}/data"]

    def test_a_blank_disk_becomes_the_data_disk(self):
        for name, model in (("nvme1n1", NVME + "        "), ("nvme1n1", EBS), ("xvdb", "")):
            machine = self.boot([*ROOT_DISK, disk(name, model=model)])
            device = f"/dev/{name}"
            expected = [["mkfs.ext4", "-q", "-L", "rayconcile-data", device], self.mounted(machine, device)]
            self.assertEqual(self.made(machine), expected)
            self.assertIn(["--probe", device], machine.calls("blkid"))

    def test_several_become_one(self):
        machine = self.boot([disk("nvme2n1", model=NVME), *ROOT_DISK, disk("nvme1n1", model=EBS)])
        array = "/dev/md/rayconcile"
        create = ["mdadm", "--create", array, "--run", "--homehost=any", "--name=rayconcile", "--level=0"]
        create += ["--raid-devices=2", "/dev/nvme2n1", "/dev/nvme1n1"]
        format_ = ["mkfs.ext4", "-q", "-L", "rayconcile-data", array]
        self.assertEqual(self.made(machine), [create, format_, self.mounted(machine, array)])

    def test_nobodys_disk_is_ever_touched(self):
        taken = [
            disk("nvme1n1", filesystem="xfs", model=NVME),
            disk("nvme2n1", mount="/mnt", model=NVME),
            disk("nvme3n1", model=EBS), disk("nvme3n1p1", "part", parent="nvme3n1"),
            disk("nvme4n1", model=NVME), disk("vg-lv", "lvm", "ext4", "/opt/nvme", parent="nvme4n1"),
            disk("nvme5n1", read_only="1", model=EBS),
            disk("nvme6n1", model="Somebody else's"),
            disk("sda"), disk("zram0", mount="[SWAP]"), disk("loop0", "loop"), disk("sr0", "rom"),
            disk("xvda"), disk("xvda1", "part", "ext4", "/", parent="xvda"),
            disk("nvme7n1", model=NVME),
        ]  # fmt: skip
        # What udev has not noted is on the disk itself.
        machine = self.boot([*ROOT_DISK, *taken], blkid='[[ $2 != /dev/nvme7n1 ]] || exit 0; exit 2')
        self.assertEqual(self.made(machine), [])
        self.assertIn("no disk is blank: /data is on the root disk", machine.output())
        self.assertTrue(os.path.isdir(f"{machine.root}/data"))

    def test_one_that_was_made_before_is_only_mounted(self):
        known = "[[ $1 != --label ]] || { echo /dev/md127; exit; }; exit 2"
        machine = self.boot([*ROOT_DISK, disk("nvme2n1", model=NVME)], known)
        self.assertEqual(self.made(machine), [self.mounted(machine, "/dev/md127")])
        self.assertIn(["--label", "rayconcile-data"], machine.calls("blkid"))

    def test_one_that_is_mounted_is_left(self):
        machine = Machine(self, DATA_PATH="/data")
        machine.stub("mountpoint", "")
        machine.boot()
        self.assertEqual(self.made(machine), [])
        self.assertEqual(machine.calls("systemctl"), [["restart", "docker"]])

    def test_docker_keeps_its_data_there_beside_what_it_was_told(self):
        machine = Machine(self, DATA_PATH="/data")
        os.makedirs(f"{machine.root}/etc/docker")
        with open(f"{machine.root}/etc/docker/daemon.json", "w", encoding="utf-8") as file:
            json.dump({"runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}, "data-root": "/old"}, file)
        machine.boot()
        machine.until_called("ray")
        settings = json.loads(machine.read("etc/docker/daemon.json"))
        self.assertEqual(settings.pop("data-root"), f"{machine.root}/data/docker")
        self.assertEqual(settings, {"runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}})
        self.assertEqual(machine.calls("systemctl"), [["restart", "docker"]])

    def test_a_machine_without_docker_has_data_too(self):
        machine = Machine(self, DATA_PATH="/data")
        machine.without("docker")
        machine.boot()
        machine.until_called("ray")
        self.assertEqual(machine.calls("systemctl"), [])

    def test_a_disk_that_cannot_be_made_ends_the_instance(self):
        machine = Machine(self, DATA_PATH="/data")
        machine.stub("lsblk", f"echo {shlex.quote(disk('nvme1n1', model=NVME))}")
        machine.stub("mkfs.ext4", "echo no luck >&2; exit 1")
        machine.boot()
        machine.until_shut_down()
        self.assertEqual((machine.calls("ray"), machine.calls("mount")), ([], []))
        self.assertIn("no luck", machine.output())


class FileSystemTest(unittest.TestCase):
    def test_efs_is_mounted_as_amazon_recommends(self):
        machine = Machine(self, FILE_SYSTEMS=["fs-1", "/", "/efs", "fs-2", "/a b", "/mnt/two"])
        machine.stub("mount", '[[ -e $MACHINE/again ]] || { : >"$MACHINE/again"; exit 32; }')
        machine.boot()
        machine.until_called("ray")
        options = "nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport"
        first = ["-t", "nfs4", "-o", options, "fs-1.efs.us-west-2.amazonaws.com:/", f"{machine.root}/efs"]
        second = ["-t", "nfs4", "-o", options, "fs-2.efs.us-west-2.amazonaws.com:/a b", f"{machine.root}/mnt/two"]
        self.assertEqual(machine.calls("mount"), [first, first, second])
        self.assertTrue(os.path.isdir(f"{machine.root}/mnt/two"))

    def test_what_mounts_it_is_installed_if_the_image_lacks_it(self):
        machine = Machine(self, FILE_SYSTEMS=["fs-1", "/", "/efs"], REGION="cn-north-1")
        machine.without("mount.nfs4")
        machine.boot()
        machine.until_called("ray")
        self.assertEqual(machine.calls("apt-get"), [["-q", "update"], ["-q", "-y", "install", "nfs-common"]])
        self.assertEqual(machine.calls("mount")[0][4], "fs-1.efs.cn-north-1.amazonaws.com.cn:/")

    def test_what_is_mounted_is_left(self):
        machine = Machine(self, FILE_SYSTEMS=["fs-1", "/", "/efs"])
        machine.stub("mountpoint", "")
        machine.boot()
        machine.until_called("ray")
        self.assertEqual(machine.calls("mount"), [])


class EndTest(unittest.TestCase):
    """When an instance ends itself, and when it does not."""

    def test_what_cannot_become_a_node_ends(self):
        refuses = "[[ $1 != run ]] || { echo unknown flag >&2; exit 125; }"
        ends_at_once = "if [[ $1 == exec ]]; then exit 1; fi; [[ $1 != logs ]] || echo usage"
        no_metadata = Machine(self, JOIN_S="1")
        no_metadata.server.metadata_fails = 1 << 20
        cases = [(no_metadata, "asking the metadata service failed for 1 s")]
        for settings, command, action, said in (
            ({"TOKEN_PARAMETER": "/token"}, "aws", None, "no AWS CLI"),
            ({"TOKEN_PARAMETER": "/token", "JOIN_S": "1"}, "aws", "exit 254", "fetching Ray's token failed for 1 s"),
            # An empty token would be none.
            ({"TOKEN_PARAMETER": "/token", "JOIN_S": "1"}, "aws", "", "fetching Ray's token failed for 1 s"),
            ({"DOCKER_IMAGE": "i"}, "docker", None, "no Docker"),
            ({"DOCKER_IMAGE": "i"}, "docker", refuses, "docker run failed with status 125"),
            ({"DOCKER_IMAGE": "i"}, "docker", ends_at_once, "i does not run what it is told: usage"),
        ):
            machine = Machine(self, **settings)
            machine.without(command) if action is None else machine.stub(command, action)
            cases.append((machine, said))
        for machine, _ in cases:
            machine.boot()
        for machine, said in cases:
            machine.until_shut_down()
            machine.until_said(said)
            self.assertEqual(machine.calls("ray"), [], said)

    def test_what_does_not_join_in_time_ends(self):
        lonely = [
            Machine(self, JOIN_S="1"),
            Machine(self, JOIN_S="1"),
            Machine(self, JOIN_S="1", ROLE="head"),
            # Whatever it hangs in.
            Machine(self, JOIN_S="1", SETUP=["sleep 1000"]),
        ]
        lonely[0].server.life = {**NEEDED, "joined": False}
        lonely[1].server.life = None
        lonely[2].server.healthy = False
        lonely[3].server.life = {**NEEDED, "joined": False}
        joined = [Machine(self, JOIN_S="5"), Machine(self, JOIN_S="5", ROLE="head")]
        joined[1].server.life = None
        for machine in lonely + joined:
            machine.boot()
        begun = time.monotonic()
        for machine in joined:
            machine.until_said("this node has joined")
        for machine in lonely:
            machine.until_shut_down()
            machine.until_said("it has not joined within 1 s")
        time.sleep(max(0.0, begun + 6.5 - time.monotonic()))
        self.assertEqual([machine.calls("shutdown") for machine in joined], [[], []])
        self.assertIn("address=127.0.0.1", joined[0].server.asked)

    def test_a_node_that_nobody_needs_ends_itself(self):
        forgotten, never_asked, silent = (Machine(self, ORPHAN_S="1") for _ in range(3))
        lonely_head, saved_head = (Machine(self, ORPHAN_S="1", ROLE="head") for _ in range(2))
        forgotten.server.life = saved_head.server.life = FORGOTTEN
        never_asked.server.life = {**FORGOTTEN, "controllerS": None, "jobS": None}
        lonely_head.server.life = None
        controlled, working, unsafe_head, silent_head = needed = [
            Machine(self, ORPHAN_S="1"), Machine(self, ORPHAN_S="1"),
            Machine(self, ORPHAN_S="1", ROLE="head"), Machine(self, ORPHAN_S="4", ROLE="head"),
        ]  # fmt: skip
        controlled.server.life = {**FORGOTTEN, "controllerS": 0.0}
        working.server.life = {**FORGOTTEN, "jobS": 0.0}
        unsafe_head.server.life = {**FORGOTTEN, "unsafeCheckpoints": 2}
        silent_head.server.life = FORGOTTEN
        ending = [forgotten, never_asked, silent, lonely_head, saved_head]
        for machine in ending + needed:
            machine.boot()
        for machine in ending + needed:
            machine.until_said("this node has joined")
        silent_head.until(lambda: silent_head.server.asked, "the agent has answered once")
        answered = time.monotonic()
        time.sleep(0.3)
        silent.server.life = silent_head.server.life = None
        for machine in ending:
            machine.until_shut_down()
            machine.until_said("it has had no job and heard of no controller for 1 s")
        time.sleep(max(0.0, answered + 5.5 - time.monotonic()))
        self.assertEqual([machine.calls("shutdown") for machine in needed], [[]] * 4)
        # The controller has come for the checkpoints, or the agent has been silent for twice as long.
        unsafe_head.server.life = FORGOTTEN
        for machine in (unsafe_head, silent_head):
            machine.until_shut_down()
        self.assertGreater(time.monotonic(), answered + 7)

    def test_an_answer_that_is_none_does_not_end_a_head(self):
        machine = Machine(self, ORPHAN_S="1", ROLE="head")
        machine.server.life = {**FORGOTTEN, "unsafeCheckpoints": None}
        machine.boot()
        machine.until_said("this node has joined")
        time.sleep(2.5)
        self.assertEqual(machine.calls("shutdown"), [])

    def test_it_sees_to_it_until_it_is_off(self):
        machine = Machine(self, SETUP=["false"])
        machine.stub("shutdown", "exit 1")
        machine.boot()
        machine.until_called("systemctl", "poweroff", "--force")

    def test_what_is_ended_from_outside_does_not_shut_down(self):
        machine = Machine(self)
        process = machine.boot()
        machine.until_called("ray")
        machine.until_said("this node has joined")
        os.killpg(process.pid, signal.SIGTERM)
        self.assertEqual(process.wait(BOUND_S), 143)
        self.assertEqual(machine.calls("shutdown"), [])

    def test_a_script_that_breaks_ends_the_instance(self):
        machine = Machine(self)
        with open(os.path.join(machine.root, "run"), "w", encoding="ascii"):
            pass  # Where a directory is to be.
        machine.boot()
        machine.until_shut_down()
        self.assertEqual(machine.calls("ray"), [])


class AgainTest(unittest.TestCase):
    """It may be run at any time."""

    def test_a_second_run_leaves_the_first_alone(self):
        machine = Machine(self, DOCKER_IMAGE="image")
        machine.boot()
        machine.until_called("ray")
        self.assertEqual(machine.boot().wait(BOUND_S), 0)
        machine.until_said("this is being done already")
        self.assertEqual([len(machine.calls("docker", "run")), len(machine.calls("ray"))], [1, 1])
        self.assertEqual(machine.calls("shutdown"), [])
        self.assertIsNone(machine.processes[0].poll())

    def test_a_run_after_another_has_ended_begins_anew(self):
        machine = Machine(self, DOCKER_IMAGE="image", SETUP=["sleep 1000 & true"])
        first = machine.boot()
        machine.until_called("ray")
        first.kill()
        first.wait()
        machine.boot()
        machine.until_called("ray", times=2)
        self.assertEqual(machine.calls("docker", "rm"), [["--force", "rayconcile"]] * 2)

    def test_it_is_run_at_later_boots_of_the_same_instance(self):
        machine = Machine(self)
        machine.boot()
        machine.until_called("ray")
        cloud = os.path.join(machine.root, "var/lib/cloud")
        for instance in ("i-0123", "i-4567"):
            os.makedirs(os.path.join(cloud, "instances", instance))
        for instance, times in (("i-4567", 0), ("i-0123", 1)):
            # As cloud-init makes it, and as it runs what is there for each boot.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(cloud, "instance"))
            os.symlink(os.path.join(cloud, "instances", instance), os.path.join(cloud, "instance"))
            done = subprocess.run(
                [os.path.join(cloud, "scripts/per-boot/rayconcile")], env=machine.environment, stdout=subprocess.PIPE,
                text=True, check=True,
            )  # fmt: skip
            self.assertEqual(done.stdout.count("this is being done already"), times)


if __name__ == "__main__":
    unittest.main()

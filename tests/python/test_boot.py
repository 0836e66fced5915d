"""What an instance does when it boots, as far as Ray, its set-up commands and a second run are concerned."""

import contextlib
import os
import shlex
import stat
import subprocess
import sysconfig
import unittest

from boot import BOUND_S, NASTY, SCRIPT, Machine

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
            "RAYCONCILE_BEAT": os.path.join(machine.root, "run/rayconcile/beat"),
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

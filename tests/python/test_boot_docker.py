"""An instance whose Ray runs in a container."""

import os
import stat
import unittest

from boot import NASTY, STUBS, Machine

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
        token, file, beat = (os.path.join(machine.root, "run/rayconcile", it) for it in ("ray-token", "env", "beat"))
        with open("/proc/meminfo", encoding="ascii") as memory:
            half = int(next(line.split()[1] for line in memory if line.startswith("MemTotal"))) // 2
        self.assertEqual(
            arguments,
            [
                "--detach", "--init", "--name", "rayconcile", "--network", "host", "--ulimit", "nofile=65536:65536",
                "--label", "rayconcile.dev/cluster-uid=u-1", "--label", "rayconcile.dev/launch=launch-1",
                "--label", "rayconcile.dev/node=gpu-1", "--env-file", file, "--volume", f"{beat}:{beat}",
                "--env", f"NASTY={NASTY}", "--volume", f"{token}:{token}:ro", "--volume", f"{machine.root}/efs:/efs",
                "--shm-size", f"{half}k", *options, "rayproject/ray:2.60.0", "sleep", "infinity",
            ],
        )  # fmt: skip
        self.assertEqual(
            set(machine.read("run/rayconcile/env").splitlines()),
            {
                "NAME=it's a # value", "RAY_USAGE_STATS_ENABLED=0", "RAY_CLOUD_INSTANCE_ID=i-0123",
                "RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN_PATH={token}", f"RAYCONCILE_BEAT={beat}",
            },
        )  # fmt: skip
        self.assertEqual([stat.S_IMODE(os.stat(path).st_mode) for path in (file, beat)], [0o600, 0o666])
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


if __name__ == "__main__":
    unittest.main()

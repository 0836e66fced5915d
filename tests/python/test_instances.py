"""The instances of the region that EC2's tests run against: they run, are told things, and end."""

import json
import os
import time
import unittest
import urllib.error

from ec2 import marks
from ec2.case import RegionCase, until


class InstanceTest(RegionCase):
    def test_user_data_runs_as_the_instance_and_once(self):
        identity = self.launch("""
            echo "at $RAYCONCILE_ADDRESS of $GIVEN in $RAYCONCILE_ROOT"
            mkdir -p "$RAYCONCILE_ROOT/var" && echo "$RAYCONCILE_RAY_ARGUMENTS" | cmp - "$RAYCONCILE_ROOT/var/arguments"
            python -c 'print("python is found")'; ls -d "$RAYCONCILE_RAY_TEMP"
            mount -t tmpfs none /mnt; blkid /dev/nvme1n1 || echo "blkid $?"; STUB_LSBLK_OUTPUT=disks lsblk
            STUB_MKFS_EXT4_EXIT=3 mkfs.ext4 -q '/dev/a b' || echo "mkfs $?"
            echo "PATH=$PATH"; echo over""")
        said = self.said(identity, "over")
        address = self.described(identity)["PrivateIpAddress"]
        for line in (f"at {address} of to all in /tmp/", "python is found", "blkid 2", "disks", "mkfs 3"):
            self.assertIn(line, said)
        shown = self.region.shown(identity)
        self.assertEqual((shown["address"], shown["type"], shown["lifecycle"]), (address, "g5.xlarge", "on-demand"))
        self.assertEqual(
            shown["calls"],
            [["mount", "-t", "tmpfs", "none", "/mnt"], ["blkid", "/dev/nvme1n1"], ["lsblk"],
             ["mkfs.ext4", "-q", "/dev/a b"]],
        )  # fmt: skip
        until(lambda: not self.region.shown(identity)["running"])
        console = self.ec2.get_console_output(InstanceId=identity)["Output"]
        self.assertIn("mkfs 3", console)
        self.ec2.reboot_instances(InstanceIds=[identity])
        time.sleep(0.2)
        self.assertEqual(self.region.shown(identity)["output"].count("over"), 1)
        self.region.control(f"/_boot/{identity}")
        until(lambda: self.region.shown(identity)["output"].count("over") == 2)

    def test_an_instance_ends_with_all_of_its_processes(self):
        identity = self.launch("""
            trap 'echo asked to end' TERM
            setsid bash -c 'trap "" TERM; sleep 1000' &
            setsid python -c 'import os, time; os.fork() and os._exit(0); os.chdir("/"); time.sleep(1000)'
            echo "root=$RAYCONCILE_ROOT"; while :; do sleep 0.1; done""")
        root = self.said(identity, "root=").partition("root=")[2].split()[0]
        self.assertGreaterEqual(len(marks.marked(marks.INSTANCE, identity)), 4)
        self.assertTrue(os.path.isdir(root))
        self.ec2.terminate_instances(InstanceIds=[identity])
        self.assertEqual(self.state(identity), "shutting-down")
        until(lambda: self.state(identity) == "terminated")
        self.assertEqual(marks.marked(marks.INSTANCE, identity), [])
        self.assertFalse(os.path.exists(root))
        shown = self.region.shown(identity)
        self.assertIn("asked to end", shown["output"])
        self.assertEqual((shown["state"], shown["running"]), ("terminated", False))

    def test_an_instance_that_shuts_itself_down(self):
        identity = self.launch("shutdown -h now; sleep 1000")
        until(lambda: self.state(identity) == "terminated")
        instance = self.described(identity)
        self.assertEqual(instance["StateReason"]["Code"], "Client.InstanceInitiatedShutdown")
        self.assertEqual(marks.marked(marks.INSTANCE, identity), [])
        identity = self.launch("shutdown -h now; sleep 1000", InstanceInitiatedShutdownBehavior="stop")
        until(lambda: self.state(identity) == "stopped")
        until(lambda: not marks.marked(marks.INSTANCE, identity))

    def test_a_spot_instance_is_taken_after_its_notice(self):
        identity = self.launch("sleep 1000", InstanceMarketOptions={"MarketType": "spot"})
        other = self.launch()
        until(lambda: self.region.shown(identity)["running"])
        address = self.region.shown(identity)["address"]
        with self.assertRaises(urllib.error.HTTPError) as caught:
            self.metadata(address, "spot/instance-action")
        caught.exception.close()
        self.assertEqual(self.metadata(address, "events/maintenance/scheduled"), "[]")
        for kind in ("rebalance", "maintenance", "terminate"):
            self.region.control(f"/_notice/{identity}", {"kind": kind, "inS": 1.5})
        self.assertIn('"noticeTime"', self.metadata(address, "events/recommendations/rebalance"))
        self.assertIn('"system-reboot"', self.metadata(address, "events/maintenance/scheduled"))
        self.assertEqual(json.loads(self.metadata(address, "spot/instance-action"))["action"], "terminate")
        self.assertEqual(self.state(identity), "running")
        until(lambda: self.state(identity) == "terminated")
        self.assertEqual(self.described(identity)["StateReason"]["Code"], "Server.SpotInstanceTermination")
        with self.assertRaises(urllib.error.HTTPError) as caught:
            self.region.control(f"/_notice/{other}", {"kind": "terminate"})
        with caught.exception:
            self.assertEqual(caught.exception.code, 409, "it is no spot instance")

    def test_a_machine_that_dies(self):
        identity = self.launch("trap 'echo asked' TERM; echo up; while :; do sleep 0.1; done")
        self.said(identity, "up")
        self.region.control(f"/_kill/{identity}")
        self.assertEqual(self.state(identity), "terminated")
        self.assertEqual(marks.marked(marks.INSTANCE, identity), [])
        self.assertEqual(self.described(identity)["StateReason"]["Code"], "Server.InternalError")
        self.assertNotIn("asked", self.region.shown(identity)["output"])

    def test_instances_that_never_boot(self):
        self.region.control("/_neverBoot", ["p4d.24xlarge"])
        self.addCleanup(self.region.control, "/_neverBoot", [])
        identity, other = self.launch("sleep 1000", InstanceType="p4d.24xlarge"), self.launch("sleep 1000")
        until(lambda: self.region.shown(other)["running"])
        self.assertEqual(self.state(identity), "running")
        self.assertFalse(self.region.shown(identity)["running"])

    def metadata(self, address, path, ttl="60"):
        base = f"{self.region.told['control']}/imds/{address}/latest"
        token = self.region.ask(f"{base}/api/token", "PUT", None, {"X-aws-ec2-metadata-token-ttl-seconds": ttl})
        return self.region.ask(f"{base}/meta-data/{path}", headers={"X-aws-ec2-metadata-token": token})

    def test_the_metadata_service_wants_a_token(self):
        identity = self.launch("""
            ask="$RAYCONCILE_METADATA/latest"
            token=$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$ask/api/token")
            curl -sf -H "X-aws-ec2-metadata-token: $token" "$ask/meta-data/instance-id"; echo .""")
        self.assertEqual(self.said(identity, ".\n"), f"{identity}.\n")
        address = self.region.shown(identity)["address"]
        base = f"{self.region.told['control']}/imds/{address}/latest"
        for status, path, method, headers in (
            (401, "meta-data/instance-id", "GET", {}),
            (401, "meta-data/instance-id", "GET", {"X-aws-ec2-metadata-token": "x"}),
            (400, "api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "21601"}),
            (400, "api/token", "PUT", {}),
        ):
            with self.assertRaises(urllib.error.HTTPError) as caught:
                self.region.ask(f"{base}/{path}", method, None, headers)
            caught.exception.close()
            self.assertEqual(caught.exception.code, status)
        for name, value in (
            ("instance-type", "g5.xlarge"), ("local-ipv4", address), ("placement/availability-zone", "us-west-2a"),
            ("placement/region", "us-west-2"),
        ):  # fmt: skip
            self.assertEqual(self.metadata(address, name), value)


class StubTest(RegionCase):
    def test_a_container_is_a_process_with_the_environment_it_is_given(self):
        identity = self.launch("""
            mkdir -p "$RAYCONCILE_ROOT/etc"; echo secret > "$RAYCONCILE_ROOT/etc/token"
            echo FILE=/etc/rc/token > "$RAYCONCILE_ROOT/file"; export OUTER=1
            docker run -d --name c --gpus all -v "$RAYCONCILE_ROOT/etc:/etc/rc:ro" --env-file "$RAYCONCILE_ROOT/file" \\
                -e OWN=x --shm-size=1g image bash -c 'echo "$OWN $OUTER."; cat "$FILE"; setsid sleep 1000 & sleep 1000'
            docker run --name c image true; echo "conflict $?"
            docker inspect -f '{{.State.Running}} {{.Config.Image}}' c; docker ps -q --filter name=c | wc -l
            docker exec -e MORE=y c bash -c 'echo "$OWN$MORE"'
            until docker logs c | grep -q secret; do sleep 0.05; done; docker logs c
            docker kill -s TERM c; docker wait c; docker start c
            docker exec c nonsense 2>/dev/null; echo "nonsense $?"; docker rm -f c; docker inspect c 2>&1; echo "rm $?"
            docker run --rm image bash -c 'exit 7'; echo "exit $?"; docker ps -aq | wc -l
            docker pull image && docker info >/dev/null && echo over""")
        lines = self.said(identity, "over").split("\n")
        self.assertEqual(
            [line for line in lines if len(line) != 64 and "Conflict" not in line],
            ["conflict 125", "true image", "1", "xy", "x .", "secret", "c", "143", "c", "nonsense 127", "c",
             "Error response from daemon: No such container: c", "[]", "rm 1", "exit 7", "0", "over", ""],
        )  # fmt: skip
        self.assertEqual(len(lines[0]), 64, "the container's id")
        until(lambda: not marks.marked(marks.INSTANCE, identity))
        self.assertEqual(self.region.shown(identity)["calls"][0][:5], ["docker", "run", "-d", "--name", "c"])

    def test_an_instance_reads_parameters_for_itself(self):
        self.ssm.put_parameter(Name="/t/token", Type="SecureString", Value="s3cret")
        self.addCleanup(self.ssm.delete_parameter, Name="/t/token")
        calls = self.region.get("/_calls").get("GetParameter", 0)
        read = "aws ssm get-parameter --with-decryption --query Parameter.Value --output text --region us-west-2 --name"
        self.region.faults(
            {"action": "GetParameter", "error": "ExpiredToken"},  # Of whoever launches: an instance has its own.
            {"action": "GetParameter", "from": "instance", "error": "ThrottlingException", "times": 1},
        )  # fmt: skip
        identity = self.launch("\n".join((
            f"{read} /t/token", "echo $?", f"{read} /t/token", f"{read} /t/other", "echo $?; echo over",
        )))  # fmt: skip
        said = self.said(identity, "over")
        self.assertIn("An error occurred (ThrottlingException) when calling the GetParameter operation", said)
        self.assertIn("254\ns3cret\n", said)
        self.assertIn("(ParameterNotFound)", said)
        self.assertEqual(self.region.get("/_calls").get("GetParameter", 0), calls)


if __name__ == "__main__":
    unittest.main()

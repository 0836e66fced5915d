"""The disks and the file systems of an instance that boots."""

import json
import os
import shlex
import unittest

from boot import Machine

NVME, EBS = "Amazon EC2 NVMe Instance Storage", "Amazon Elastic Block Store"

def disk(name, kind="disk", filesystem="", mount="", read_only="0", parent="", model=""):
    return (
        f'NAME="/dev/{name}" TYPE="{kind}" FSTYPE="{filesystem}" MOUNTPOINT="{mount}" RO="{read_only}" '
        f'PKNAME="{parent and "/dev/" + parent}" MODEL="{model}"'
    )


# A root disk on NVMe has the model of every EBS volume.
ROOT_DISK = [disk("nvme0n1", model=EBS), disk("nvme0n1p1", "part", "ext4", "/", parent="nvme0n1")]


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


if __name__ == "__main__":
    unittest.main()

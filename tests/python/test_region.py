"""The region that EC2's tests run against: it does what EC2 does, fails as it is told, and leaves nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import unittest
import urllib.error

from botocore.exceptions import BotoCoreError, ClientError

from ec2 import marks
from ec2.case import Region, RegionCase, until
from ec2.machine import RAY_ARGUMENTS


class EnclosedTest(unittest.TestCase):
    PORT = 18265

    def test_an_instance_is_reached_and_reaches_nobody(self):
        region = Region("--enclosed", str(self.PORT))
        self.addCleanup(region.close)
        outside = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(outside.close)
        script = f"""#!/bin/bash
        cat /proc/net/dev | tail -n +3
        curl --silent --max-time 5 http://127.0.0.1:{outside.getsockname()[1]} || echo "reached nobody: $?"
        exec python3 -m http.server --bind "$RAYCONCILE_ADDRESS" {self.PORT}
        """
        ec2, subnets = region.clients["ec2"], list(region.told["subnets"].values())
        launch = {"ImageId": region.told["image"], "InstanceType": "m5.large", "SubnetId": subnets[0]}
        [instance] = ec2.run_instances(MinCount=1, MaxCount=1, UserData=script, **launch)["Instances"]
        url = f"http://{instance['PrivateIpAddress']}:{self.PORT}/"
        until(lambda: self.answers(region, url))
        said = region.shown(instance["InstanceId"])["output"]
        interfaces = [line.split(":")[0].strip() for line in said.splitlines() if line.lstrip().startswith("lo:")]
        self.assertEqual(interfaces, ["lo"], said)
        self.assertIn("reached nobody: 7", said)  # "Failed to connect to host"
        ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
        until(lambda: not self.answers(region, url))

    @staticmethod
    def answers(region, url):
        try:
            return "Directory listing" in region.ask(url)
        except OSError:
            return False


class LaunchTest(RegionCase):
    def test_a_launch_is_made_once_for_each_token(self):
        launch = {"ClientToken": "one", "count": 2}
        first = self.launch(**launch)
        again = self.launch(**launch)
        self.assertEqual(len(first), 2)
        self.assertEqual([one["InstanceId"] for one in first], [one["InstanceId"] for one in again])
        with self.assertRaises(ClientError) as caught:
            self.launch(**launch, InstanceType="g5.2xlarge")
        self.assertEqual(caught.exception.response["Error"]["Code"], "IdempotentParameterMismatch")
        self.assertEqual(len(self.launch(**launch, SubnetId=self.subnet("b"))), 2, "a token counts in its zone")
        self.end(*(one["InstanceId"] for one in first))
        self.assertEqual({one["State"]["Name"] for one in self.launch(**launch)}, {"terminated"})
        found = self.ec2.describe_instances(Filters=[{"Name": "client-token", "Values": ["one"]}])["Reservations"]
        self.assertEqual(len(found), 2)

    def test_a_launch_is_as_it_was_asked_for(self):
        tags = [{"Key": "owner", "Value": "us"}]
        identity = self.launch(
            SubnetId=self.subnet("b"), InstanceMarketOptions={"MarketType": "spot"},
            BlockDeviceMappings=[
                {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 9, "VolumeType": "gp3", "Iops": 3500, "Throughput": 9}}
            ],
            TagSpecifications=[
                {"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume", "network-interface")
            ],
        )  # fmt: skip
        until(lambda: self.state(identity) == "running")
        instance = self.described(identity)
        self.assertEqual(instance["InstanceLifecycle"], "spot")
        self.assertEqual(instance["Placement"]["AvailabilityZone"], "us-west-2b")
        network = self.region.told["network"].removesuffix(".0.0/16")
        self.assertTrue(instance["PrivateIpAddress"].startswith(network + "."))
        mine = [{"Name": "tag:owner", "Values": ["us"]}]
        volumes = self.ec2.describe_volumes(Filters=mine)["Volumes"]
        self.assertEqual([volume["Attachments"][0]["Device"] for volume in volumes], ["/dev/xvda", "/dev/sdf"])
        self.assertEqual((volumes[1]["Iops"], volumes[1]["Throughput"]), (3500, 9))
        interfaces = self.ec2.describe_network_interfaces(Filters=mine)["NetworkInterfaces"]
        self.assertEqual([one["PrivateIpAddress"] for one in interfaces], [instance["PrivateIpAddress"]])
        self.end(identity)
        self.assertEqual(self.ec2.describe_volumes(Filters=mine)["Volumes"], [])
        self.assertEqual(self.ec2.describe_network_interfaces(Filters=mine)["NetworkInterfaces"], [])
        self.assertNotIn("PrivateIpAddress", self.described(identity))

    def test_an_image_may_keep_its_root_volume(self):
        root = {"DeviceName": "/dev/xvdr", "Ebs": {"VolumeSize": 9, "DeleteOnTermination": False}}
        image = self.ec2.register_image(Name="kept", RootDeviceName="/dev/xvdr", BlockDeviceMappings=[root])["ImageId"]
        self.assertEqual(self.ec2.describe_images(ImageIds=[image])["Images"][0]["RootDeviceName"], "/dev/xvdr")
        ending = [{"DeviceName": "/dev/xvdr", "Ebs": {"DeleteOnTermination": True}}]
        for mappings, left in (([], 1), (ending, 0)):
            identity = self.launch(ImageId=image, BlockDeviceMappings=mappings)
            volume = self.described(identity)["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
            self.end(identity)
            volumes = [volume["VolumeId"] for volume in self.ec2.describe_volumes()["Volumes"]]
            self.assertEqual(volumes.count(volume), left)

    def test_what_is_not_there_cannot_be_launched(self):
        self.refused("InvalidAMIID.NotFound", self.launch, ImageId="ami-00000000000000001")
        self.refused("InvalidParameterValue", self.launch, InstanceType="g99.huge")
        self.refused("InvalidParameterValue", self.launch, data="x" * 16385)
        parameter = self.ssm.get_parameter(Name=self.region.told["imageParameter"])["Parameter"]
        self.assertEqual(parameter["Value"], self.region.told["image"])

    def test_rules_are_added_together_or_not_at_all(self):
        group = self.ec2.create_security_group(GroupName="r", Description="r", VpcId=self.region.told["vpc"])["GroupId"]
        self.addCleanup(self.ec2.delete_security_group, GroupId=group)

        def rules(*ports):
            source = {"IpRanges": [{"CidrIp": "192.0.2.1/32"}]}
            return [{"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **source} for port in ports]

        authorize = self.ec2.authorize_security_group_ingress
        added = authorize(GroupId=group, IpPermissions=rules(1, 2))["SecurityGroupRules"]
        self.assertEqual([rule["FromPort"] for rule in added], [1, 2])
        self.refused("InvalidPermission.Duplicate", authorize, GroupId=group, IpPermissions=rules(3, 2))
        there = self.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
        self.assertEqual([rule["FromPort"] for rule in there], [1, 2])

    def test_an_interface_made_beforehand_keeps_its_address(self):
        group = self.ec2.create_security_group(GroupName="g", Description="g", VpcId=self.region.told["vpc"])["GroupId"]
        interface = {"SubnetId": self.subnet("b"), "Groups": [group], "ClientToken": "t"}
        made = self.ec2.create_network_interface(**interface)["NetworkInterface"]
        identity, address = made["NetworkInterfaceId"], made["PrivateIpAddress"]
        again = self.ec2.create_network_interface(**interface)["NetworkInterface"]
        self.assertEqual(again["NetworkInterfaceId"], identity)
        self.refused(
            "InvalidIPAddress.InUse", self.ec2.create_network_interface, SubnetId=self.subnet("b"),
            PrivateIpAddress=address,
        )  # fmt: skip
        given = {"NetworkInterfaces": [{"DeviceIndex": 0, "NetworkInterfaceId": identity}]}
        instance = self.launch(**given)
        self.assertEqual(self.region.shown(instance)["address"], address)
        described = self.described(instance)
        self.assertEqual(described["Placement"]["AvailabilityZone"], "us-west-2b")
        self.assertEqual([one["GroupId"] for one in described["SecurityGroups"]], [group])
        self.refused("InvalidNetworkInterface.InUse", self.launch, **given)
        delete = self.ec2.delete_network_interface
        self.refused("InvalidNetworkInterface.InUse", delete, NetworkInterfaceId=identity)
        self.end(instance)
        self.refused("DependencyViolation", self.ec2.delete_security_group, GroupId=group)
        delete(NetworkInterfaceId=identity)
        self.ec2.delete_security_group(GroupId=group)


class FaultTest(RegionCase):
    def test_errors_on_demand(self):
        capacity = {"action": "RunInstances", "match": {"InstanceType": "g5.xlarge"}, "times": 2}
        self.region.faults(
            {**capacity, "error": "InsufficientInstanceCapacity"},
            {"action": "GetParameter", "error": "ThrottlingException", "message": "slower"},
            {"action": "s3:PUT", "error": "SlowDown"},
        )  # fmt: skip
        self.assertEqual(self.refused("InsufficientInstanceCapacity", self.launch), 500)
        self.launch(InstanceType="g5.2xlarge")
        self.refused("InsufficientInstanceCapacity", self.launch)
        self.launch()
        self.assertEqual(self.refused("ThrottlingException", self.ssm.get_parameter, Name="x"), 400)
        self.assertEqual(self.refused("SlowDown", self.region.clients["s3"].create_bucket, Bucket="b"), 503)
        self.assertEqual([fault["used"] for fault in self.region.get("/_faults")], [2, 1, 1])
        self.region.faults({"action": "*", "error": "RequestExpired"})
        for call in (self.ec2.describe_instances, self.region.clients["sts"].get_caller_identity):
            self.refused("RequestExpired", call)
        on_demand = {"InstanceMarketOptions.MarketType": None}
        self.region.faults({"action": "RunInstances", "match": on_demand, "error": "VcpuLimitExceeded", "status": 400})
        self.refused("VcpuLimitExceeded", self.launch)
        self.launch(InstanceMarketOptions={"MarketType": "spot"})
        self.region.faults({"action": "RunInstances", "atMost": 1})
        self.assertEqual(len(self.launch(count=3)), 1)
        self.refused("InsufficientInstanceCapacity", self.launch, MinCount=2, count=3)
        with self.assertRaises(urllib.error.HTTPError) as caught:
            self.region.faults({"action": "RunInstances", "eror": "x"})
        with caught.exception:
            self.assertIn("a fault has no eror", caught.exception.read().decode())

    def test_a_price_list_as_it_is_told(self):
        pricing = self.region.client("pricing")
        self.addCleanup(pricing.close)
        filters = [
            {"Type": "TERM_MATCH", "Field": field, "Value": value}
            for field, value in (("instanceType", "m5.large"), ("regionCode", "us-west-2"), ("tenancy", "Shared"))
        ]
        self.assertEqual(pricing.get_products(ServiceCode="AmazonEC2", Filters=filters)["PriceList"], [])
        self.region.ask(self.region.told["endpoint"] + "/_prices", "POST", {"m5.large": "0.111"})
        [listed] = pricing.get_products(ServiceCode="AmazonEC2", Filters=filters)["PriceList"]
        listed = json.loads(listed)
        self.assertEqual(listed["product"]["attributes"]["regionCode"], "us-west-2")
        [term] = listed["terms"]["OnDemand"].values()
        [dimension] = term["priceDimensions"].values()
        self.assertEqual((dimension["unit"], dimension["pricePerUnit"]), ("Hrs", {"USD": "0.1110000000"}))
        self.region.faults({"action": "GetProducts", "error": "AccessDeniedException"})
        self.refused("AccessDeniedException", pricing.get_products, ServiceCode="AmazonEC2")

    def test_a_reply_that_is_lost(self):
        self.region.faults({"action": "RunInstances", "drop": True, "times": 1})
        with self.assertRaises(BotoCoreError):
            self.launch(ClientToken="lost")
        found = self.ec2.describe_instances(Filters=[{"Name": "client-token", "Values": ["lost"]}])["Reservations"]
        self.assertEqual(self.launch(ClientToken="lost"), found[0]["Instances"][0]["InstanceId"])

    def test_a_reply_that_is_late(self):
        self.region.faults({"action": "DescribeVpcs", "delayS": 0.3, "times": 1})
        began = time.monotonic()
        self.ec2.describe_vpcs()
        self.assertGreaterEqual(time.monotonic() - began, 0.3)

    def test_calls_are_counted(self):
        before = self.region.get("/_calls").get("DescribeSubnets", 0)
        for _ in range(3):
            self.ec2.describe_subnets()
        self.assertEqual(self.region.get("/_calls")["DescribeSubnets"], before + 3)


class LeftTest(unittest.TestCase):
    """What a region leaves. Each has one of its own."""

    def test_what_is_left_is_listed_until_it_is_gone(self):
        region = Region("--never-boot")
        self.addCleanup(region.close)
        ec2, ssm, told = region.clients["ec2"], region.clients["ssm"], region.told
        self.assertEqual(region.get("/_left"), [])
        subnet = told["subnets"]["us-west-2a"]
        group = ec2.create_security_group(GroupName="g", Description="g", VpcId=told["vpc"])["GroupId"]
        rule = {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 2, "UserIdGroupPairs": [{"GroupId": group}]}
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
        interface = ec2.create_network_interface(SubnetId=subnet, Groups=[group])["NetworkInterface"]
        ssm.put_parameter(Name="/a", Type="String", Value="x", Tags=[{"Key": "k", "Value": "v"}])
        volume = ec2.create_volume(AvailabilityZone="us-west-2a", Size=1)["VolumeId"]
        address = ec2.allocate_address(Domain="vpc")["AllocationId"]
        instance = ec2.run_instances(
            ImageId=told["image"], InstanceType="g5.xlarge", MinCount=1, MaxCount=1,
            NetworkInterfaces=[{"DeviceIndex": 0, "NetworkInterfaceId": interface["NetworkInterfaceId"]}],
            IamInstanceProfile={"Name": told["instanceProfile"]},
        )["Instances"][0]["InstanceId"]  # fmt: skip
        left = region.get("/_left")
        self.assertEqual(
            sorted(thing["kind"] for thing in left),
            ["address", "group", "instance", "interface", "parameter", "rule", "volume", "volume"],
        )
        self.assertIn({"kind": "parameter", "id": "/a", "tags": {"k": "v"}}, left)
        ec2.terminate_instances(InstanceIds=[instance])
        until(lambda: not [thing for thing in region.get("/_left") if thing["kind"] == "instance"])
        ec2.delete_network_interface(NetworkInterfaceId=interface["NetworkInterfaceId"])
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[rule])
        ec2.delete_security_group(GroupId=group)
        ssm.delete_parameter(Name="/a")
        ec2.delete_volume(VolumeId=volume)
        ec2.release_address(AllocationId=address)
        self.assertEqual(region.get("/_left"), [])

    def begin(self):
        """A region with an instance that runs; the instance's directory."""
        region = Region()
        ec2 = region.clients["ec2"]
        identity = ec2.run_instances(
            ImageId=region.told["image"], InstanceType="g5.xlarge", MinCount=1, MaxCount=1,
            SubnetId=region.told["subnets"]["us-west-2a"],
            UserData='#!/bin/bash\nsetsid sleep 1000 &\necho "$RAYCONCILE_ROOT="\nsleep 1000',
        )["Instances"][0]["InstanceId"]  # fmt: skip
        root = until(lambda: "=" in (said := region.shown(identity)["output"]) and said.split("=")[0])
        return region, identity, root.removesuffix(f"/{identity}/root")

    def test_two_regions_are_apart_and_nothing_outlives_them(self):
        began = [self.begin(), self.begin()]
        (first, *_), (second, *_) = began
        self.assertNotEqual(first.told["network"], second.told["network"])
        second.process.send_signal(signal.SIGTERM)
        self.assertEqual([region.close() for region, *_ in began], [0, 0])
        for _region, identity, directory in began:
            self.assertEqual(marks.marked(marks.INSTANCE, identity), [])
            self.assertFalse(os.path.exists(directory))

    def test_a_region_that_is_killed_leaves_nothing(self):
        region, identity, directory = self.begin()
        self.assertTrue(marks.marked(marks.INSTANCE, identity))
        region.process.kill()
        self.assertEqual(region.close(), -signal.SIGKILL)
        until(lambda: not marks.marked(marks.INSTANCE, identity))
        until(lambda: not os.path.exists(directory))

    def test_the_arguments_for_ray_are_such_as_it_knows(self):
        ray = os.path.join(os.path.dirname(sys.executable), "ray")
        if not os.path.exists(ray):
            self.skipTest("Ray is not installed here")
        known = subprocess.run([ray, "start", "--help"], capture_output=True, text=True, check=True).stdout
        for argument in RAY_ARGUMENTS.splitlines():
            self.assertIn(argument.partition("=")[0] + " ", known)


if __name__ == "__main__":
    unittest.main()

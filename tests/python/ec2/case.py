"""A region as tests in Python have it: its process, clients of it, and instances that end with the test."""

import gzip
import json
import os
import subprocess
import sys
import time
import unittest
import urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

PYTHON_PATH = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Region:
    """A region process, and clients of it."""

    def __init__(self, *options):
        self.process = subprocess.Popen(
            [sys.executable, "-B", "-m", "ec2.region", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": PYTHON_PATH},
        )  # fmt: skip
        self.told = json.loads(self.process.stdout.readline())
        self.clients = {name: self.client(name) for name in ("ec2", "ssm", "sts", "s3")}

    def client(self, service):
        return boto3.client(
            service, endpoint_url=self.told["endpoint"], region_name=self.told["region"], aws_access_key_id="test",
            aws_secret_access_key="test", config=Config(retries={"total_max_attempts": 1}),
        )  # fmt: skip

    def ask(self, url, method="GET", body=None, headers=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, method=method, headers=headers or {})
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.read().decode()

    def get(self, path):
        return json.loads(self.ask(self.told["endpoint"] + path))

    def faults(self, *faults):
        self.ask(self.told["endpoint"] + "/_faults", "POST", faults)

    def control(self, path, body=None):
        return self.ask(self.told["control"] + path, "POST", body or {})

    def shown(self, identity):
        instances = json.loads(self.ask(self.told["control"] + "/_instances"))
        return next(instance for instance in instances if instance["id"] == identity)

    def close(self):
        for client in self.clients.values():
            client.close()
        with self.process:
            self.process.stdin.close()
            return self.process.wait(30)


def until(condition, bound_s=60):
    deadline = time.monotonic() + bound_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError("it never came to that")
        time.sleep(0.02)
    return value


class RegionCase(unittest.TestCase):
    """All tests of a class share a region."""

    @classmethod
    def setUpClass(cls):
        cls.region = Region("--env", "GIVEN=to all")
        cls.addClassCleanup(cls.region.close)
        cls.ec2, cls.ssm = cls.region.clients["ec2"], cls.region.clients["ssm"]

    def setUp(self):
        self.addCleanup(self.region.faults)

    def launch(self, script=None, count=1, data=None, **more):
        """Launch, and see to it that all is gone when the test is over."""
        if script is not None:
            data = gzip.compress(b"#!/bin/bash\n" + script.encode())
        if data is not None:
            more["UserData"] = data  # boto3 encodes it.
        parameters = {
            "ImageId": self.region.told["image"], "InstanceType": "g5.xlarge", "MinCount": 1, "MaxCount": count,
            "InstanceInitiatedShutdownBehavior": "terminate", **more,
        }  # fmt: skip
        if "NetworkInterfaces" not in parameters:
            parameters.setdefault("SubnetId", self.subnet("a"))
        instances = self.ec2.run_instances(**parameters)["Instances"]
        self.addCleanup(self.end, *(instance["InstanceId"] for instance in instances))
        return instances if count > 1 else instances[0]["InstanceId"]

    def end(self, *identities):
        self.ec2.terminate_instances(InstanceIds=identities)
        until(lambda: all(self.described(identity)["State"]["Name"] == "terminated" for identity in identities))

    def subnet(self, zone):
        return self.region.told["subnets"][self.region.told["region"] + zone]

    def described(self, identity):
        return self.ec2.describe_instances(InstanceIds=[identity])["Reservations"][0]["Instances"][0]

    def state(self, identity):
        return self.described(identity)["State"]["Name"]

    def said(self, identity, word):
        """What it said, once it has said this."""
        return until(lambda: word in (output := self.region.shown(identity)["output"]) and output)

    def refused(self, code, call, **parameters):
        with self.assertRaises(ClientError) as caught:
            call(**parameters)
        self.assertEqual(caught.exception.response["Error"]["Code"], code)
        return caught.exception.response["ResponseMetadata"]["HTTPStatusCode"]

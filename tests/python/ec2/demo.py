"""A cluster on EC2, from nothing to nothing, for somebody who watches. `make demo-ec2` runs it.

    python -m ec2.demo RAYCONCILE DIRECTORY [enclosed]

The region is one of this machine (`ec2.region`): its instances really run and are a real Ray cluster, while what they
would do to a machine, Docker's part for example, is done by stubs. It exits with 0 only if all of it came about as
announced, and the region is empty afterwards. With `enclosed` no instance can connect to anything outside the region,
and the controller least of all: it opens every connection itself.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from ec2.case import Region
from ec2.ports import free_ports

# For each step; a busy machine may need long.
PATIENCE_S = 600
NOTICE_S = 60
KINDS = ("instances", "volumes", "interfaces", "groups", "rules", "addresses", "parameters")
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo", "AWS_EC2_METADATA_DISABLED": "true"}
CLUSTER = """\
apiVersion: rayconcile.dev/v1
kind: RayCluster
metadata: {{name: cloud}}
spec:
  provider:
    aws:
      region: {region}
      subnets: [{subnets}]
      iamInstanceProfile: {instanceProfile}
      access: {{address: private}}
      gcsPort: {ports[0]}
      dashboardPort: {ports[1]}
      agentPort: {ports[2]}
  metadataEndpoint: {control}/imds/{{address}}   # the region's, in the place of 169.254.169.254
  head:
    instance: {{types: [m5.large], image: {{parameter: {imageParameter}}}}}
    objectStoreMemory: 100Mi
  workerGroups:
    - name: spot
      maxNodes: 3
      idleTimeout: 10s
      market: {{spot: {{maxPrice: "0.10"}}}}
      template:
        resources: {{cpu: 1, memory: 2Gi}}
        objectStoreMemory: 100Mi
        instance:
          types: [m5.large, m5a.large]
          image: {{parameter: {imageParameter}}}
"""
# By itself it would have as many workers as bring it on, and how long it takes is a matter of the machine: here both
# are said, so that the same happens everywhere.
MANY_EPOCHS = 2000
JOB = """\
apiVersion: rayconcile.dev/v1
kind: AdaptDLJob
metadata: {{name: digits}}
spec:
  clusterRef: {{name: cloud}}
  workingDir: {source}
  entrypoint: main.py
  args: [--epochs, "{epochs}"]
  maxReplicas: 2
  scaling: {{policy: Fixed, replicas: {replicas}}}
"""


class Different(Exception):
    """Something has not come about as it should."""


class Demo:
    def __init__(self, program, directory, region, ports):
        self.directory, self.region, self.ports = directory, region, ports
        self.program = [program, "--state-dir", os.path.join(directory, "state")]
        self.environment = {**os.environ, **CREDENTIALS, "AWS_ENDPOINT_URL": region.told["endpoint"]}
        self.controller = self.teller = None

    # What a person would type.

    def rayconcile(self, *arguments):
        """Run a command and show what it says."""
        say(f"$ rayconcile {' '.join(arguments)}")
        done = subprocess.run(
            [*self.program, *arguments], cwd=self.directory, env=self.environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        say(done.stdout.rstrip())
        if done.returncode != 0:
            raise Different(f"`rayconcile {' '.join(arguments)}` has failed with {done.returncode}")

    def apply(self, name, text):
        with open(os.path.join(self.directory, name), "w", encoding="utf-8") as file:
            file.write(text)
        self.rayconcile("apply", "-f", name)

    def get(self, *what):
        """An object's status, or nothing if it is not there."""
        done = subprocess.run(
            [*self.program, "get", *what, "-o", "json"], capture_output=True, text=True, env=self.environment,
            check=False,
        )  # fmt: skip
        return json.loads(done.stdout)["status"] if done.returncode == 0 else {}

    def start(self):
        """Start the controller, and tell what happens from then on."""
        with open(os.path.join(self.directory, "controller.log"), "w", encoding="utf-8") as log:
            self.controller = subprocess.Popen(
                [*self.program, "controller"], env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        status = [*self.program, "status"]
        self.until("the controller answers", lambda: subprocess.run(status, capture_output=True).returncode == 0)
        self.teller = subprocess.Popen(
            [*self.program, "events", "-A", "--watch"], env=self.environment, stdout=subprocess.PIPE, text=True
        )
        threading.Thread(target=self.tell, args=(self.teller.stdout,), daemon=True).start()

    def tell(self, events):
        for event in events:
            say(f"  {event.rstrip()}")

    def stop(self):
        for process in filter(None, (self.teller, self.controller)):
            process.send_signal(signal.SIGTERM)
            process.wait()

    def until(self, what, condition):
        deadline = time.monotonic() + PATIENCE_S
        while not (value := condition()):
            if self.controller.poll() is not None:
                raise Different(f"the controller has ended before {what}")
            if time.monotonic() > deadline:
                raise Different(f"it took more than {PATIENCE_S} s until {what}")
            time.sleep(0.2)
        return value

    # What is there.

    def instances(self):
        """Those that cost something."""
        instances = json.loads(self.region.ask(self.region.told["control"] + "/_instances"))
        return {it["id"]: it for it in instances if it["state"] in ("pending", "running")}

    def nodes_in_training(self):
        workers = self.get("job", "digits").get("workers", [])
        return [worker["node"] for worker in workers if worker["state"] == "Training"]

    def trains_on(self, count):
        nodes = self.nodes_in_training()
        return nodes if len(nodes) == count else None

    def instance_of(self, name):
        nodes = self.get("cluster", "cloud").get("nodes", [])
        return next((node["instance"] for node in nodes if node["name"] == name and node.get("instance")), None)

    def left(self):
        """How much is left of what was made, by its kind."""
        left = dict.fromkeys(KINDS, 0)
        for thing in self.region.get("/_left"):
            kind = f"{thing['kind']}s".replace("ss", "sses")
            left[kind] = left.get(kind, 0) + 1
        return left

    # The story.

    def tell_story(self, source):
        head("A cluster from nothing. There is no instance yet, only what says what is wanted.")
        show_left(self.left())
        self.apply("cloud.yaml", CLUSTER.format(
            **{**self.region.told, "subnets": ", ".join(self.region.told["subnets"].values())}, ports=self.ports
        ))  # fmt: skip
        self.until("the cluster is ready", lambda: self.get("cluster", "cloud").get("phase") == "Ready")

        head("A job of one worker: a spot instance is launched for it.")
        job = {"source": source, "epochs": MANY_EPOCHS}
        self.apply("digits.yaml", JOB.format(**job, replicas=1))
        self.until("it trains", lambda: self.trains_on(1))

        head("It is to have two: it goes on with one until the second instance has joined.")
        self.apply("digits.yaml", JOB.format(**job, replicas=2))
        nodes = self.until("it trains on two spot nodes", lambda: self.trains_on(2))
        taken = self.until("its instance is known", lambda: self.instance_of(nodes[1]))
        self.rayconcile("status")
        show_left(self.left())

        head(f"EC2 will take {taken['id']}, on which {nodes[1]} runs, in {NOTICE_S} s: so its metadata service says.")
        self.region.control(f"/_notice/{taken['id']}", {"kind": "terminate", "inS": NOTICE_S})
        after = self.until(
            "it trains on two nodes again, without that one",
            lambda: (nodes_now := self.trains_on(2)) and nodes[1] not in nodes_now and nodes_now,
        )
        say(f"It goes on on {' and '.join(after)}.")
        self.until("that instance is gone", lambda: taken["id"] not in self.instances())

        epochs = self.until("it tells its epoch", lambda: self.get("job", "digits")["progress"].get("epoch")) + 2
        head(f"It has learnt nearly enough: {epochs} epochs will do. With other arguments it goes on where it is.")
        self.apply("digits.yaml", JOB.format(**{**job, "epochs": epochs}, replicas=2))
        self.until("the job has succeeded", lambda: self.get("job", "digits").get("phase") == "Succeeded")
        self.judge(self.get("job", "digits"))
        self.rayconcile("logs", "digits", "--tail", "1")

        head("Nobody needs the spot nodes any more: after 10 s each is given back.")
        self.until("the head is the only instance", lambda: self.left()["instances"] == 1)
        show_left(self.left())

        head("And now nothing of it is wanted.")
        self.rayconcile("delete", "job", "digits")
        self.rayconcile("delete", "cluster", "cloud")
        left = self.left()
        show_left(left)
        if any(left.values()) or self.instances():
            raise Different(f"something is left in the region: {self.region.get('/_left')}")


    def judge(self, job):
        """It has not failed, and no step was made twice: it saved whenever it had to move."""
        rescales = [group for group in job["history"] if group.get("downtimeMs") is not None]
        downtime, lost = (sum(group.get(what) or 0 for group in rescales) for what in ("downtimeMs", "lostSteps"))
        say(f"It has moved {len(rescales)} times, stood still for {downtime / 1000:.1f} s in all, lost {lost} steps.")
        if job["failures"] or lost or len(rescales) < 2:
            raise Different(f"the job has failed {job['failures']} times, lost {lost} steps, moved {len(rescales)} times")


def say(text):
    print(text, flush=True)


def head(text):
    say(f"\n=== {text}")


def show_left(left):
    say("In the region: " + ", ".join(f"{kind} {count}" for kind, count in left.items()))


def main():
    program, directory = (os.path.abspath(argument) for argument in sys.argv[1:3])
    ports = free_ports(3)
    # The head's dashboard and agent are all that the controller reaches.
    options = [f"--enclosed={port}" for port in ports[1:]] if sys.argv[3:] == ["enclosed"] else []
    # As if Ctrl-C were pressed: then all of it is ended, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.makedirs(directory, exist_ok=True)
    own = tempfile.mkdtemp(prefix="demo-ec2-", dir=directory)
    say("A region of EC2 on this machine. Its instances run, and what they run is a real Ray.")
    say("What an instance would do to the machine, with Docker, disks or mounts, is done by stubs.")
    if options:
        say("They are in a network of their own, out of which nothing leads.")
    region = Region(*options)
    demo = Demo(program, own, region, ports)
    try:
        demo.start()
        demo.tell_story(os.path.abspath("examples/digits"))
    except (Different, KeyboardInterrupt) as different:
        raise SystemExit(f"\n{different or 'interrupted'}; the controller's log is in {own}") from None
    finally:
        demo.stop()
        region.close()
    shutil.rmtree(own)
    say("\nNothing is left: no instance, no volume, no rule, no parameter, no process.")


if __name__ == "__main__":
    main()

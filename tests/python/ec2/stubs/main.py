"""The commands that stand for those which would act on this machine: `main.py NAME ARGUMENT...`.

Each call is recorded, one a line, in the file REGION_CALLS. Those that have nothing to do print what the variable
STUB_<NAME>_OUTPUT says and exit with STUB_<NAME>_EXIT (as in `--env STUB_MKFS_EXT4_EXIT=1`).
"""

import json
import os
import re
import sys
import urllib.request

sys.path[:0] = [os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))]

# What the real ones say when there is nothing: blkid found no filesystem.
EXITS = {"blkid": "2"}


def record(call):
    with open(os.environ["REGION_CALLS"], "ab", buffering=0) as file:
        file.write(json.dumps(call).encode() + b"\n")


def shutdown(arguments):
    if "now" not in arguments and "+0" not in arguments:
        print("this stub knows no other time than `now`", file=sys.stderr)
        return 1
    url = f"{os.environ['REGION_CONTROL']}/_shutdown/{os.environ['REGION_INSTANCE']}"
    with urllib.request.urlopen(urllib.request.Request(url, data=b"{}"), timeout=30):
        return 0


def nothing(name):
    variable = "STUB_" + re.sub(r"\W", "_", name).upper()
    if said := os.environ.get(variable + "_OUTPUT"):
        print(said)
    return int(os.environ.get(variable + "_EXIT", EXITS.get(name, "0")))


def main():
    name, *arguments = sys.argv[1:]
    if name == "@container":
        from ec2.stubs import container

        return container.supervise(*arguments)
    record([name, *arguments])
    if name == "docker":
        from ec2.stubs import docker

        return docker.main(arguments)
    if name == "aws":
        from ec2.stubs import aws

        return aws.main(arguments)
    return shutdown(arguments) if name == "shutdown" else nothing(name)


if __name__ == "__main__":
    sys.exit(main())

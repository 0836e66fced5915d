"""A container of the `docker` stub: a process, a file that says what it is, and a supervisor that outlives the command.

The file is <directory>/<id>.json: the document that `docker inspect` shows, and what only we need, under `Ours`.
"""

import contextlib
import json
import os
import subprocess
import sys
import time

from ec2 import marks


def directory():
    path = os.path.join(os.environ["REGION_DIRECTORY"], "containers")
    os.makedirs(path, exist_ok=True)
    return path


def path_of(identity):
    return os.path.join(directory(), f"{identity}.json")


def log_of(identity):
    return os.path.join(directory(), f"{identity}.log")


def write(document):
    path = path_of(document["Id"])
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(document, file)
    os.replace(path + ".new", path)


def read(identity):
    """What the file says, or nothing."""
    try:
        with open(path_of(identity), encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None


def all_of_them():
    identities = [name.removesuffix(".json") for name in os.listdir(directory()) if name.endswith(".json")]
    return sorted(filter(None, map(read, identities)), key=lambda document: document["Created"])


def find(name):
    """By name, or by (the start of) its id."""
    for document in all_of_them():
        if document["Name"] == f"/{name}" or document["Id"].startswith(name):
            return document
    return None


def forget(document):
    for path in (path_of(document["Id"]), log_of(document["Id"])):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def state(status, pid=0, code=0, error=""):
    return {"Status": status, "Running": status == "running", "Pid": pid, "ExitCode": code, "Error": error}


def start(document, detached):
    """Start the supervisor; return it when the container's process runs, or could not be started."""
    write(document)
    with open(log_of(document["Id"]), "ab") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-BES", sys.argv[0], "@container", document["Id"]], start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=log if detached else None, stderr=log if detached else None,
        )  # fmt: skip
    while supervisor.poll() is None:
        known = read(document["Id"])
        if known is None or known["State"]["Status"] != "created":
            break
        time.sleep(0.005)
    return supervisor


def supervise(identity):
    """Run the container's process to its end. When it ends so does everything in the container."""
    document = read(identity)
    ours = document["Ours"]
    try:
        process = subprocess.Popen(ours["command"], env=ours["environment"], cwd=ours["cwd"], start_new_session=True)
    except OSError as error:
        print(f"docker: Error response from daemon: {error}", file=sys.stderr)
        code = 127
        document["State"] = state("exited", code=code, error=str(error))
    else:
        document["State"] = state("running", process.pid)
        write(document)
        code = process.wait()
        code = 128 - code if code < 0 else code
        marks.end(marks.CONTAINER, identity)
        document["State"] = state("exited", code=code)
    if document["HostConfig"]["AutoRemove"]:
        forget(document)
    elif read(identity) is not None:  # Nobody removed it meanwhile.
        write(document)
    return code

"""`docker run` and `docker exec`.

A container has no filesystem of its own: where a path inside that a volume is mounted on stands in an argument, a
variable or the working directory, the path outside is put in its place.
"""

import contextlib
import os
import re
import secrets
import signal
import sys
import time

from ec2 import marks
from ec2.stubs import container
from ec2.stubs.options import last, split, values

# What a container's process has beside what it is given: what its image would give, and what is ours.
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "SPT_NOENV")


def run(arguments):
    options, rest = split(arguments)
    if not rest:
        return refused('docker: "docker run" requires at least 1 argument.', 1)
    name = last(options, "--name")
    if name and (other := container.find(name)):
        return refused(
            f'docker: Error response from daemon: Conflict. The container name "/{name}" is already in use by '
            f'container "{other["Id"]}".', 125,
        )  # fmt: skip
    try:
        document = described(options, *rest)
    except OSError as error:
        return refused(f"docker: {error}", 125)
    identity, detached = document["Id"], last(options, "--detach") == "true"
    supervisor = container.start(document, detached)
    if not detached:
        return attached(supervisor, identity)
    known = container.read(identity)
    if known is not None and known["State"]["Error"]:
        return refused(f"docker: Error response from daemon: {known['State']['Error']}", 127)
    print(identity)
    return 0


def refused(message, code):
    print(message, file=sys.stderr)
    return code


def described(options, image, *command):
    """The container as `docker inspect` shows it."""
    identity, mounts = secrets.token_hex(32), mounts_of(options)
    entrypoint = last(options, "--entrypoint")
    command = ([entrypoint] if entrypoint else []) + list(command) or ["sleep", "infinity"]
    directory = outside(last(options, "--workdir", os.environ["HOME"]), mounts)
    return {
        "Id": identity, "Name": "/" + last(options, "--name", f"unnamed_{identity[:8]}"), "Created": time.time(),
        "Image": image, "State": container.state("created"),
        "Config": {
            "Image": image, "Cmd": command,
            "Labels": dict(label.partition("=")[::2] for label in values(options, "--label")),
        },
        "HostConfig": {"AutoRemove": last(options, "--rm") == "true"},
        "Ours": {
            "command": [outside(word, mounts) for word in command], "mounts": mounts,
            "environment": {**environment(options, mounts), marks.CONTAINER: identity},
            "cwd": directory if os.path.isdir(directory) else os.environ["HOME"],
        },
    }  # fmt: skip


def environment(options, mounts):
    variables = {name: os.environ[name] for name in os.environ if name in KEPT or name.startswith("REGION_")}
    given = []
    for path in values(options, "--env-file"):
        with open(path, encoding="utf-8") as file:
            given += [line for line in file.read().splitlines() if line.strip() and not line.startswith("#")]
    for variable in given + values(options, "--env"):
        name, equals, value = variable.partition("=")
        if equals:
            variables[name] = outside(value, mounts)
        elif name in os.environ:  # Docker hands on what it has itself.
            variables[name] = os.environ[name]
    return variables


def mounts_of(options):
    """Path inside -> path outside, of volumes that are directories or files."""
    mounts = {}
    for volume in values(options, "--volume"):
        source, _, rest = volume.partition(":")
        mounts[rest.split(":")[0]] = source
        if source.startswith(os.environ["REGION_DIRECTORY"]) and not os.path.exists(source):
            os.makedirs(source)  # As Docker does, for this option only.
    for mount in values(options, "--mount"):
        parts = dict(part.partition("=")[::2] for part in mount.split(","))
        target = parts.get("target", parts.get("destination", parts.get("dst", "")))
        mounts[target] = parts.get("source", parts.get("src", ""))
    return {
        inside.rstrip("/"): path.rstrip("/")
        for inside, path in mounts.items()
        if inside.rstrip("/") and path.startswith("/") and inside.rstrip("/") != path.rstrip("/")
    }


def outside(text, mounts):
    if not mounts:
        return text
    pattern = "|".join(map(re.escape, sorted(mounts, key=len, reverse=True)))
    return re.sub(rf"(?<![\w./-])({pattern})(?![\w.-])", lambda found: mounts[found[1]], text)


def attached(supervisor, identity):
    """As the container ends, so does the command; signals are for the container."""

    def forward(number, _frame):
        known = container.read(identity)
        if known is not None and known["State"]["Running"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(known["State"]["Pid"], number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, forward)
    return supervisor.wait()


def execute(arguments):
    options, (name, *command) = split(arguments)
    known = container.find(name)
    if known is None or not known["State"]["Running"]:
        return refused(f"Error response from daemon: No such container: {name}", 1)
    ours = known["Ours"]
    given = {variable.partition("=")[0] for variable in values(options, "--env")}
    new = {key: value for key, value in environment(options, ours["mounts"]).items() if key in given}
    os.chdir(outside(last(options, "--workdir", ours["cwd"]), ours["mounts"]))
    words = [outside(word, ours["mounts"]) for word in command]
    try:
        os.execvpe(words[0], words, {**ours["environment"], **new})
    except OSError as error:
        return refused(f"OCI runtime exec failed: {words[0]}: {error}", 127)

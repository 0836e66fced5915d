"""`docker`, as far as instances use it: a container is a process of this machine."""

import contextlib
import json
import os
import re
import signal
import sys
import time

from ec2.stubs import container
from ec2.stubs.docker_run import execute, refused, run
from ec2.stubs.options import last, split, values


def main(arguments):
    command, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    if command in ("container", "image") and rest:
        command, rest = rest[0] if command == "container" else f"image {rest[0]}", rest[1:]
    known = {
        "run": run, "start": start, "exec": execute, "rm": remove, "stop": stop, "kill": kill, "wait": wait,
        "ps": ps, "ls": ps, "inspect": inspect, "logs": logs, "info": info, "version": info, "pull": done,
        "image pull": done, "image inspect": done, "image prune": done, "images": done, "login": done, "update": done,
    }  # fmt: skip
    if command not in known:
        return refused(f"docker: '{command}' is not a command that this stub knows.", 1)
    return known[command](rest)


def done(_arguments):
    """It is enough that it was recorded."""
    return 0


def info(arguments):
    options, _ = split(arguments)
    shown = {"ServerVersion": "28.0", "Driver": "overlay2", "DockerRootDir": "/var/lib/docker",
             "Runtimes": {"runc": {}, "nvidia": {}}, "Server": {"Version": "28.0"}}  # fmt: skip
    print(formatted(last(options, "--format", last(options, "--force")), shown))
    return 0


def each(names, act):
    code = 0
    for name in names:
        known = container.find(name)
        if known is None:
            code = refused(f"Error response from daemon: No such container: {name}", 1)
        else:
            code = act(known) or code
    return code


def ended(known, bound_s):
    deadline = time.monotonic() + bound_s
    while (now := container.read(known["Id"])) is not None and now["State"]["Status"] != "exited":
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def send(known, number):
    if known["State"]["Running"]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(known["State"]["Pid"], number)


def remove(arguments):
    options, names = split(arguments, {"-f", "--force", "-v", "--volumes"})

    def act(known):
        if known["State"]["Running"] and not values(options, "--force"):
            return refused(f"Error response from daemon: container {known['Id']} is running: stop it first", 1)
        send(known, signal.SIGKILL)
        ended(known, 10)
        container.forget(known)
        print(names[0] if len(names) == 1 else known["Id"])

    return each(names, act)


def start(arguments):
    def act(known):
        if not known["State"]["Running"]:
            container.start({**known, "State": container.state("created")}, detached=True)
        print(known["Name"][1:])

    return each(arguments, act)


def stop(arguments):
    options, names = split(arguments)
    grace_s = float(last(options, "--time", last(options, "--timeout", "10")))

    def act(known):
        send(known, signal.SIGTERM)
        if not ended(known, grace_s):
            send(known, signal.SIGKILL)
            ended(known, 10)
        print(known["Name"][1:])

    return each(names, act)


def kill(arguments):
    options, names = split(arguments)
    name = last(options, "--signal", "KILL").removeprefix("SIG")
    number = signal.Signals(int(name)) if name.isdigit() else signal.Signals[f"SIG{name}"]

    def act(known):
        if not known["State"]["Running"]:
            return refused(f"Error response from daemon: container {known['Id']} is not running", 1)
        send(known, number)
        print(known["Name"][1:])

    return each(names, act)


def wait(arguments):
    def act(known):
        ended(known, 1e9)
        print((container.read(known["Id"]) or known)["State"]["ExitCode"])

    return each(arguments, act)


def logs(arguments):
    _, names = split(arguments, {"-f", "--follow", "--details", "-t", "--timestamps"})

    def act(known):
        with open(container.log_of(known["Id"]), encoding="utf-8", errors="replace") as file:
            sys.stdout.write(file.read())

    return each(names, act)


def ps(arguments):
    options, _ = split(arguments, {"-a", "--all", "-q", "--quiet", "--no-trunc", "-s", "--size", "-l", "--latest"})
    filters = [value.partition("=") for value in values(options, "--filter") + values(options, "--force")]
    for known in container.all_of_them():
        if not (known["State"]["Running"] or values(options, "--all")):
            continue
        if not all(passes(known, key, value) for key, _, value in filters):
            continue
        shown = {"ID": known["Id"][:12], "Names": known["Name"][1:], "Image": known["Image"], "Status": status(known)}
        if values(options, "--quiet"):
            print(shown["ID"])
        else:
            form = last(options, "--format")
            print(formatted(form, shown) if form else "   ".join(shown.values()))
    return 0


def status(known):
    state = known["State"]
    return "Up 1 second" if state["Running"] else f"{state['Status'].capitalize()} ({state['ExitCode']})"


def passes(known, key, value):
    if key == "name":
        return re.search(value, known["Name"]) is not None
    if key == "label":
        name, equals, wanted = value.partition("=")
        labels = known["Config"]["Labels"]
        return name in labels and (not equals or labels[name] == wanted)
    if key == "status":
        return known["State"]["Status"] == value
    return key != "id" or known["Id"].startswith(value)


def inspect(arguments):
    options, names = split(arguments, {"-s", "--size"})
    form = last(options, "--format", last(options, "--force"))  # Its short form is -f.
    shown = []

    def act(known):
        document = {key: value for key, value in known.items() if key != "Ours"}
        print(formatted(form, document)) if form else shown.append(document)

    code = each(names, act)
    if not form:
        print(json.dumps(shown, indent=4))
    return code


def formatted(form, document):
    """Go's templates, as far as `{{.Some.Field}}` and `{{json .Field}}`."""

    def field(found):
        value = document
        for part in filter(None, found[2].split(".")):
            value = value[part]
        return json.dumps(value) if found[1] or not isinstance(value, str) else value

    if not form or form == "json":
        return json.dumps(document)
    return re.sub(r"\{\{\s*(json\s+)?([.\w]+)\s*\}\}", field, form)

"""The options of `docker`: in order, by their long names, each with its value."""

# Those of `docker run` and `docker exec` that have none (Docker's command line reference).
FLAGS = {
    "-d", "--detach", "-i", "--interactive", "-t", "--tty", "-P", "--publish-all", "-q", "--quiet", "--init", "--rm",
    "--no-healthcheck", "--oom-kill-disable", "--privileged", "--read-only", "--sig-proxy", "--use-api-socket",
    "--disable-content-trust",
}  # fmt: skip
LONG = {
    "-d": "--detach", "-e": "--env", "-v": "--volume", "-w": "--workdir", "-l": "--label", "-a": "--all",
    "-q": "--quiet", "-f": "--force", "-t": "--time", "-s": "--signal",
}  # fmt: skip


def split(arguments, flags=FLAGS):
    """The options, as (name, value), and what follows them."""
    options, rest = [], list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        name, equals, value = rest.pop(0).partition("=")
        if name == "--":
            break
        if equals:
            options.append((name, value))
        elif name in flags:
            options.append((name, "true"))
        elif not name.startswith("--") and len(name) > 2:  # As -it or -eNAME.
            letters = [f"-{letter}" for letter in name[1:]]
            together = all(letter in flags for letter in letters)
            options += [(letter, "true") for letter in letters] if together else [(name[:2], name[2:])]
        elif rest:
            options.append((name, rest.pop(0)))
    return [(LONG.get(name, name), value) for name, value in options], rest


def values(options, name):
    return [value for known, value in options if known == name]


def last(options, name, default=None):
    return (values(options, name) or [default])[-1]

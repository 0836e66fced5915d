"""Runs the program beside this file on the head, with the state directory that all of the cluster's jobs share.

    python -m rayconcile_hosted attend NAME [ARGUMENT...]
    python -m rayconcile_hosted VERB [ARGUMENT...]

This program replaces this process: Ray's job is then that program, without Python.
"""

import os
import sys

from ray.dashboard.utils import get_address_for_submission_client


def main():
    here = os.path.dirname(os.path.realpath(__file__))
    # Ray unpacks packages below the directory of its session, which lives as long as the cluster.
    session, below, _ = here.partition("/runtime_resources/")
    if not below:
        raise SystemExit(f"{here} is not where Ray unpacks packages")
    program = os.path.join(here, "rayconcile")
    os.chmod(program, 0o755)  # Zips that Ray unpacks lose it.
    state = ["--state-dir", os.path.join(session, "rayconcile", "controller")]
    verb, *arguments = sys.argv[1:]
    if verb == "attend":
        dashboard = get_address_for_submission_client(None)
        where = ["--dashboard", dashboard, "--session", session]
        os.execv(program, ["rayconcile-hosted", *state, *arguments, *where])
    os.execv(program, ["rayconcile", *state, verb, *arguments])


if __name__ == "__main__":
    main()

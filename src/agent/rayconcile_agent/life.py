"""Who still needs a node: what the agent tells whoever asks, so that an instance which nobody needs ends itself.

An instance has no token of the agent's. What it is told is a few numbers, as ages: no two clocks are compared.
"""

import os
import time

from . import store

# A bridge reports at least every two seconds: this long after a report what it said still holds.
FRESH_S = 5.0
# How long a count of what is on the disk is used, for a thousand instances may ask.
COUNT_S = 5.0


class Life:
    """What is known of it. `directory` has one directory for each job that has anything on the head."""

    def __init__(self, directory):
        self.directory = directory
        # When a controller was heard, and when each node was last seen to have a worker of a job.
        self.controller = None
        self.worked = {}
        self.counted, self.count = None, 0

    def note_controller(self):
        self.controller = time.monotonic()

    def note_report(self, report):
        """Note where a bridge says that workers live."""
        now = time.monotonic()
        self.worked.update((node, now) for node in nodes_with_workers(report))

    def describe(self, address, nodes, head, asking):
        """The answer for the node at an address. `asking`: whether a controller waits for news just now."""
        here = {node["id"] for node in nodes if node["address"] == address}
        # The head is needed as long as any node has a worker: without it they are no cluster.
        worked = self.worked.values() if head in here else [self.worked[node] for node in here & self.worked.keys()]
        job_s = age_s(max(worked, default=None))
        return {
            "controllerS": 0.0 if asking else age_s(self.controller),
            "jobS": 0.0 if job_s is not None and job_s < FRESH_S else job_s,
            "unsafeCheckpoints": self.unsafe(),
            "joined": any(node["id"] in here and node["alive"] for node in nodes),
        }

    def unsafe(self):
        """How many checkpoints and artifacts would be lost with the head, as far as anybody knows."""
        if self.counted is None or age_s(self.counted) > COUNT_S:
            jobs = os.listdir(self.directory) if os.path.isdir(self.directory) else []
            self.count = sum(store.unsafe(os.path.join(self.directory, job, "blobs")) for job in jobs)
            self.counted = time.monotonic()
        return self.count


def nodes_with_workers(report):
    """The nodes on which a bridge has a worker that is not known to have ended."""
    return {
        rank["node"]
        for group in report.get("groups", ())
        if group["phase"] != "Ended"
        for rank in group["ranks"]
        if rank["pid"] and not rank["exit"]
    }


def age_s(moment):
    return None if moment is None else round(time.monotonic() - moment, 3)

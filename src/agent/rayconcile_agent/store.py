"""Blobs on the head's disk: checkpoints and artifacts, until the controller has them, and to start groups from.

A checkpoint's place in history is `(group, number)`: the group that saved it and its how-many-eth save.

What is known of a blob stands beside it, so that the next bridge finds it. Beside a blob that the controller has said
to have durably stands an empty file that says so.
"""

import contextlib
import json
import os
import time

CHECKPOINT, ARTIFACTS = "Checkpoint", "Artifacts"
# Artifacts are fetched at once by a controller that is there; for one that is not, the newest are kept.
KEEP_ARTIFACTS = 3
# What a controller wants to find of a job if it has lost everything.
KEEPSAKE = "keepsake.json"


class BlobStore:
    """The blobs of one job. What is described here exists, whole, under its digest in `directory`."""

    def __init__(self, directory):
        self.directory = directory
        self.descriptions = []
        os.makedirs(directory, exist_ok=True)
        for name in os.listdir(directory):
            if name.endswith(".json"):
                self._find(os.path.join(directory, name))
        self.descriptions.sort(key=place)

    def path(self, digest):
        return os.path.join(self.directory, digest)

    def add(self, description):
        """Count a blob whose file is there; adding it again changes nothing."""
        if not any(place(other) == place(description) for other in self.descriptions):
            self.descriptions.append(description)
            self.descriptions.sort(key=place)
            temporary = self._beside(description) + ".new"
            with open(temporary, "w", encoding="utf-8") as file:
                # A bridge of another life of the machine counts by another clock.
                json.dump({**description, "at": time.time() - (time.monotonic() - description["at"])}, file)
            os.rename(temporary, self._beside(description))

    def newest(self):
        """The place of the newest checkpoint in the job's history, or None."""
        found = self.newest_first()
        return (found[0]["group"], found[0]["number"]) if found else None

    def newest_first(self):
        """The checkpoints, the newest first."""
        return [blob for blob in reversed(self.descriptions) if blob["kind"] == CHECKPOINT]

    def prune(self, keep):
        """Keep the newest `keep` checkpoints and some artifacts."""
        artifacts = [blob for blob in reversed(self.descriptions) if blob["kind"] == ARTIFACTS]
        for blob in self.newest_first()[keep:] + artifacts[KEEP_ARTIFACTS:]:
            self.remove(blob)

    def remove(self, blob):
        self.descriptions.remove(blob)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._beside(blob))
        if not any(other["digest"] == blob["digest"] for other in self.descriptions):
            for path in (self.path(blob["digest"]), kept_mark(self.directory, blob["digest"])):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    def _beside(self, blob):
        return os.path.join(self.directory, "{}-{}-{}.json".format(*place(blob)))

    def _find(self, path):
        """Count a blob that an earlier bridge has left, if all of it is there."""
        try:
            with open(path, encoding="utf-8") as file:
                description = json.load(file)
            if os.path.getsize(self.path(description["digest"])) == description["size"]:
                age_s = max(0.0, time.time() - description["at"])
                self.descriptions.append({**description, "at": time.monotonic() - age_s})
        except (OSError, ValueError, KeyError):
            pass  # It was being written, or removed, when the bridge died.


def place(blob):
    """A blob's kind and its place in history: what it is known by."""
    return blob["kind"], blob["group"], blob["number"]


def kept_mark(directory, digest):
    return os.path.join(directory, f"{digest}.kept")


def mark_kept(directory, digest):
    """Note that the controller has a blob durably."""
    with open(kept_mark(directory, digest), "wb"):
        pass


def mark_place_kept(directory, group, number):
    """Note that the controller has the checkpoint of that place durably, if it is here."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        with open(os.path.join(directory, f"{CHECKPOINT}-{group}-{number}.json"), encoding="utf-8") as file:
            mark_kept(directory, json.load(file)["digest"])


def put_keepsake(directory, keepsake):
    """Keep a job's keepsake in its directory, with which it goes. On a full disk the job goes on without."""
    path = os.path.join(directory, KEEPSAKE)
    with contextlib.suppress(OSError):
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            json.dump(keepsake, file)
        os.rename(f"{path}.new", path)


def keepsakes(directory):
    """What was kept of each job that has anything in a directory of these."""
    kept = {}
    for uid in os.listdir(directory) if os.path.isdir(directory) else ():
        with contextlib.suppress(OSError, ValueError):
            with open(os.path.join(directory, uid, KEEPSAKE), encoding="utf-8") as file:
                kept[uid] = json.load(file)
    return kept


def unsafe(directory):
    """How many blobs are here that nobody is known to have durably. A checkpoint is not needed beside a newer one."""
    checkpoints, artifacts = {}, {}
    for name in os.listdir(directory) if os.path.isdir(directory) else ():
        if name.endswith(".json"):
            try:
                with open(os.path.join(directory, name), encoding="utf-8") as file:
                    blob = json.load(file)
                known = checkpoints if blob["kind"] == CHECKPOINT else artifacts
                known[blob["group"], blob["number"]] = os.path.exists(kept_mark(directory, blob["digest"]))
            except (OSError, ValueError, KeyError):
                pass  # It was removed meanwhile.
    newest = max((place for place, kept in checkpoints.items() if kept), default=(-1, -1))
    return sum(place > newest for place in checkpoints) + sum(not kept for kept in artifacts.values())

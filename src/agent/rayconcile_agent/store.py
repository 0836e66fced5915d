"""Blobs on the head's disk: checkpoints and artifacts, until the controller has them, and to start groups from.

A checkpoint's place in history is `(group, number)`: the group that saved it and its how-many-eth save.
"""

import os

from . import blobs

CHECKPOINT, ARTIFACTS = "Checkpoint", "Artifacts"
# Artifacts are fetched at once by a controller that is there; for one that is not, the newest are kept.
KEEP_ARTIFACTS = 3


class BlobStore:
    """The blobs of one job. What is described here exists, whole, under its digest in `directory`."""

    def __init__(self, directory):
        self.directory = directory
        self.descriptions = []
        os.makedirs(directory, exist_ok=True)

    def path(self, digest):
        return os.path.join(self.directory, digest)

    def receiver(self, digest):
        return blobs.Receiver(self.directory, digest)

    def add(self, description):
        """Count a blob whose file is there; adding it again changes nothing."""
        if not any(place(other) == place(description) for other in self.descriptions):
            self.descriptions.append(description)
            self.descriptions.sort(key=place)

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
        if not any(other["digest"] == blob["digest"] for other in self.descriptions):
            if os.path.exists(self.path(blob["digest"])):
                os.unlink(self.path(blob["digest"]))


def place(blob):
    """A blob's kind and its place in history: what it is known by."""
    return blob["kind"], blob["group"], blob["number"]

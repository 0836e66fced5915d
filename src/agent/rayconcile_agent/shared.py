"""A slot's place on a file system that the nodes of its job share, if there is one: what is saved there is not carried.

The manifest names directories that may be shared. Nobody asks whether one is: another slot looks whether it sees
the save there, and if it does not the save is carried to it.
"""

import contextlib
import os
import shutil

NAME = ".rayconcile"


def find_place(roots, job_uid, slot_id):
    """The slot's own directory below the first of these that is there to be written to, or None."""
    for root in roots:
        if root and os.path.isdir(root):
            place = os.path.join(root, NAME, job_uid, slot_id)
            with contextlib.suppress(OSError):
                os.makedirs(place, exist_ok=True)
                return place
    return None


def sweep(place, slots):
    """Remove what those of the job's slots have left there that are no more: a dead node cannot do it."""
    if place is None:
        return
    job = os.path.dirname(place)
    for name in set(os.listdir(job)) - set(slots):
        shutil.rmtree(os.path.join(job, name), ignore_errors=True)


def remove(place):
    """Remove the slot's directory, and those above it that are ours and empty."""
    if place is None:
        return
    shutil.rmtree(place, ignore_errors=True)
    job = os.path.dirname(place)
    with contextlib.suppress(OSError):
        os.rmdir(job)
        os.rmdir(os.path.dirname(job))


def link_tree(source, target):
    """Have the files of a directory in another one too, without copying them; say whether that can be."""
    try:
        shutil.copytree(source, target, copy_function=os.link)
    except (OSError, shutil.Error):  # It may be of another file system, or be gone.
        shutil.rmtree(target, ignore_errors=True)
        return False
    return True

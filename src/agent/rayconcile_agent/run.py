"""One worker of a slot: what the slot knows of it, and where its files are."""

import json
import math
import os
import shutil

from . import host, worker
from .logs import Ring


class Run:
    """One worker: a rank of a group, from its preparation until it is forgotten."""

    def __init__(self, slot_directory, shared, group, rank):
        self.group, self.rank = group, rank
        self.directory = os.path.join(slot_directory, f"group-{group}")
        self.shared = shared and os.path.join(shared, f"group-{group}")
        self.cwd = os.path.join(self.directory, "cwd")
        self.saves = os.path.join(self.shared or self.directory, "saves")
        self.restored = os.path.join(self.directory, "restored")
        self.process = self.exit = self.peers = None
        self.launched = self.forgotten = self.released = self.arrived = self.held = self.joined = False
        self.unforked = None
        self.hints, self.hints_number = None, 0
        self.log = Ring()
        self.noticed = (0, 0, 0, 0)
        for directory in (self.saves, self.restored):
            os.makedirs(directory, exist_ok=True)
        control_path = os.path.join(self.directory, "control")
        with open(control_path, "wb") as file:
            # Written, not only made that long: on a full disk a page that is missing kills who touches it.
            file.write(bytes(worker.CONTROL_BYTES))
        self.control_path = control_path
        self.control = worker.Control(control_path)

    def configure(self, config):
        """Write down what the bootstrap reads; return where. There are secrets in it."""
        path = os.path.join(self.directory, "config.json")
        with open(path, "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            json.dump(config, file)
        return path

    def alive(self):
        return self.process is not None and self.exit is None

    def may_train(self):
        """Whether it may make a step, or another one."""
        return self.alive() and self.released and not self.control.words[worker.LEAVING]

    def trains(self):
        """Whether it has made steps, and may make more."""
        return self.may_train() and bool(self.control.words[worker.FIRST_STEP_NS])

    def remove(self):
        """Remove its files."""
        for directory in filter(None, (self.directory, self.shared)):
            shutil.rmtree(directory, ignore_errors=True)

    def save_path(self, number):
        """Where a save of that number is, if it is whole: AdaptDL gives it this name last."""
        path = os.path.join(self.saves, str(number), f"checkpoint-{self.group}")
        return path if os.path.isdir(path) else None

    def save(self):
        """The newest save, as the bridge counts it."""
        words = self.control.words
        number = words[worker.SAVES]
        if not number or not self.save_path(number):
            return None
        steps, save_ms = words[worker.SAVE_STEPS], words[worker.SAVE_NS] / 1e6
        return {"group": self.group, "number": number, "steps": steps, "saveMs": save_ms}

    def report(self, now_ns):
        """What the bridge wants to know; times as ages, for clocks of two machines are never compared."""
        words, progress = self.control.words, self.control.floats[worker.PROGRESS]

        def age_ms(word):
            return (now_ns - words[word]) / 1e6 if words[word] else None

        return {
            "group": self.group,
            "rank": self.rank,
            "pid": self.process.pid if self.process else None,
            "arrived": self.arrived,
            "held": self.held,
            "joined": self.joined,
            "leaving": bool(words[worker.LEAVING]),
            "stopped": self.alive() and host.is_stopped(self.process.pid),
            "exit": self.exit and {**self.exit, "at": None, "agoMs": now_ns / 1e6 - self.exit["at"] * 1e3},
            "steps": words[worker.STEPS],
            "lastStepAgoMs": age_ms(worker.LAST_STEP_NS),
            "firstStepAgoMs": age_ms(worker.FIRST_STEP_NS),
            "activeAgoMs": age_ms(worker.ACTIVE_NS),
            "epoch": words[worker.EPOCH] - 1 if words[worker.EPOCH] else None,
            "progress": progress if math.isfinite(progress) else None,
            "batchSize": words[worker.BATCH] or None,
            "saves": words[worker.SAVES],
            "saveFails": words[worker.SAVE_FAILS],
            "saveMs": words[worker.SAVE_NS] / 1e6,
            "saveSteps": words[worker.SAVE_STEPS],
            "savePath": words[worker.SAVES] and self.save_path(words[worker.SAVES]) or None,
            "hints": self.hints,
            "hintsNumber": self.hints_number,
        }

    def seen(self):
        """What it has done, as far as the bridge should hear of it at once."""
        words = self.control.words
        return tuple(words[word] for word in (worker.SAVES, worker.SAVE_FAILS, worker.FIRST_STEP_NS, worker.LEAVING))

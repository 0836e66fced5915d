"""The watcher: what moto says is running runs, and what it says is terminated ends.

It is level-triggered: whoever ends an instance only says so to moto, and each look at moto brings the processes in
line with it.
"""

import threading
import time
import traceback

from ec2 import life, marks
from ec2.machine import Machine

LOOK_S = 0.05
GRACE_S = 1.0


class Instances:
    def __init__(self, moto, metadata, place):
        self.moto, self.metadata, self.place = moto, metadata, place
        moto.ec2.console = self._console
        self.machines, self.since, self.taken_at = {}, {}, {}
        self.never_boot, self.apart = set(place.options.never_boot), set()
        self.ending = {}
        self.most = 0  # How many were pending or running at once.
        self.over = threading.Event()
        self.watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def start(self):
        self.watcher.start()

    def stop(self):
        """Look no more. What runs is for the guard to end."""
        self.over.set()
        self.watcher.join()

    def _watch(self):
        while not self.over.wait(LOOK_S):
            with self.moto.lock:
                instances = self.moto.instances()
                # None is pending for less than it takes to look again.
                up = sum(instance.state in ("pending", "running") for instance in instances)
                self.most = max(self.most, up)
                for instance in instances:
                    try:
                        self._look(instance)
                    except Exception:  # The others go on; whoever started the region sees why this one does not.
                        traceback.print_exc()
            for machine in list(self.machines.values()):
                machine.reap()

    def _look(self, instance):
        state, now = instance.state, time.monotonic()
        if state == "pending":
            if now - self.since.setdefault(instance.id, now) >= self.place.options.pending_s:
                instance.start()
                self._boot(instance)
        elif state in ("running", "stopped"):
            if now >= self.taken_at.get(instance.id, now + 1):
                instance.terminate(life.SPOT)
            elif state == "stopped" and instance.id in self.machines:
                self.machines[instance.id].halt()
        elif state == "shutting-down" and instance.id not in self.ending:
            self._end(instance, GRACE_S)

    def _boot(self, instance):
        if {"*", instance.instance_type} & self.never_boot:
            return
        machine = Machine(self.place, len(self.machines), instance, instance.instance_type in self.apart)
        self.machines[instance.id] = machine
        machine.boot()

    def _end(self, instance, grace_s):
        """End its processes, then have moto take away what goes with it."""
        machine = self.machines.get(instance.id)

        def end():
            if machine is not None:
                machine.end(grace_s)
            with self.moto.lock:
                life.finish(instance)

        ender = threading.Thread(target=end, name=f"end {instance.id}", daemon=True)
        self.ending[instance.id] = ender
        ender.start()
        return ender

    def _console(self, identity, size):
        machine = self.machines.get(identity)
        return machine.output(size) if machine is not None else b""

    # What tests have happen. Each raises LookupError or ValueError for what EC2 would not do.

    def _there(self, identity):
        instance = self.moto.find(identity)
        if instance is None or instance.state not in ("pending", "running"):
            raise LookupError(f"no instance {identity} is pending or running")
        return instance

    def notice(self, identity, kind, in_s):
        """Announce something. A spot instance that is to be terminated is, after so long."""
        with self.moto.lock:
            instance = self._there(identity)
            if kind != "maintenance" and instance.lifecycle != "spot":
                raise ValueError(f"{identity} is no spot instance: it gets no notice {kind}")
            self.metadata.announce(instance.id, kind, in_s)
            if kind == "terminate":
                self.taken_at[identity] = time.monotonic() + in_s

    def kill(self, identity):
        """Its machine dies, at once."""
        with self.moto.lock:
            instance = self._there(identity)
            instance.terminate(life.FAILURE)
            ender = self._end(instance, 0.0)
        ender.join()

    def shut_down(self, identity):
        """It has shut itself down."""
        with self.moto.lock:
            instance = self._there(identity)
            if instance.instance_initiated_shutdown_behavior == "terminate":
                instance.terminate(life.ITSELF)
            else:
                instance.stop()

    def boot_again(self, identity):
        """Run its user data once more, beside what still runs."""
        with self.moto.lock:
            if self._there(identity).id not in self.machines:
                raise LookupError(f"{identity} never booted")
            self.machines[identity].boot()

    def shown(self):
        running = marks.by_value(marks.INSTANCE)
        with self.moto.lock:
            return [self._shown(instance, running) for instance in self.moto.instances()]

    def _shown(self, instance, running):
        machine = self.machines.get(instance.id)
        return {
            "id": instance.id,
            "address": machine.address if machine else instance.private_ip_address,
            "type": instance.instance_type,
            "zone": instance.placement.zone,
            "lifecycle": instance.lifecycle or "on-demand",
            "state": instance.state,
            "byItself": life.ITSELF == getattr(instance.state_reason, "message", None),
            "running": instance.id in running,
            "output": machine.output(4000).decode(errors="replace") if machine else "",
            "calls": machine.calls() if machine else [],
        }

"""Worker processes as their slot has them: started afresh, or forked from a process that has imported everything."""

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading

from . import host

FORK_SERVER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "forkserver.py")
PR_SET_CHILD_SUBREAPER = 36
# Importing torch takes ten seconds on a slow machine; one that takes this long is not waited for.
WARM_S = 180.0
FORK_S = 30.0


class Unforkable(Exception):
    """Why workers are not forked here."""


def adopt_orphans():
    """Have the kernel give this process the children of its children that die: forked workers are such."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Forked:
    """A forked worker, with what is used of `subprocess.Popen`."""

    def __init__(self, pid):
        self.pid = pid
        self.returncode = None
        self.reaping = threading.Lock()

    def wait(self):
        """Wait until it has ended; return its exit code, or less than zero for the signal that killed it."""
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with self.reaping:  # From here on its process id may be another's.
            if self.returncode is None:
                self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number):
        with self.reaping:
            if self.returncode is None:
                os.kill(self.pid, number)


def reap_orphans(group):
    """Take note of the end of what a worker left behind, once all of its process group has been killed."""
    try:
        while os.waitpid(-group, 0)[0]:
            pass
    except ChildProcessError:
        pass


class ForkServer:
    """A fork server of one environment. To be made and used by a thread that lives as long as the slot."""

    def __init__(self, environment, directory, script_directory):
        self.environment, self.directory = environment, directory
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(WARM_S)
        command = [sys.executable, FORK_SERVER, str(theirs.fileno()), str(os.getpid()), script_directory]
        with theirs:
            self.process = subprocess.Popen(
                command,
                env=environment,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                # What is said while importing is the program's to say again, in its own log.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        host.set_oom_score(self.process.pid, 1000)
        self.refusal = None
        self.warm = False

    def ready(self):
        """Wait until it can fork.

        Raises Unforkable if it never can, and OSError if it has died.
        """
        if not self.warm and self.refusal is None:
            self.refusal = self._receive()["refusal"]
            self.warm = self.refusal is None
            self.channel.settimeout(FORK_S)
        if self.refusal:
            raise Unforkable(self.refusal)

    def lives(self):
        """Whether it is there and has nothing to say but that it waits: one that was killed has hung up."""
        if self.process.poll() is not None:
            return False
        return not (self.warm and select.select([self.channel], [], [], 0)[0])

    def fork(self, config, variables, moved, output):
        """Have a worker forked whose output goes to the descriptor `output`."""
        self.ready()
        request = {"config": config, "variables": variables, "moved": moved, "parent": os.getpid()}
        socket.send_fds(self.channel, [json.dumps(request).encode()], [output])
        return Forked(self._receive()["pid"])

    def stop(self):
        self.channel.close()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def _receive(self):
        message = self.channel.recv(1 << 16)
        if not message:
            raise ConnectionError("the fork server has died")
        return json.loads(message)

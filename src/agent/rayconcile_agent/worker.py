"""The worker bootstrap: the process that becomes one replica of the user's program.

A slot runs `python worker.py CONFIG.json`, or has a fork server (`forkserver.py`) become it. This file ties the
process's life to the slot's, has AdaptDL mended (`mends.py`), and then runs the user's script as `__main__` (or
replaces itself with the user's command, which finds the same configuration in `RAYCONCILE_WORKER`). The script is not
changed and does not notice; nothing here is imported by it.

Only the standard library is used, and neither torch nor adaptdl is imported before the script does it.
"""

import atexit
import builtins
import contextlib
import ctypes
import importlib.util
import io
import json
import mmap
import os
import signal
import sys
import threading
import time
import traceback
import types

# Words of the control page, a memory-mapped file shared with the slot: eight bytes each, written whole, so
# that neither side ever reads half a value. Both sides know them by these indices (see `slot.py`).
STEPS, LAST_STEP_NS, FIRST_STEP_NS, EPOCH, PROGRESS, BATCH, SAVE_ASKED, SAVES, SAVE_NS, SAVE_STEPS = range(10)
# When it last did anything that counts as getting on, and whether it leaves: it has saved, and trains no more.
ACTIVE_NS, LEAVING = 10, 11
# How often it could not save because a disk was full.
SAVE_FAILS = 12
CONTROL_BYTES = 4096

PR_SET_PDEATHSIG = 1
# How long a forked worker may take to become the slot's child.
ADOPTION_S = 5.0
# How much a worker gives way (see `nice`): one that trains a little, to what prepares the next group and to Ray's own
# processes; with more it would come to a standstill on a busy machine, and be taken for hung. One that leaves does more.
TRAINING_NICE, LEAVING_NICE = 5, 10


def neighbour(name):
    """A module of this directory, under a name that no program uses."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"_rayconcile_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mends = neighbour("mends")


class Control:
    """The worker's side of the control page."""

    def __init__(self, path):
        with open(path, "r+b") as file:
            page = memoryview(mmap.mmap(file.fileno(), CONTROL_BYTES))
        self.words = page.cast("Q")
        self.floats = page.cast("d")

    def step_done(self, epoch, progress, batch):
        now = time.monotonic_ns()
        if not self.words[FIRST_STEP_NS]:
            self.words[FIRST_STEP_NS] = now
            # Not before: until now nobody trained. Beside the training, for the kernel may have it wait.
            threading.Thread(target=give_way, args=(TRAINING_NICE,), daemon=True).start()
        self.words[EPOCH] = epoch
        self.floats[PROGRESS] = progress
        self.words[BATCH] = batch
        self.words[LAST_STEP_NS] = now
        self.words[STEPS] += 1

    def active(self):
        self.words[ACTIVE_NS] = time.monotonic_ns()

    def save_wanted(self):
        return self.words[SAVE_ASKED] > self.words[SAVES]

    def next_save(self):
        return max(self.words[SAVES] + 1, self.words[SAVE_ASKED])

    def saved(self, started_ns):
        self.words[SAVE_NS] = time.monotonic_ns() - started_ns
        self.words[SAVE_STEPS] = self.words[STEPS]
        # Last: the slot takes a save for complete when this number has grown.
        self.words[SAVES] = self.next_save()

    def not_saved(self):
        self.words[SAVE_ASKED] = self.words[SAVES]
        self.words[SAVE_FAILS] += 1


class Worker:
    """What the import hooks need to know of this process."""

    def __init__(self, config):
        self.rank = config["rank"]
        self.saves = config["saves"]
        self.control = Control(config["control"])
        self.supervisor = config["supervisor"]
        self.released = False
        # What is to be loaded as soon as it may be.
        self.postponed = []

    def wait_for_release(self):
        """Block until the slot says that this group may load its checkpoint and train; load what was put off."""
        while not self.released:
            try:
                self.released = self.ask("GET", "release") == 200
            except OSError:
                time.sleep(0.2)
        while self.postponed:
            self.postponed.pop(0)()

    def tell(self, what):
        """Tell the slot something that it would otherwise notice a little later."""
        try:
            self.ask("POST", what)
        except OSError:
            pass

    def ask(self, method, what):
        """Ask the supervisor, without a proxy, for it is on this machine; return the status of its answer."""
        import http.client

        host, port, secret = self.supervisor
        connection = http.client.HTTPConnection(host, port)
        try:
            connection.request(method, f"/{secret}/{what}")
            return connection.getresponse().status
        finally:
            connection.close()

    def leaving(self):
        return bool(self.control.words[LEAVING])

    def leave(self, code):
        """End the program, which has saved. From here on it cannot train, whatever its script does with this."""
        self.control.words[LEAVING] = 1
        self.tell("left")
        if not uses_cuda():
            give_way(LEAVING_NICE)
        raise SystemExit(code)


def uses_cuda():
    """Whether this process has memory on a GPU, which the next group must wait for."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_initialized()


def give_way(nice):
    """Leave the processors to whoever needs them more.

    Where sessions share the processors out among themselves (`sched_autogroup_enabled`), only the second counts: a
    worker is a session of its own. The kernel takes one such wish per 100 ms and machine.
    """
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # It has ended meanwhile.
            if os.getpriority(os.PRIO_PROCESS, int(thread)) < nice:
                os.setpriority(os.PRIO_PROCESS, int(thread), nice)
    for _ in range(10):
        try:
            with open("/proc/self/autogroup", "w", encoding="ascii") as file:
                file.write(str(nice))
        except BlockingIOError:
            time.sleep(0.1)
        except OSError:
            return
        else:
            return


def die_with_parent(parent):
    """Have the kernel kill this process when the slot is gone.

    A forked worker is the slot's only when the process between them has ended, which it does at once.
    """
    deadline = time.monotonic() + ADOPTION_S
    while os.getppid() != parent:
        if time.monotonic() > deadline or not os.path.exists(f"/proc/{parent}"):
            os._exit(1)
        time.sleep(0.001)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # It died before the request was made.


def show_user_frames(kind, error, trace):
    """Print a traceback that begins in the user's script."""
    ours = os.path.dirname(os.path.abspath(__file__))
    while trace and os.path.dirname(os.path.abspath(trace.tb_frame.f_code.co_filename)) == ours:
        trace = trace.tb_next
    traceback.print_exception(kind, error, trace)


def run_script(path, args):
    """Run a script as `python PATH ARGS` would."""
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=os.path.abspath(path), __builtins__=builtins, __cached__=None)
    sys.modules["__main__"] = main
    sys.argv = [path, *args]
    sys.path[0] = os.path.dirname(os.path.abspath(path))
    sys.excepthook = show_user_frames
    with io.open_code(os.path.abspath(path)) as file:
        code = compile(file.read(), os.path.abspath(path), "exec", dont_inherit=True)
    exec(code, main.__dict__)


def run_command(command, args, config_path):
    """Become another program, which may do by itself what `mends.py` does for scripts (`docs/programs.md`)."""
    os.environ["RAYCONCILE_WORKER"] = config_path
    # Last, so that whoever brings libraries of their own has these first.
    paths = [os.environ.get("LD_LIBRARY_PATH"), *torch_libraries()]
    if any(paths):
        os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, paths))
    # The interpreter ignores these, and what it becomes would go on to: it is to begin as from a shell.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command + args)
    except OSError as error:
        print(f"cannot run {command[0]!r}: {error.strerror}", file=sys.stderr)
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)


def torch_libraries():
    """Where the environment's torch has its shared libraries; it is not imported for that."""
    torch = importlib.util.find_spec("torch")
    packages = (torch and torch.submodule_search_locations) or ()
    return [path for package in packages if os.path.isdir(path := os.path.join(package, "lib"))]


def leave_quickly(code):
    """End as the interpreter does, but for taking down every module, which takes torch's seconds."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass
    os._exit(code)


def become(path):
    """Run the program that the configuration at a path describes."""
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    os.chdir(config["cwd"])
    if config["command"]:
        run_command(config["command"], config["args"], path)
    worker = Worker(config)
    sys.meta_path.insert(0, mends.Mender(worker))
    mends.mend_imported(worker)
    try:
        run_script(config["entrypoint"], config["args"])
    except SystemExit as ending:
        if worker.leaving():
            leave_quickly(ending.code)
        raise


if __name__ == "__main__":
    die_with_parent(int(sys.argv[2]))
    become(sys.argv[1])

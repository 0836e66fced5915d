"""The worker bootstrap: the process that becomes one replica of the user's program.

A slot runs `python worker.py CONFIG.json`, or has a fork server (`forkserver.py`) become it. This file ties the
process's life to the slot's, mends what AdaptDL 0.2.11 needs on today's packages, and then runs the user's script
as `__main__` (or replaces itself with the user's command). The script is not changed and does not notice; nothing
here is imported by it.

Only the standard library is used, and neither torch nor adaptdl is imported before the script does it:
the mends are applied by import hooks, so a script that uses neither pays nothing.
"""

import atexit
import builtins
import contextlib
import ctypes
import errno
import importlib.abc
import importlib.machinery
import io
import json
import mmap
import os
import shutil
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

# What `get_exit_flag` answers when a checkpoint is wanted and training shall go on. AdaptDL combines the
# replicas' answers with `or`, so any truthy value but True (stop) travels through unchanged.
SAVE_ONLY = 2

PR_SET_PDEATHSIG = 1
# How long a forked worker may take to become the slot's child.
ADOPTION_S = 5.0
# What is left on a disk that could not take more.
NEARLY_FULL_BYTES = 1 << 20
# How much a worker that leaves gives way to others (see `nice`).
LEAVING_NICE = 19
# What AdaptDL's programs end with when they were told to (128 + SIGTERM).
SIGTERM_EXIT = 143


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
        self.words[EPOCH] = epoch
        self.floats[PROGRESS] = progress
        self.words[BATCH] = batch
        self.words[LAST_STEP_NS] = now
        self.words[STEPS] += 1

    def active(self):
        self.words[ACTIVE_NS] = time.monotonic_ns()

    def save_wanted(self):
        return self.words[SAVE_ASKED] > self.words[SAVES]

    def saved(self, started_ns):
        self.words[SAVE_NS] = time.monotonic_ns() - started_ns
        self.words[SAVE_STEPS] = self.words[STEPS]
        # Last: the slot takes a save for complete when this number has grown.
        self.words[SAVES] = max(self.words[SAVES] + 1, self.words[SAVE_ASKED])

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

    def wait_for_release(self):
        """Block until the slot says that this group may load its checkpoint and train."""
        while not self.released:
            try:
                self.released = self.ask("GET", "release") == 200
            except OSError:
                time.sleep(0.2)

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
        # The next group needs the processors now, and nobody waits for what this one still does.
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):  # It has ended meanwhile, or it is not allowed: no reason to fail.
                os.setpriority(os.PRIO_PROCESS, int(thread), LEAVING_NICE)
        raise SystemExit(code)


# --- Mends for AdaptDL, applied when the module of that name has been imported -----------------------------


def mend_semver(module, _worker):
    """semver 3 renamed what adaptdl.torch calls."""
    version = module.VersionInfo
    if not hasattr(version, "isvalid"):
        version.isvalid = staticmethod(version.is_valid)


def mend_goodput(module, _worker):
    """numpy 1.24 dropped the aliases that goodput.py uses; `bool` must stay as numpy has it."""
    numpy = module.np
    for name, builtin in (("int", int), ("float", float)):
        if name not in vars(numpy):
            setattr(numpy, name, builtin)


def mend_reducer(module, _worker):
    """Wait a little, then longer, for the master's port, instead of a flat five seconds each time."""

    class Patience:
        """Stands for the `time` module: 26 sleeps, 152 s together; the original's were 130 s."""

        def __init__(self):
            self.tries = 0

        def sleep(self, _seconds):
            time.sleep(0.05 * 1.3**self.tries)
            self.tries += 1

        def __getattr__(self, name):
            return getattr(time, name)

    module.time = Patience()


def mend_checkpoint(module, worker):
    """Hold loading until the checkpoint is there; save each checkpoint into a directory of its own.

    AdaptDL saves once, on exit, and deletes what it was restored from. Here a group saves as often as it is
    asked to, and a state that is constructed late must still find the checkpoint the group was started with.
    A full disk costs this checkpoint, and not the program.
    """
    load_state, save_state, save_all_states = module.load_state, module.save_state, module.save_all_states
    failures = []

    def load_when_released(state):
        worker.wait_for_release()
        return load_state(state)

    def save_or_note(state, checkpoint_dir, sync=True):
        # Whatever becomes of the file: the other replicas go on to synchronise the next state, and wait for this one.
        try:
            save_state(state, checkpoint_dir, sync)
        except (OSError, RuntimeError) as error:
            if not is_full(worker.saves, error):
                raise
            failures.append(error)

    def save_aside():
        failures.clear()
        started = time.monotonic_ns()
        restored_from = os.environ.get("ADAPTDL_CHECKPOINT_PATH")
        number = max(worker.control.words[SAVES] + 1, worker.control.words[SAVE_ASKED])
        directory = os.path.join(worker.saves, str(number))
        os.environ["ADAPTDL_CHECKPOINT_PATH"] = directory
        try:
            result = save_all_states()
        except OSError:
            if not failures:
                raise
        finally:
            if restored_from is None:
                del os.environ["ADAPTDL_CHECKPOINT_PATH"]
            else:
                os.environ["ADAPTDL_CHECKPOINT_PATH"] = restored_from
        if failures:
            shutil.rmtree(directory, ignore_errors=True)
            worker.control.not_saved()
            print(f"rayconcile: no checkpoint is saved: {failures[0]}", file=sys.stderr)
            return None
        worker.control.saved(started)
        if worker.rank == 0:
            worker.tell("saved")
        return result

    module.load_state = load_when_released
    module.save_state = save_or_note
    module.save_all_states = save_aside


def is_full(directory, error):
    """Whether an error comes of a full disk; torch says of such a file only that it could not be written."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize < NEARLY_FULL_BYTES


def mend_data(module, worker):
    """Count steps, and let all replicas save at an agreed step and go on."""
    helper = module.AdaptiveDataLoaderHelper
    profile, get_exit_flag = helper.profile, module.get_exit_flag
    metrics = sys.modules["adaptdl.torch._metrics"]
    current_epoch = module.current_epoch

    @module.contextmanager
    def counted(self, commit):
        if worker.leaving():
            os._exit(SIGTERM_EXIT)
        with profile(self, commit):
            yield
        worker.control.active()
        if self.training:
            epoch = current_epoch()
            worker.control.step_done(0 if epoch is None else epoch + 1, metrics.get_progress(), self.current_batch_size)

    def exit_or_save():
        stop = get_exit_flag()
        if not stop and worker.rank == 0 and worker.control.save_wanted():
            return SAVE_ONLY
        return stop

    def leave(code):
        agreed = getattr(helper._current.future_exit, "_result", True) if helper._current else True
        if agreed != SAVE_ONLY:
            worker.leave(code)

    helper.profile = counted
    module.get_exit_flag = exit_or_save
    module.exit = leave


def mend_torch(module, _worker):
    """Say, with the question for the peers, that this worker is held where it would load or train."""

    class Held:
        """Stands for the `requests` module."""

        def get(self, url, **options):
            return requests.get(f"{url}?held", **options)

        def __getattr__(self, name):
            return getattr(requests, name)

    requests = module.requests
    module.requests = Held()


def mend_autograd(module, worker):
    """Hold the first gradients, for a program that comes to them without having loaded any of AdaptDL's states."""
    if worker is None:
        return
    backward = module.backward

    def backward_when_released(*args, **kwargs):
        worker.wait_for_release()
        module.backward = backward
        return backward(*args, **kwargs)

    module.backward = backward_when_released


def mend_cuda(module, worker):
    """Hold the first use of a GPU until the group before has given its memory back.

    All of torch asks this function first, its C++ part too (`torch/csrc/utils/device_lazy_init.cpp`). A fork server
    has no worker yet: each process that is forked from it is mended when it becomes one.
    """
    if worker is None:
        return
    lazy_init = module._lazy_init

    def init_when_released():
        worker.wait_for_release()
        return lazy_init()

    for name, other in list(sys.modules.items()):
        if name.startswith("torch.") and getattr(other, "_lazy_init", None) is lazy_init:
            other._lazy_init = init_when_released
    module._lazy_init = init_when_released


MENDS = {
    "torch.autograd": mend_autograd,
    "torch.cuda": mend_cuda,
    "semver": mend_semver,
    "adaptdl.goodput": mend_goodput,
    "adaptdl.reducer": mend_reducer,
    "adaptdl.checkpoint": mend_checkpoint,
    "adaptdl.torch": mend_torch,
    "adaptdl.torch.data": mend_data,
}


class MendingLoader(importlib.abc.Loader):
    """Loads a module as its own loader does, mends it, and steps out of the way."""

    def __init__(self, loader, mend, worker):
        self.loader, self.mend, self.worker = loader, mend, worker

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.mend(module, self.worker)


class Mender(importlib.abc.MetaPathFinder):
    """Finds the modules in `MENDS`, and stands in for `pkg_resources` where setuptools no longer has it."""

    def __init__(self, worker):
        self.worker = worker

    def find_spec(self, name, path, target=None):
        if name == "pkg_resources":
            return self.find_pkg_resources(path, target)
        mend = MENDS.get(name)
        spec = mend and self.find_elsewhere(name, path, target)
        if not spec or not hasattr(spec.loader, "exec_module"):
            return None
        spec.loader = MendingLoader(spec.loader, mend, self.worker)
        return spec

    def find_elsewhere(self, name, path, target):
        finders = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        return next(filter(None, (finder.find_spec(name, path, target) for finder in finders)), None)

    def find_pkg_resources(self, path, target):
        if self.find_elsewhere("pkg_resources", path, target):
            return None
        return importlib.machinery.ModuleSpec("pkg_resources", PkgResources())


class PkgResources(importlib.abc.Loader):
    """The one function of setuptools' pkg_resources that AdaptDL calls."""

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        from importlib.metadata import distribution

        module.get_distribution = distribution


# --- Becoming the user's program -----------------------------------------------------------------------------


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
        command = config["command"]
        try:
            os.execvp(command[0], command + config["args"])
        except OSError as error:
            print(f"cannot run {command[0]!r}: {error.strerror}", file=sys.stderr)
            sys.exit(127 if isinstance(error, FileNotFoundError) else 126)
    worker = Worker(config)
    sys.meta_path.insert(0, Mender(worker))
    for name in [name for name in MENDS if name in sys.modules]:
        MENDS[name](sys.modules[name], worker)
    try:
        run_script(config["entrypoint"], config["args"])
    except SystemExit as ending:
        if worker.leaving():
            leave_quickly(ending.code)
        raise


if __name__ == "__main__":
    die_with_parent(int(sys.argv[2]))
    become(sys.argv[1])

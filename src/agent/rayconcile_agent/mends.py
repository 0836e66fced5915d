"""What AdaptDL 0.2.11 needs on today's packages, and to be stopped, saved and restarted as Rayconcile does it.

Each mend is applied to its module when the program imports it, by an import hook: a program that uses neither torch
nor AdaptDL pays nothing. Only the standard library is used. `worker` is the bootstrap's (`worker.py`) Worker; in a
fork server there is none yet.
"""

import errno
import importlib.abc
import importlib.machinery
import os
import shutil
import sys
import time

# What `get_exit_flag` answers when a checkpoint is wanted and training shall go on. AdaptDL combines the
# replicas' answers with `or`, so any truthy value but True (stop) travels through unchanged.
SAVE_ONLY = 2
# What is left on a disk that could not take more.
NEARLY_FULL_BYTES = 1 << 20
# What AdaptDL's programs end with when they were told to (128 + SIGTERM).
SIGTERM_EXIT = 143
# States of AdaptDL's own of which nothing is needed before the first step, and what of each is not in a checkpoint.
# All other states, a model's for example, may change more than themselves when they are loaded.
PUT_OFF = {
    "adaptdl.torch.epoch._EpochState": {"current_epoch"},
    "adaptdl.torch._metrics._MetricsState": set(),
    "adaptdl.torch.data._AdaptiveDataLoaderState": set(),
}


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

    A program makes its data loader first: its state is put off, so that it is held only at its model's.

    AdaptDL saves once, on exit, and deletes what it was restored from. Here a group saves as often as it is
    asked to, and a state that is constructed late must still find the checkpoint the group was started with.
    A full disk costs this checkpoint, and not the program.
    """
    load_state, save_state, save_all_states = module.load_state, module.save_state, module.save_all_states
    failures = []

    def load_when_released(state):
        kind = type(state)
        unsaved = PUT_OFF.get(f"{kind.__module__}.{kind.__qualname__}")
        if unsaved is None or worker.released:
            worker.wait_for_release()
            return load_state(state)
        worker.postponed.append(put_off(state, unsaved, lambda: load_state(state), worker))
        return False

    def save_or_note(state, checkpoint_dir, sync=True):
        # Whatever becomes of the file: the other replicas go on to synchronise the next state, and wait for this one.
        try:
            save_state(state, checkpoint_dir, sync)
        except (OSError, RuntimeError) as error:
            if not is_full(worker.saves, error):
                raise
            failures.append(error)

    def save_aside():
        # What is loaded later than this would be looked for in what is being saved.
        worker.wait_for_release()
        failures.clear()
        started = time.monotonic_ns()
        restored_from = os.environ.get("ADAPTDL_CHECKPOINT_PATH")
        directory = os.path.join(worker.saves, str(worker.control.next_save()))
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


def put_off(state, unsaved, load, worker):
    """Have a state be loaded when somebody looks at it; what is set until then is set again afterwards.

    Returns what loads it before that.
    """
    kind, later = type(state), {}

    class PutOff(kind):
        def __getattribute__(self, name):
            if name in unsaved or name == "__class__":
                return object.__getattribute__(self, name)
            worker.wait_for_release()
            return getattr(self, name)

        def __setattr__(self, name, value):
            if name in unsaved:
                object.__setattr__(self, name, value)
            else:
                later[name] = value

        def __reduce_ex__(self, protocol):
            worker.wait_for_release()
            return self.__reduce_ex__(protocol)

    def load_now():
        object.__setattr__(state, "__class__", kind)
        load()
        vars(state).update(later)

    state.__class__ = PutOff
    return load_now


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


def mend_imported(worker):
    """Mend what was imported before there was a worker."""
    for name in [name for name in MENDS if name in sys.modules]:
        MENDS[name](sys.modules[name], worker)

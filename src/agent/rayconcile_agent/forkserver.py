"""The fork server: a process that has imported what AdaptDL programs need, and becomes a worker in a moment.

A slot runs `python forkserver.py SOCKET SCRIPT-DIRECTORY` in the environment that the job's workers have. It
imports torch and AdaptDL, says whether it may be forked, and then forks a worker for each request. A worker is
forked twice, so that it is the slot's child and not this one's: when the server is killed, workers train on.

What importing leaves behind that a fresh process would not have when its script begins is taken back: AdaptDL's
modules, which are imported again in an instant and are mended then; signal handlers; logging.
"""

import gc
import importlib
import importlib.util
import json
import logging
import os
import signal
import socket
import sys
import threading
import time

# `torch._dynamo` is imported by the first optimizer that is made, in seconds, when training should begin.
PRELOADED = ("torch", "torch._dynamo", "adaptdl.torch")
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def load_worker():
    """The bootstrap's module, under a name that no program uses."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker.py")
    spec = importlib.util.spec_from_file_location("_rayconcile_worker", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def preload(worker):
    """Import what programs import; say why this process must not be forked, or None."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    root = logging.getLogger()
    level, known = root.level, list(root.handlers)
    mender = worker.mends.Mender(None)
    sys.meta_path.insert(0, mender)
    try:
        for name in PRELOADED:
            importlib.import_module(name)
    except Exception as error:  # Whatever is wrong with its packages, the program itself will say it best.
        return f"{name} cannot be imported: {type(error).__name__}: {error}"
    finally:
        sys.meta_path.remove(mender)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        root.setLevel(level)
        root.handlers[:] = known
        for name in [name for name in sys.modules if name == "adaptdl" or name.startswith("adaptdl.")]:
            del sys.modules[name]
    return unsafe()


def unsafe():
    """Why a child of this process would not be as a fresh process is, or None.

    Threads are not copied by a fork, whatever they hold. Some libraries end theirs before a fork, and start them
    again when they need them: a first fork shows whether that is so here.
    """
    middle = os.fork()
    if middle == 0:
        bad = bool(sys.modules["torch"].cuda._is_in_bad_fork())
        os._exit(int(bad))
    _, status = os.waitpid(middle, 0)
    if status != 0:
        return "importing its packages has initialised CUDA"
    if threading.active_count() > 1:
        names = ", ".join(thread.name for thread in threading.enumerate() if thread is not threading.main_thread())
        return f"importing its packages has started threads: {names}"
    if len(os.listdir("/proc/self/task")) > 1:
        return "importing its packages has started threads"
    return None


def fork_worker(output):
    """Fork a process that is nobody's but the slot's. In it, return None; here, its process id."""
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        worker = os.fork()
        if worker:
            os.write(writer, str(worker).encode())
            os._exit(0)
        os.close(reader)
        os.close(writer)
        os.setsid()
        for standard in (1, 2):
            os.dup2(output, standard)
        os.close(output)
        return None
    os.close(writer)
    with open(reader, "rb") as pipe:
        pid = int(pipe.read())
    os.waitpid(middle, 0)
    return pid


def become_fresh(variables, moved):
    """Make of a forked process what it would be had it been started with these variables."""
    for name in ("numpy.random", "random"):
        if module := sys.modules.get(name):
            module.seed()
    os.environ.update(variables)
    sys.path[:] = [moved.get(path, path) for path in sys.path]


def serve(channel, worker):
    """Fork a worker for each request until the slot is gone; return only in a worker, its configuration."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, 1 << 16, 1)
        if not message:
            os._exit(0)
        request = json.loads(message)
        pid = fork_worker(descriptors[0])
        if pid is None:
            channel.close()
            set_name("worker")
            worker.die_with_parent(request["parent"])
            become_fresh(request["variables"], request["moved"])
            return request["config"]
        os.close(descriptors[0])
        channel.send(json.dumps({"pid": pid}).encode())


def set_name(name):
    """Name this process, for whoever looks at a list of them: forked, all of them have the same command line."""
    with open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(name)


def start():
    began = time.monotonic()
    worker = load_worker()
    channel = socket.socket(fileno=int(sys.argv[1]))
    worker.die_with_parent(int(sys.argv[2]))
    sys.path[0] = sys.argv[3]
    set_name("forkserver")
    # Looking for garbage while modules are made is a third of the time that it takes, and finds next to none.
    gc.disable()
    refusal = preload(worker)
    # What is there now is never garbage; not looking at it leaves it shared with the workers.
    gc.freeze()
    gc.enable()
    channel.send(json.dumps({"refusal": refusal, "seconds": time.monotonic() - began}).encode())
    if refusal:
        os._exit(0)
    worker.become(serve(channel, worker))


if __name__ == "__main__":
    start()

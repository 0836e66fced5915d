"""What a slot must know of the machine it is on: environment, network interface, ports, memory, processes."""

import fcntl
import os
import random
import signal
import socket
import struct
import subprocess

SIOCGIFADDR = 0x8915
# The thread counts that numerical libraries read at start.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# Ports below the kernel's ephemeral range, so that no outgoing connection takes one between look and use.
PORTS = range(20000, 32000)


def worker_environment(address, cpus, gpus, working_directory):
    """The environment a worker starts with, before the job's own and AdaptDL's variables.

    It is the slot's, which is the node's plus the runtime environment's, without what would make the program
    take itself for a part of Ray, and without Ray's token.
    """
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    if environment.get("PYTHONBREAKPOINT", "").startswith("ray."):
        del environment["PYTHONBREAKPOINT"]
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path and path != here]
    environment["PYTHONPATH"] = os.pathsep.join(working_directory if path == os.getcwd() else path for path in paths)
    environment.update({name: str(max(1, int(cpus))) for name in THREAD_VARIABLES})
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    environment["PYTHONUNBUFFERED"] = "1"
    # torch 2.6 and later refuse AdaptDL's checkpoints without it.
    environment["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    if interface := interface_of(address):
        environment.update(GLOO_SOCKET_IFNAME=interface, NCCL_SOCKET_IFNAME=interface)
    return environment


def without_proxy(environment):
    """What must be set so that this machine is reached without a proxy.

    AdaptDL asks its supervisor through `requests`, which would go to one.
    """
    names = ("no_proxy", "NO_PROXY")
    return {name: ",".join(filter(None, (environment.get(name), "127.0.0.1"))) for name in names}


def interface_of(address):
    """The network interface that has this address; gloo would else take the host name's, often a wrong one."""
    if address.startswith("127."):
        return "lo"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                reply = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue
            if socket.inet_ntoa(reply[20:24]) == address:
                return name
    return None


def free_port():
    """A port that nobody on this machine listens on now. Only binding can tell, and only for the moment."""
    for port in random.sample(PORTS, 100):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("0.0.0.0", port))
                return port
            except OSError:
                continue
    raise OSError(f"no free port between {PORTS.start} and {PORTS.stop}")


def memory_available():
    """Bytes that can still be used here: the machine's, or less if a control group limits it."""
    with open("/proc/meminfo", encoding="ascii") as file:
        available = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    try:
        with open("/proc/self/cgroup", encoding="ascii") as file:
            group = next(line.split(":", 2)[2].strip() for line in file if line.startswith("0::"))
        directory = "/sys/fs/cgroup" + group
        with open(os.path.join(directory, "memory.max"), encoding="ascii") as file:
            limit = int(file.read())
        with open(os.path.join(directory, "memory.current"), encoding="ascii") as file:
            used = int(file.read())
        with open(os.path.join(directory, "memory.stat"), encoding="ascii") as file:
            # Files that the kernel keeps in memory only as long as nobody needs it.
            used -= next(int(line.split()[1]) for line in file if line.startswith("inactive_file "))
        return min(available, limit - used)
    except (OSError, StopIteration, ValueError):
        return available  # No control groups of version 2 here, or no limit ("max").


def resident_memory(pid):
    """Bytes that a process holds in memory, or 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def is_stopped(pid):
    """Whether a process was stopped by a signal, and makes no progress until it is continued."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False


def set_oom_score(pid, score):
    """Tell the kernel how soon to kill a process when memory runs out (1000: first)."""
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(score))
    except OSError:
        pass  # Gone, or not allowed: it is an improvement, not a need.


def oom_score():
    """This process's own, which its workers shall have while they train."""
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        return int(file.read())


def launch(command, environment, output):
    """Start a process in a session of its own, its output going to `output`."""
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def kill_group(pid):
    """Kill whatever is left of the process group that `launch` made."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # Gone, or all that is left belongs to another user now.


def guard(pid):
    """Start a process that kills the group of `pid` as soon as this process has ended, however it ends.

    A worker itself is told by the kernel when its slot dies; what it has started is not.
    """
    return subprocess.Popen(
        ["/bin/sh", "-c", 'read -r _; kill -s KILL -- "-$0"', str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def signal_name(number):
    """A signal's name; most real-time signals have none but their number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"

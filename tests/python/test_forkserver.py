"""The fork server, with real torch and AdaptDL: what it forks is as a fresh process is, only sooner."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from rayconcile_agent import host, processes, worker
from support import enter

# What a program sees of itself that importing before a fork could have spoilt.
PROBE = """
import gc, json, logging, os, random, signal, sys, threading
before = {
    "warm": [name for name in ("torch", "torch._dynamo") if name in sys.modules],
    "cold": [name for name in sys.modules if name.split(".")[0] == "adaptdl"],
    "handlers": len(logging.getLogger().handlers),
    "term": str(signal.getsignal(signal.SIGTERM)), "int": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    "tasks": len(os.listdir("/proc/self/task")), "collected": gc.isenabled(),
}
import numpy, torch, adaptdl._signal, adaptdl.goodput, adaptdl.torch
print(json.dumps({
    **before,
    "name": __name__, "argv": sys.argv, "cwd": os.getcwd(), "path0": sys.path[0],
    "session": os.getsid(0) == os.getpid(), "parent": os.getppid(), "stdin": os.readlink("/proc/self/fd/0"),
    "flag": adaptdl._signal.get_exit_flag(), "handled": signal.getsignal(signal.SIGTERM) is adaptdl._signal._handler,
    "random": [random.random(), float(numpy.random.rand())], "torch": torch.initial_seed(),
    "int": numpy.int is int and before["int"], "float": numpy.float is float, "bool": "bool" in vars(numpy) and numpy.bool is not bool,
    "env": [os.environ.get(name) for name in ("OWN", "OMP_NUM_THREADS", "ADAPTDL_NUM_RESTARTS")],
    "threads": torch.get_num_threads(), "bad": torch.cuda._is_in_bad_fork(),
    "pythonpath": os.environ["PYTHONPATH"], "mended": adaptdl.torch.data.exit.__name__,
}), flush=True)
"""


class ForkServerTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        processes.adopt_orphans()
        cls.package = enter_class(cls, tempfile.TemporaryDirectory())
        cls.environment = {
            **os.environ, "PYTHONPATH": cls.package, "PYTHONUNBUFFERED": "1", "OWN": "yes", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        cls.server = processes.ForkServer(cls.environment, cls.package, cls.package)
        cls.addClassCleanup(lambda: cls.server.stop())
        cls.server.ready()

    def setUp(self):
        self.directory = enter(self, tempfile.TemporaryDirectory())

    def fork(self, script, server=None, args=()):
        """Fork a worker that runs a script; return it and what it prints from."""
        with open(os.path.join(self.directory, "main.py"), "w", encoding="utf-8") as file:
            file.write(script)
        control = os.path.join(self.directory, "control")
        with open(control, "wb") as file:
            file.write(bytes(worker.CONTROL_BYTES))
        config = {
            "rank": 0, "saves": self.directory, "control": control, "supervisor": None, "cwd": self.directory,
            "command": None, "entrypoint": "main.py", "args": list(args),
        }  # fmt: skip
        path = os.path.join(self.directory, "config.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(config, file)
        reader, writer = os.pipe()
        variables = {"ADAPTDL_NUM_RESTARTS": "3", "PYTHONPATH": self.directory}
        forked = (server or self.server).fork(path, variables, {self.package: self.directory}, writer)
        os.close(writer)
        return forked, open(reader, encoding="utf-8")

    def run_script(self, script, **more):
        forked, output = self.fork(script, **more)
        with output:
            said = output.read()
        return forked.wait(), said

    def test_a_worker_is_as_a_fresh_process_is(self):
        code, said = self.run_script(PROBE, args=["--x", "1"])
        self.assertEqual(code, 0, said)
        seen = json.loads(said.splitlines()[-1])
        self.assertEqual(seen["warm"], ["torch", "torch._dynamo"])
        self.assertEqual((seen["cold"], seen["handlers"]), ([], 0), "it is imported anew, and mended then")
        self.assertEqual(seen["mended"], "leave")
        # As every process, it ignores the interrupts that whoever started this one had it ignore.
        interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        self.assertEqual((seen["term"], seen["int"]), (str(signal.Handlers.SIG_DFL), interrupts))
        self.assertEqual((seen["tasks"], seen["bad"], seen["collected"]), (1, False, True))
        self.assertEqual((seen["name"], seen["argv"], seen["cwd"]), ("__main__", ["main.py", "--x", "1"], self.directory))
        self.assertEqual((seen["path0"], seen["pythonpath"]), (self.directory, self.directory))
        self.assertEqual((seen["session"], seen["parent"], seen["stdin"]), (True, os.getpid(), "/dev/null"))
        self.assertEqual((seen["flag"], seen["handled"]), (False, True))
        self.assertEqual((seen["float"], seen["bool"]), (True, True), "of numpy's old names only two are back")
        self.assertEqual((seen["env"], seen["threads"]), (["yes", "1", "3"], 1))
        _, said = self.run_script(PROBE)
        other = json.loads(said.splitlines()[-1])
        self.assertTrue(all(one != two for one, two in zip(seen["random"], other["random"])))
        self.assertEqual(seen["torch"], other["torch"], "torch's own seed is the same in every fresh process")

    def test_how_a_program_ends_is_known(self):
        self.assertEqual(self.run_script("import sys; sys.exit(7)")[0], 7)
        code, said = self.run_script("def f():\n    raise ValueError('mine')\nf()\n")
        self.assertEqual(code, 1)
        self.assertTrue(said.startswith(f'Traceback (most recent call last):\n  File "{self.directory}'), said)
        self.assertEqual(self.run_script("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")[0], -signal.SIGTERM)

    def test_whom_the_signal_for_adaptdl_reaches_is_told_even_if_the_server_had_it_before(self):
        script = (
            "import os, signal, adaptdl._signal as s\n"
            "os.kill(os.getpid(), signal.SIGTERM)\n"
            "print(s.get_exit_flag())\n"
        )
        self.assertEqual(self.run_script(script), (0, "True\n"))

    def test_workers_outlive_their_server_but_not_their_slot(self):
        server = processes.ForkServer(self.environment, self.package, self.package)
        server.ready()
        self.assertTrue(server.lives())
        forked, output = self.fork("import time; print('here', flush=True); time.sleep(1000)", server)
        with output:
            self.assertEqual(output.readline(), "here\n")
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
            self.assertFalse(server.lives())
            with self.assertRaises(OSError):
                self.fork("pass", server)
            self.assertTrue(os.path.exists(f"/proc/{forked.pid}"))
            forked.send_signal(signal.SIGKILL)
        self.assertEqual(forked.wait(), -signal.SIGKILL)
        forked.send_signal(signal.SIGKILL)  # Its process id may be another's now.
        server.stop()

    def test_with_its_slot_a_worker_dies(self):
        slot = (
            "import os, subprocess, sys\n"
            "from rayconcile_agent import processes\n"
            "processes.adopt_orphans()\n"
            f"server = processes.ForkServer(dict(os.environ), {self.package!r}, {self.package!r})\n"
            "forked = server.fork(sys.argv[1], {}, {}, 1)\n"
            "os.write(1, f'pid {forked.pid} {server.process.pid}\\n'.encode())\n"
            "forked.wait()\n"
        )
        done, output = self.fork("import os, time; os.write(1, b'trains\\n'); time.sleep(1000)")
        done.send_signal(signal.SIGKILL)
        done.wait()
        output.close()
        config = os.path.join(self.directory, "config.json")
        process = subprocess.Popen([sys.executable, "-c", slot, config], stdout=subprocess.PIPE, text=True)
        with process.stdout as output:
            # One that has only just been forked would see by itself that its slot has gone.
            trains, pids = sorted((output.readline(), output.readline()), key=lambda line: line.startswith("pid"))
            self.assertEqual(trains, "trains\n")
            _, worker_pid, server_pid = pids.split()
            process.send_signal(signal.SIGKILL)
            process.wait()
            # This process adopts them, for it is their nearest ancestor that wants to.
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(int(worker_pid), 0)[1]), -signal.SIGKILL)
            os.waitpid(int(server_pid), 0)

    def test_what_cannot_be_forked_safely_is_not(self):
        package = enter(self, tempfile.TemporaryDirectory())
        with open(os.path.join(package, "usercustomize.py"), "w", encoding="utf-8") as file:
            file.write("import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), name='mine', daemon=True).start()\n")
        with open(os.path.join(package, "sitecustomize.py"), "w", encoding="utf-8") as file:
            file.write("import usercustomize\n")
        server = processes.ForkServer({**self.environment, "PYTHONPATH": package}, package, package)
        self.addCleanup(server.stop)
        with self.assertRaisesRegex(processes.Unforkable, "started threads: mine"):
            server.ready()

    def test_what_is_not_installed_is_said(self):
        with open(os.path.join(self.package, "adaptdl.py"), "w", encoding="utf-8") as file:
            file.write("raise ImportError('broken')\n")
        self.addCleanup(os.unlink, os.path.join(self.package, "adaptdl.py"))
        server = processes.ForkServer(self.environment, self.package, self.package)
        self.addCleanup(server.stop)
        with self.assertRaisesRegex(processes.Unforkable, "adaptdl.torch cannot be imported"):
            server.ready()

    def test_a_gpu_is_not_touched_before_the_release(self):
        script = (
            "import sys, torch\n"
            "mended = torch.cuda._lazy_init\n"
            "held = mended.__closure__[[n for n in mended.__code__.co_freevars].index('worker')].cell_contents\n"
            "held.released, asked = False, []\n"
            "held.ask = lambda method, what: asked.append((method, what)) or 200\n"
            "for touch in (lambda: torch.zeros(1, device='cuda'), lambda: torch.zeros(1).cuda()):\n"
            "    try: touch()\n"
            "    except (RuntimeError, AssertionError): pass\n"
            "print(asked)\n"
        )
        self.assertEqual(self.run_script(script), (0, "[('GET', 'release')]\n"), "once, before anything else")

    def test_nothing_is_learnt_before_the_release_even_by_who_loads_nothing(self):
        script = (
            "import torch\n"
            "mended = torch.autograd.backward\n"
            "held = mended.__closure__[mended.__code__.co_freevars.index('worker')].cell_contents\n"
            "asked = []\n"
            "held.ask = lambda method, what: asked.append((method, what)) or 200\n"
            "weight = torch.ones(1, requires_grad=True)\n"
            "loss = weight.sum()\n"
            "print(asked)\n"
            "loss.backward()\n"
            "(2 * weight).sum().backward()\n"
            "print(asked, weight.grad.item(), torch.autograd.backward is not mended)\n"
        )
        self.assertEqual(self.run_script(script), (0, "[]\n[('GET', 'release')] 3.0 True\n"))

    def test_only_adaptdls_own_question_for_the_peers_says_that_the_worker_is_held(self):
        script = (
            "import adaptdl.torch, requests\n"
            "asked = []\n"
            "requests.get = lambda *args, **kwargs: asked.append((args, kwargs))\n"
            "adaptdl.torch.requests.get(url='http://here/discover/job/0')\n"
            "requests.get('http://here/discover/job/0')\n"
            "print(asked, adaptdl.torch.requests.Session is requests.Session)\n"
        )
        said = "[(('http://here/discover/job/0?held',), {}), (('http://here/discover/job/0',), {})] True\n"
        self.assertEqual(self.run_script(script), (0, said))


def enter_class(test_class, context):
    """As `enter`, for all tests of a class."""
    value = context.__enter__()
    test_class.addClassCleanup(context.__exit__, None, None, None)
    return value


if __name__ == "__main__":
    unittest.main()

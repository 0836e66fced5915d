"""The worker bootstrap: what it mends, and that it is not noticed."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

from rayconcile_agent import worker
from support import enter

PROGRAM = worker.__file__


class WorkerTest(unittest.TestCase):
    def setUp(self):
        self.directory = enter(self, tempfile.TemporaryDirectory())

    def write(self, name, text):
        path = os.path.join(self.directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def run_worker(self, parent=None, through=(), **config):
        """Run a program as a slot's worker is, by way of another command if need be."""
        control = os.path.join(self.directory, "control")
        with open(control, "wb") as file:
            file.truncate(worker.CONTROL_BYTES)
        config = {
            "rank": 0,
            "saves": os.path.join(self.directory, "saves"),
            "control": control,
            "supervisor": None,
            "cwd": self.directory,
            "command": None,
            "args": [],
            "entrypoint": "main.py",
            **config,
        }
        path = self.write("config.json", json.dumps(config))
        command = [*through, sys.executable, PROGRAM, path, str(parent or os.getpid())]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)

    def run_script(self, text, **config):
        self.write("main.py", text)
        return self.run_worker(**config)

    def good(self, text, **config):
        """What a script prints that must end well."""
        ended = self.run_script(text, **config)
        self.assertEqual((ended.returncode, ended.stderr), (0, ""), ended.stdout)
        return ended.stdout

    def test_a_script_runs_as_python_runs_it(self):
        self.write("helper.py", "VALUE = 42")
        text = (
            "import os, sys, helper\n"
            "print(__name__, sys.argv, os.path.basename(__file__), helper.VALUE)\n"
            "print(sys.modules['__main__'].__dict__ is globals())\n"
            "import multiprocessing, pickle\n"
            "class Here: pass\n"
            "print(type(pickle.loads(pickle.dumps(Here()))) is Here, sys.path[0] == os.path.dirname(__file__))\n"
        )
        said = self.good(text, args=["--x", "1"])
        self.assertEqual(said, "__main__ ['main.py', '--x', '1'] main.py 42\nTrue\nTrue True\n")

    def test_a_failure_is_shown_as_the_scripts_own(self):
        ended = self.run_script("def f():\n    raise ValueError('mine')\nf()\n")
        self.assertEqual(ended.returncode, 1)
        begin = f'Traceback (most recent call last):\n  File "{self.directory}'
        self.assertTrue(ended.stderr.startswith(begin), ended.stderr)
        self.assertNotIn("worker.py", ended.stderr)
        self.assertIn("ValueError: mine", ended.stderr)
        self.assertEqual(self.run_script("import sys; sys.exit(7)").returncode, 7)
        ended = self.run_script("def broken(:\n")
        self.assertEqual(ended.returncode, 1)
        self.assertIn("SyntaxError", ended.stderr)

    def test_a_command_takes_the_workers_place(self):
        ended = self.run_worker(command=["sh", "-c", 'echo "$0 $1"'], args=["one", "two"])
        self.assertEqual((ended.returncode, ended.stdout), (0, "one two\n"))
        missing = self.run_worker(command=["no-such-program"])
        self.assertEqual(missing.returncode, 127)
        self.assertEqual(missing.stderr, "cannot run 'no-such-program': No such file or directory\n")
        self.write("plain", "")
        self.assertEqual(self.run_worker(command=["./plain"]).returncode, 126)

    def test_a_command_finds_its_configuration_and_torch(self):
        script = 'echo "$RAYCONCILE_WORKER ${LD_LIBRARY_PATH-unset}"'

        def said(**environment):
            with mock.patch.dict(os.environ, {"PYTHONPATH": self.directory, **environment}):
                ended = self.run_worker(command=["sh", "-c", script])
            self.assertEqual((ended.returncode, ended.stderr), (0, ""))
            config, _, libraries = ended.stdout.strip().partition(" ")
            self.assertEqual(config, os.path.join(self.directory, "config.json"))
            return libraries

        # Were it imported, that would be seen.
        self.write("torch/__init__.py", "print('imported')")
        enter(self, mock.patch.dict(os.environ)).pop("LD_LIBRARY_PATH", None)
        self.assertEqual(said(), "unset", "that torch has no libraries")
        lib = os.path.dirname(self.write("torch/lib/libtorch.so", ""))
        self.assertEqual(said(), lib)
        self.assertEqual(said(LD_LIBRARY_PATH=""), lib)
        self.assertEqual(said(LD_LIBRARY_PATH="/own:/other"), f"/own:/other:{lib}")

    def test_whose_slot_has_gone_does_not_start(self):
        self.write("main.py", "print('started')")
        gone = subprocess.Popen(["true"])
        gone.wait()
        ended = self.run_worker(parent=gone.pid)
        self.assertEqual((ended.returncode, ended.stdout), (1, ""))

    def test_numpys_old_aliases_are_back_for_adaptdl(self):
        self.write("numpy.py", "int32 = 'int32'\nbool = 'numpy bool'\n")
        self.write("adaptdl/__init__.py", "")
        self.write("adaptdl/goodput.py", "import numpy as np\n")
        text = "import adaptdl.goodput as g\nprint(g.np.int is int, g.np.float is float, g.np.bool)\n"
        self.assertEqual(self.good(text), "True True numpy bool\n")
        self.assertEqual(self.good("import numpy\nprint(hasattr(numpy, 'int'))"), "False\n", "nobody else's is touched")
        self.write("numpy.py", "int = 'its own'\nfloat = 'its own'\n")
        self.assertEqual(self.good("import adaptdl.goodput as g\nprint(g.np.int, g.np.float)"), "its own its own\n")

    def test_semvers_old_name_is_back(self):
        self.write("semver.py", "class VersionInfo:\n    @classmethod\n    def is_valid(cls, text): return text == '1'\n")
        text = "from semver import VersionInfo\nprint(VersionInfo.isvalid('1'), VersionInfo.isvalid('x'))"
        self.assertEqual(self.good(text), "True False\n")
        self.write("semver.py", "class VersionInfo:\n    isvalid = 'its own'\n")
        self.assertEqual(self.good("import semver\nprint(semver.VersionInfo.isvalid)"), "its own\n")

    def test_pkg_resources_is_stood_in_for_only_where_it_is_missing(self):
        self.write("pkg_resources.py", "get_distribution = 'its own'\n")
        self.assertEqual(self.good("import pkg_resources\nprint(pkg_resources.get_distribution)"), "its own\n")
        os.unlink(os.path.join(self.directory, "pkg_resources.py"))
        hidden = (
            "import sys\n"
            "sys.path = [path for path in sys.path if 'site-packages' not in path]\n"
            "import pkg_resources\n"
            "from importlib.metadata import PackageNotFoundError\n"
            "try: pkg_resources.get_distribution('no-such-package')\n"
            "except PackageNotFoundError as error: print('none', error.name)\n"
        )
        self.assertEqual(self.good(hidden), "none no-such-package\n")

    def test_mended_modules_are_like_others(self):
        self.write("semver.py", "class VersionInfo:\n    is_valid = staticmethod(bool)\n")
        text = (
            "import importlib, inspect, semver\n"
            "print(type(semver.__loader__).__name__, inspect.getsource(semver).startswith('class VersionInfo'))\n"
            "print(importlib.reload(semver) is semver, semver.VersionInfo.isvalid(1))\n"
        )
        self.assertEqual(self.good(text), "SourceFileLoader True\nTrue True\n")

    def test_a_full_disk_costs_a_checkpoint_and_not_the_program(self):
        text = (
            "import os, pickle, sys, torch, adaptdl.checkpoint, adaptdl.torch\n"
            "class Large(adaptdl.checkpoint.State):\n"
            "    bytes, synced = 4 << 20, 0\n"
            "    def sync(self): self.synced += 1\n"
            "    def save(self, file): torch.save(torch.zeros(self.bytes // 4), file) if self.torch else file.write(bytes(self.bytes))\n"
            "worker = adaptdl.checkpoint.save_all_states.__closure__\n"
            "worker = next(cell.cell_contents for cell in worker if hasattr(cell.cell_contents, 'control'))\n"
            "worker.released = True\n"
            "states = Large('first'), Large('second')\n"
            "for torch_writes in (True, False):\n"
            "    for state in states: state.torch = torch_writes\n"
            "    adaptdl.checkpoint.save_all_states()\n"
            "    print([state.synced for state in states], list(worker.control.words[11:13]), os.listdir(worker.saves))\n"
            "for state in states: state.bytes = 1000\n"
            "adaptdl.checkpoint.save_all_states()\n"
            "print(worker.control.words[7], os.listdir(os.path.join(worker.saves, '1')))\n"
        )
        disk = os.path.join(self.directory, "disk")
        os.mkdir(disk)
        self.write("main.py", text)
        # A disk of its own, which nobody else sees.
        mount = f"mount -t tmpfs -o size=2m tmpfs {disk} && exec \"$@\""
        alone = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
        with mock.patch.dict(os.environ, {"ADAPTDL_NUM_RESTARTS": "0"}):
            ended = self.run_worker(saves=disk, through=alone, supervisor=["127.0.0.1", 1, "nobody"])
        self.assertEqual(ended.returncode, 0, ended.stderr)
        self.assertEqual(
            ended.stdout, "[1, 1] [0, 1] []\n[2, 2] [0, 2] []\n1 ['checkpoint-0']\n", ended.stderr
        )
        self.assertEqual(ended.stderr.count("rayconcile: no checkpoint is saved: "), 2, ended.stderr)

    def test_states_of_a_data_loader_are_loaded_when_that_may_be(self):
        """A program with its data loader before its model, held at the model; then restored from a checkpoint."""
        text = (
            "import sys, torch, adaptdl.checkpoint, adaptdl.torch as adl\n"
            "import adaptdl.torch._metrics as metrics, adaptdl.torch.epoch as epoch\n"
            "worker = adaptdl.checkpoint.load_state.__closure__\n"
            "worker = next(cell.cell_contents for cell in worker if hasattr(cell.cell_contents, 'control'))\n"
            "worker.ask = lambda method, what: print(what) or 200\n"
            "loader = adl.AdaptiveDataLoader(torch.arange(64), batch_size=4)\n"
            "loader.autoscale_batch_size(32)\n"
            "print('loader', adl.current_epoch(), len(worker.postponed))\n"
            "class Own(adaptdl.checkpoint.State): pass\n"
            "if sys.argv[1:] == ['look']: print(adl.finished_epochs())\n"
            "adaptdl.checkpoint.load_state(Own('own'))\n"
            "states = loader._elastic._state, epoch._epoch_state(), metrics._metrics_state()\n"
            "print([type(state).__name__ for state in states], len(worker.postponed))\n"
            "loaded = states[0].current_index, adl.finished_epochs(), metrics.get_progress(), states[2].max_batch_size\n"
            "print(*loaded)\n"
            "states[0].current_index, states[1].finished_epochs, states[2].progress = 7, 3, 2.5\n"
            "states[2].max_batch_size = 5\n"
            "worker.control.words[11] = 1\n"
            "adaptdl.checkpoint.save_all_states()\n"
        )
        kinds = "['_AdaptiveDataLoaderState', '_EpochState', '_MetricsState'] 0"
        saves = os.path.join(self.directory, "saves")
        with mock.patch.dict(os.environ, {"ADAPTDL_NUM_RESTARTS": "0"}):
            first = self.run_script(text, args=[])
        self.assertEqual(
            first.stdout.splitlines(),
            ["loader None 3", "release", kinds, "0 0 0.0 32", "saved"],
            first.stderr,
        )
        restored = {"ADAPTDL_NUM_RESTARTS": "1", "ADAPTDL_CHECKPOINT_PATH": os.path.join(saves, "1")}
        with mock.patch.dict(os.environ, restored):
            # What the program has set before it was loaded stays set: it is another program now, perhaps.
            second = self.run_script(text, args=[])
            self.assertEqual(second.stdout.splitlines()[:4], ["loader None 3", "release", kinds, "7 3 2.5 32"], second.stderr)
            looked = self.run_script(text, args=["look"])
            self.assertEqual(looked.stdout.splitlines()[:3], ["loader None 3", "release", "3"], looked.stderr)

    def test_waiting_for_the_master_is_as_patient_as_before(self):
        class Module:
            pass

        worker.mends.mend_reducer(Module, None)
        slept = []
        original, worker.time.sleep = worker.time.sleep, slept.append
        self.addCleanup(setattr, worker.time, "sleep", original)
        for _ in range(26):
            Module.time.sleep(5)
        self.assertTrue(130 < sum(slept) < 170 and slept[0] < 0.1, sum(slept))
        self.assertGreater(Module.time.monotonic(), 0)


if __name__ == "__main__":
    unittest.main()

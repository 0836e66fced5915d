"""A Ray cluster with an autoscaler, in a network namespace of its own: a head without CPUs, and nodes with one each.

    scaled.py TOKEN-FILE

What connects to one of two ports on 127.0.0.1 out here is connected to the head: to its dashboard by the first, to the
same port there by the second. When it serves, both are printed, and after them the directory of all temporary files.
When stdin ends, or on SIGTERM, all of it ends and nothing is left.
"""

import functools
import json
import os
import sys
import threading
from unittest import mock

import ray._private.parameter
from apart import end, launch, set_up, start
from enclosed import forward
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider

HEAD = "127.0.1.1"
# The namespace is new: every port is free in it.
GCS_PORT, DASHBOARD_PORT = 6379, 8265
MOST_NODES = 2


class Nodes(FakeMultiNodeProvider):
    """Ray's own provider of nodes on this machine, but each with its own address and files, as machines have them."""

    def _create_node_with_resources_and_labels(self, *arguments):
        address = f"127.0.1.{self._next_node_id + 2}"
        own = {"node_ip_address": address, "temp_dir": os.path.join(os.environ["TMPDIR"], address)}
        parameters = functools.partial(ray._private.parameter.RayParams, **own)
        with mock.patch.object(ray._private.parameter, "RayParams", parameters):
            super()._create_node_with_resources_and_labels(*arguments)


def configuration():
    """What `ray start --autoscaling-config` reads."""
    lists = ("head_setup_commands", "head_start_ray_commands", "initialization_commands", "setup_commands")
    lists += ("worker_setup_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude")
    return {
        "cluster_name": "scaled",
        "max_workers": MOST_NODES,
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "external",
            "module": "scaled.Nodes",
            "gcs_address": f"{HEAD}:{GCS_PORT}",
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "disable_node_updaters": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "cpu": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": MOST_NODES},
        },
        **{name: [] for name in (*lists, "rsync_filter")},
        **{name: {} for name in ("auth", "docker", "file_mounts", "head_node", "worker_nodes")},
        "file_mounts_sync_continuously": False,
    }


def start_head(directory, token):
    path = os.path.join(directory, "autoscaling.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(configuration(), file)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--num-cpus=0", "--disable-usage-stats"]
    command += [f"--node-ip-address={HEAD}", f"--port={GCS_PORT}", f"--autoscaling-config={path}"]
    command += [f"--dashboard-host={HEAD}", f"--dashboard-port={DASHBOARD_PORT}", f"--temp-dir={directory}/ray"]
    command += [f"--object-store-memory={128 << 20}", "--min-worker-port=0", "--max-worker-port=0"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment.update(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=token,
        RAY_USAGE_STATS_ENABLED="0",
        RAY_FAKE_CLUSTER="1",
        RAY_enable_autoscaler_v2="1",
        RAY_CLOUD_INSTANCE_ID=FAKE_HEAD_NODE_ID,
        RAY_OVERRIDE_NODE_ID_FOR_TESTING=FAKE_HEAD_NODE_ID,
        AUTOSCALER_UPDATE_INTERVAL_S="1",
        TMPDIR=directory,
        PYTHONPATH=os.path.dirname(os.path.abspath(__file__)),
        PATH=os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"],
    )
    start(command, environment)


def serve(directory, token, dashboard, agent):
    """What the head is, in its namespace; the listeners are outside."""
    try:
        set_up("lo")
        start_head(directory, token)
        agent_port = agent.getsockname()[1]
        for listener, port in ((dashboard, DASHBOARD_PORT), (agent, agent_port)):
            threading.Thread(target=forward, args=(listener, HEAD, port), daemon=True).start()
        print(dashboard.getsockname()[1], agent_port, directory, flush=True)
        sys.stdin.read()
    finally:
        end({os.readlink("/proc/self/ns/net")})


if __name__ == "__main__":
    launch(__file__, "scaled", serve, sys.argv[1:])

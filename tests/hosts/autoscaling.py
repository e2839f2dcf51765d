"""A cluster that grows and shrinks by Ray's own autoscaler, on one machine.

The head has no CPUs for work. Ray's autoscaler (version 2) requests nodes from the provider of Ray's own
tests, which starts a raylet with the resources and labels of a node type, and stops it when notified that it
was idle for long enough. Everything runs on one private host; nobody gets in without the token.

    with autoscaling_cluster({"decode": NodeType(cpus=3, max_workers=2)}, 2, tmp_path) as cluster:
        cluster.run(["vitascope", "submit", "flow", "settings.toml", "--address", cluster.address])
        assert most(cluster.watch.samples, "decode") <= 2
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from hosts.namespaces import Command, Host, ray_environment, write_token
from hosts.watch import LABEL, Node, Watch

MIB = 1 << 20
HEAD_ID = "f" * 51 + "00000"  # the provider counts its nodes from here
HEAD_TYPE = "ray.head.default"  # the provider's name for the head's type
START_TIMEOUT_S = 180  # 8 s on an idle machine of 2 cores
GCS = "127.0.0.1:6379"

HEAD_ENV = {
    "RAY_enable_autoscaler_v2": "1",
    "RAY_FAKE_CLUSTER": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}


@dataclass(frozen=True)
class NodeType:
    """A kind of node that the cluster may have; its name is the value of its nodes' label `vitascope-node`.

    Ray's provider cannot give a type `memory`, so work that asks for memory makes no node come.
    """

    cpus: int
    max_workers: int = 1
    idle_timeout_s: float = 10
    object_store_bytes: int = 200 * MIB

    def document(self, name: str) -> dict[str, Any]:
        """The type as Ray's cluster file has it."""
        resources = {"CPU": self.cpus, "object_store_memory": self.object_store_bytes}
        limits = {"min_workers": 0, "max_workers": self.max_workers, "idle_timeout_s": self.idle_timeout_s}
        return {"resources": resources, "labels": {LABEL: name}, "node_config": {}} | limits


def cluster_file(node_types: Mapping[str, NodeType], max_workers: int) -> dict[str, Any]:
    """Ray's cluster file for these types; at most `max_workers` nodes in all, the head not among them."""
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "head_node_id": HEAD_ID,
        "gcs_address": GCS,
    }
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    # Ray fills these in for its own providers only, and fails without them.
    commands = ["setup", "head_setup", "worker_setup", "initialization", "head_start_ray", "worker_start_ray"]
    lists = [f"{command}_commands" for command in commands]
    return {key: [] for key in [*lists, "cluster_synced_files"]} | {
        "file_mounts": {},
        "cluster_name": "autoscaling",
        "max_workers": max_workers,
        "provider": provider,
        "available_node_types": {HEAD_TYPE: head}
        | {name: node_type.document(name) for name, node_type in node_types.items()},
        "head_node_type": HEAD_TYPE,
    }


@dataclass(frozen=True)
class AutoscalingCluster:
    """A running cluster; its addresses answer to commands that `run` and `popen` start, to nobody else."""

    host: Host
    watch: Watch
    address: str = "http://127.0.0.1:8265"
    gcs_address: str = GCS

    def run(
        self, command: Sequence[str], *, timeout_s: float = 300, check: bool = True, **env: str
    ) -> CompletedProcess[str]:
        """Runs `command` next to the cluster, with its token; raises as `namespaces.Command.result` does."""
        return self.host.run(command, timeout_s=timeout_s, check=check, **env)

    def popen(self, command: Sequence[str], **env: str) -> Command:
        """Starts `command` next to the cluster, with its token."""
        return self.host.popen(command, **env)

    def nodes(self) -> list[Node]:
        """Every node that the cluster has or had, the head too."""
        return list(self.watch.now().nodes)


@contextmanager
def autoscaling_cluster(
    node_types: Mapping[str, NodeType],
    max_workers: int,
    folder: Path,
    *,
    head_object_store_bytes: int = 200 * MIB,
    env: Mapping[str, str] | None = None,
) -> Iterator[AutoscalingCluster]:
    """Starts the cluster with nothing but its head, and takes it all down at the end.

    Args:
        node_types: by name; the name is also the value of the node's label `vitascope-node`.
        max_workers: of all types together.
        folder: an empty folder; the logs of Ray and of every command stay in `folder`/head.
        head_object_store_bytes: the head holds the drivers' objects.
        env: more environment for Ray's processes and for all commands.

    Raises:
        TimeoutError: when the head does not come up, with what was last seen.
    """
    file = folder / "cluster.json"
    file.write_text(json.dumps(cluster_file(node_types, max_workers)))
    largest = max((node_type.object_store_bytes for node_type in node_types.values()), default=0)
    host = Host(
        "head",
        folder / "head",
        env=ray_environment(write_token(folder), env or {}),
        addresses={"head": "127.0.0.1"},
        shm_bytes=head_object_store_bytes + max_workers * largest + 512 * MIB,
    )
    try:
        head = host.popen(start_command(file, head_object_store_bytes), **HEAD_ENV)
        watch = Watch(host, AutoscalingCluster.address, folder / "nodes.jsonl", head=head)
        watch.wait_for(lambda sample: bool(sample.alive), START_TIMEOUT_S, "the head")
        yield AutoscalingCluster(host, watch)
    finally:
        host.kill()


def start_command(file: Path, object_store_bytes: int) -> list[str]:
    """How the head is started; it stays in the foreground."""
    limits = ["--num-cpus=0", f"--object-store-memory={object_store_bytes}"]
    served = ["--port=6379", "--dashboard-port=8265", f"--autoscaling-config={file}"]
    return ["ray", "start", "--head", "--block", *limits, *served]

"""The whole flow as jobs on clusters whose nodes come and go."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from flow.finished import REQUESTS, STEPS, WRONG, upload
from hosts.autoscaling import AutoscalingCluster, NodeType, autoscaling_cluster
from hosts.namespaces import needs_hosts
from hosts.watch import Node, lives, most
from vitascope import config, storage
from vitascope.config import Settings
from vitascope.stages import runner
from vitascope.stages.registry import FLOW

pytestmark = [pytest.mark.nightly, needs_hosts, pytest.mark.timeout(1800)]
VITASCOPE = str(Path(sys.executable).parent / "vitascope")
SLACK_S = 30.0  # a node is requested as a stage's work begins, and idle before it is removed
TYPES = {
    "decode": NodeType(cpus=2, max_workers=2),
    "train": NodeType(cpus=4),
    "generate": NodeType(cpus=4),
}
KINDS = {"clips": "decode", "encode": "decode", "train": "train", "evaluate": "train", "generate": "generate"}

WINDOWS = """
import json
from vitascope.cluster import jobs
found = jobs.client_of(None).list_jobs()
print(json.dumps([[j.metadata["command"], j.start_time / 1000, j.end_time / 1000, j.status] for j in found]))
"""


@dataclass(frozen=True)
class Window:
    """When a stage's job ran."""

    stage: str
    start_s: float
    end_s: float

    def covers(self, moment_s: float) -> bool:
        return self.start_s - SLACK_S <= moment_s <= self.end_s + SLACK_S


def prepared(folder: Path, *overrides: str) -> str:
    """Input, requests and settings in a new folder; gives the settings file."""
    (folder / "sources").mkdir()
    own = upload(folder / "sources", str(folder))
    settings = config.load(own, ["cluster.place_by_label=true", "generate.idle_s=20", *overrides])
    Path(own).write_text(config.to_toml(settings))
    return own


def check_complete(settings: Settings) -> None:
    """Every file, clip and request is accounted for, once; the report's stage raises otherwise."""
    summary = storage.read_json(settings.path("summary.json"))
    assert summary["requests"] == len(REQUESTS) + len(WRONG)
    assert summary["outputs"] == len(REQUESTS)
    assert summary["steps"] == STEPS
    assert storage.exists(settings.path("report.html"))


def stage_windows(said: str) -> list[Window]:
    rows = json.loads(said.splitlines()[-1])
    assert {status for *_, status in rows} == {"SUCCEEDED"}
    return sorted((Window(*row[:3]) for row in rows if row[0] in FLOW), key=lambda window: window.start_s)


@pytest.fixture(scope="module")
def empty_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AutoscalingCluster]:
    with autoscaling_cluster(TYPES, 3, tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def test_an_empty_cluster_grows_for_each_stage_and_shrinks_after_it(
    empty_cluster: AutoscalingCluster, tmp_path: Path
) -> None:
    settings_file = prepared(tmp_path)
    began = time.time()
    submit = [VITASCOPE, "submit", "flow", settings_file, "--address", empty_cluster.address]
    empty_cluster.run(submit, timeout_s=1500)
    windows = stage_windows(empty_cluster.run([sys.executable, "-c", WINDOWS]).stdout)
    empty_cluster.watch.wait_for(lambda sample: not sample.workers, 120, "an empty cluster")
    settings = config.load(settings_file)
    check_complete(settings)
    samples = empty_cluster.watch.samples
    nodes = lives(samples)
    print("\n" + "\n".join(table(windows, nodes, began)))
    assert [window.stage for window in windows] == runner.stages(settings)
    for node in nodes:
        stages = [stage for stage, kind in KINDS.items() if kind == node.kind]
        assert any(w.covers(node.start_s) for w in windows if w.stage in stages), node
        assert "idle" in node.why, node
    assert {node.kind for node in nodes} == set(TYPES)
    assert {
        kind: most(samples, kind) <= node_type.max_workers for kind, node_type in TYPES.items()
    } == dict.fromkeys(TYPES, True)
    assert most(samples) <= 3


def table(windows: Sequence[Window], nodes: Sequence[Node], began: float) -> list[str]:
    """What a person wants to see of it."""
    lines = [
        f"{w.stage:>9}  job from {w.start_s - began:5.0f} s to {w.end_s - began:5.0f} s" for w in windows
    ]
    for node in nodes:
        end = f"{node.end_s - began:5.0f} s" if node.end_s else "the end"
        lines.append(f"{node.kind:>9}  node from {node.start_s - began:5.0f} s to {end}")
    return lines

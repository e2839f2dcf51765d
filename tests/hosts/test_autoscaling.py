"""Ray's own autoscaler: nodes of the requested kind come and go, and strangers stay out."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.autoscaler._private.util import prepare_config, validate_config

from hosts.autoscaling import AutoscalingCluster, NodeType, autoscaling_cluster, cluster_file
from hosts.namespaces import needs_hosts
from hosts.watch import lives, most

TYPES = {"decode": NodeType(cpus=3, max_workers=2, idle_timeout_s=5), "train": NodeType(cpus=4)}

STATUS = """
import os, sys, urllib.error
from urllib.request import Request, urlopen
token = open(os.environ["RAY_AUTH_TOKEN_PATH"]).read()
for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {token}"}):
    try:
        with urlopen(Request(sys.argv[1] + "/api/jobs/", headers=headers)) as answer:
            print(answer.status)
    except urllib.error.HTTPError as error:
        print(error.code)
"""

SUBMIT = """
import sys, time
from ray.job_submission import JobSubmissionClient
client = JobSubmissionClient(sys.argv[1])
job = client.submit_job(entrypoint=f"python {sys.argv[2]}")
while not (status := client.get_job_status(job)).is_terminal():
    time.sleep(0.5)
print(status, client.get_job_logs(job))
"""

JOB = """
import ray
ray.init(log_to_driver=False)
@ray.remote(num_cpus=2, label_selector={"vitascope-node": "decode"})
def where():
    return ray.get_runtime_context().get_node_labels()["vitascope-node"]
print("ran on", ray.get([where.remote() for _ in range(4)]))
"""


def test_ray_takes_the_cluster_file() -> None:
    """The check is private to Ray; its autoscaler does the same when it starts, and dies of a bad file."""
    prepared = prepare_config(cluster_file(TYPES, 3))
    validate_config(prepared)
    assert prepared["available_node_types"]["decode"]["max_workers"] == 2
    assert prepared["max_workers"] == 3


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AutoscalingCluster]:
    with autoscaling_cluster(TYPES, 3, tmp_path_factory.mktemp("autoscaling")) as cluster:
        yield cluster


@needs_hosts
def test_a_stranger_is_refused(cluster: AutoscalingCluster) -> None:
    codes = cluster.run([sys.executable, "-c", STATUS, cluster.address]).stdout.split()
    assert codes == ["401", "403", "200"]


@needs_hosts
def test_a_node_of_the_right_kind_comes_for_a_job_and_goes_after_it(
    cluster: AutoscalingCluster, tmp_path: Path
) -> None:
    assert [node.kind for node in cluster.nodes()] == ["head"]
    (tmp_path / "job.py").write_text(JOB)
    said = cluster.run([sys.executable, "-c", SUBMIT, cluster.address, str(tmp_path / "job.py")]).stdout
    assert said.startswith("SUCCEEDED")
    assert "ran on ['decode', 'decode', 'decode', 'decode']" in said
    idle_s = cluster.watch.wait_for(lambda sample: not sample.workers, 60, "an empty cluster")
    came = lives(cluster.watch.samples)
    assert {node.kind for node in came} == {"decode"}
    assert all("idle" in node.why for node in came)
    assert 1 <= most(cluster.watch.samples) <= 2
    print(f"\n{len(came)} nodes came, most {most(cluster.watch.samples)}; gone {idle_s:.1f} s after the job")

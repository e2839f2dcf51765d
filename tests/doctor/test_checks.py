"""Each thing that would cost money or time is found, named, and comes with what to do."""

import dataclasses
from typing import Any

import pytest

from vitascope import config
from vitascope.doctor.checks import Finding, check
from vitascope.doctor.facts import Facts, Node, NodeType

VERSIONS = {"python": "3.11", "ray": "2.60.0", "torch": "2.13.0", "vitascope": "a1"}
GB = 10**9


def node(name: str, **changes: Any) -> Node:
    well = {"cpus": 8.0, "gpus": 0.0, "cuda_devices": 1, "object_store_bytes": 2.0 * GB, "shm_bytes": 4 * GB}
    return Node(name, **(well | {"free_disk_bytes": 90 * GB, "versions": VERSIONS} | changes))


WELL = Facts(
    nodes=(node("10.0.0.1"), node("10.0.0.2")),
    node_types=(),
    needs_token=True,
    versions=VERSIONS,
    storage_error=None,
    conditional_puts=True,
    input_error=None,
    decode_error=None,
    requests_error=None,
    codec_error=None,
    text_error=None,
)
GROWS = (NodeType("head", 0, 0, 1), NodeType("decode", 16, 0, 8), NodeType("train", 64, 8, 2))


def found(facts: Facts, *overrides: str) -> list[Finding]:
    """What is not well."""
    return [f for f in check(config.load(None, list(overrides)), facts) if f.level != "ok"]


def test_where_all_is_well_every_check_says_so() -> None:
    settings = config.load(None, ["train.use_gpu=true", "generate.use_gpu=true"])
    nodes = (node("10.0.0.1", gpus=2.0, cuda_devices=2), node("10.0.0.2"))
    findings = check(settings, dataclasses.replace(WELL, nodes=nodes))
    assert {finding.level for finding in findings} == {"ok"}
    assert len(findings) == len({finding.what for finding in findings}) == 14


PLANTED: dict[str, tuple[dict[str, Any], list[str], str, str]] = {
    "open cluster": ({"needs_token": False}, [], "unauthenticated requests", "RAY_AUTH_MODE=token"),
    "no key": (
        {"signing_error": "no file at provenance.certificate /a.pem"},
        [],
        "no file at provenance.certificate",
        "provenance.sign=false",
    ),
    "dead node": (
        {"nodes": (node("10.0.0.1"), node("10.0.0.9", error="GetTimeoutError: Get timed out"))},
        [],
        "10.0.0.9 could not be asked: GetTimeoutError",
        "look at its logs",
    ),
    "another torch": (
        {"nodes": (node("10.0.0.3", versions=VERSIONS | {"torch": "2.11.0"}),)},
        [],
        "10.0.0.3 has torch 2.11.0, this process has 2.13.0",
        "one image",
    ),
    "older code": (
        {"nodes": (node("10.0.0.3", versions=VERSIONS | {"vitascope": "b2"}),)},
        [],
        "has vitascope b2",
        "one image",
    ),
    "clock": ({"nodes": (node("10.0.0.4", clock_ahead_s=-41.5),)}, [], "-41.5 s from this one's", "chrony"),
    "no bucket": (
        {"storage_error": "NoSuchBucket: gone", "conditional_puts": False},
        ["run.folder=s3://gone/run"],
        "s3://gone/run cannot be written: NoSuchBucket",
        "run.folder",
    ),
    "no conditional puts": ({"conditional_puts": False}, [], "not exactly one", "If-None-Match"),
    "disk of one's own": (
        {"nodes": (node("10.0.0.1"), node("10.0.0.5", sees_run=False))},
        ["run.folder=/data/run"],
        "/data/run is not seen on 10.0.0.5",
        "s3:// or gs://, or on a disk that all nodes share",
    ),
    "no credentials there": (
        {"nodes": (node("10.0.0.5", sees_run=False),)},
        ["run.folder=s3://bucket/run"],
        "not seen on 10.0.0.5",
        "credentials and the endpoint",
    ),
    "too many ranks": (
        {"nodes": (node("10.0.0.1", cpus=4.0),)},
        ["train.ranks=8"],
        "ranks and feed take 10 CPUs at once, its nodes have at most 4",
        "lower train.ranks",
    ),
    "too many replicas": (
        {},
        ["generate.denoise_replicas=8"],
        "replicas take 17.6 CPUs at once, its nodes have at most 16",
        "generate.denoise_replicas",
    ),
    "too few GPUs, even when grown": (
        {"node_types": GROWS},
        ["cluster.place_by_label=true", "train.use_gpu=true", "train.ranks=24"],
        "train takes 24 GPUs at once, its nodes have at most 16",
        "GPU nodes",
    ),
    "torch without CUDA": (
        {"nodes": (node("10.0.0.6", gpus=1.0, cuda_devices=0),)},
        ["train.use_gpu=true", "train.ranks=1", "generate.use_gpu=true"],
        "promises 1 GPUs, torch sees 0",
        "nvidia-smi",
    ),
    "GPUs that nobody uses": (
        {"nodes": (node("10.0.0.6", gpus=8.0, cuda_devices=8),)},
        ["generate.use_gpu=true"],
        "train's nodes have GPUs, and train.use_gpu is false",
        "set train.use_gpu=true",
    ),
    "no such nodes": (
        {"node_types": GROWS},
        ["cluster.place_by_label=true"],
        "the label vitascope-node=generate",
        "cluster.place_by_label=false",
    ),
    "small shared memory": (
        {"nodes": (node("10.0.0.7", shm_bytes=64 * 2**20),)},
        [],
        "0.1 GB of shared memory for an object store of 2.0 GB",
        "--shm-size",
    ),
    "small object store": (
        {"nodes": (node("10.0.0.7", object_store_bytes=80e6),)},
        [],
        "object store of node 10.0.0.7 holds 0.1 GB",
        "--object-store-memory",
    ),
    "full disk": (
        {"nodes": (node("10.0.0.8", free_disk_bytes=GB),)},
        [],
        "10.0.0.8 has 1.0 GB of disk left",
        "RAY_TMPDIR",
    ),
    "no input": ({"input_error": "ValueError: no media files under /x"}, [], "under /x", "clips.input"),
    "input is no video": (
        {"decode_error": "a.txt: unreadable"},
        ["clips.input=/x"],
        "files of /x can be decoded: a.txt",
        "videos or images",
    ),
    "no requests": ({"requests_error": "nothing at /r"}, [], "nothing at /r", "generate.requests"),
    "no text encoder": (
        {"text_error": "ModuleNotFoundError: no transformers"},
        [],
        "encode.text_encoder = 'minilm' does not load: ModuleNotFoundError",
        "nodes' image",
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_is_found(planted: str) -> None:
    changes, overrides, what, todo = PLANTED[planted]
    findings = found(dataclasses.replace(WELL, **changes), *overrides)
    named = [finding for finding in findings if what in finding.found]
    assert len(named) == 1, findings
    assert todo in named[0].todo


def test_a_cluster_that_may_grow_is_large_enough_though_it_is_empty() -> None:
    generate = NodeType("generate", 8, 1, 4)
    empty = dataclasses.replace(
        WELL, nodes=(node("head", cpus=0.0, gpus=0.0),), node_types=(*GROWS, generate)
    )
    wanted = ["train.use_gpu=true", "train.ranks=16", "generate.use_gpu=true", "generate.denoise_replicas=2"]
    assert found(empty, "cluster.place_by_label=true", *wanted) == []


def test_an_open_cluster_is_a_warning_where_that_is_wanted() -> None:
    open_one = dataclasses.replace(WELL, needs_token=False)
    assert [f.level for f in found(open_one, "cluster.allow_open=true")] == ["warning"]

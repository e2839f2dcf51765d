"""Facts about the cluster, its nodes and the storage."""

import functools
import importlib.metadata
import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import vitascope
from vitascope import storage
from vitascope.clips.index import inputs
from vitascope.clips.index.catalog import Item
from vitascope.cluster import ray_private
from vitascope.cluster.local import answers_strangers
from vitascope.cluster.placement import KIND_OF
from vitascope.config import Settings
from vitascope.encode.codecs import make_codec
from vitascope.encode.text import make_text_encoder
from vitascope.media.probe import probe
from vitascope.provenance.signer import Signer
from vitascope.records import stable_id

_PACKAGES = ("ray", "torch", "deepspeed", "numpy", "pyarrow")
_NODE_TIMEOUT_S = 120.0
_SHM = "/dev/shm"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Node:
    """A living node. `error`: why it could not be asked; the rest is then unknown."""

    name: str
    labels: dict[str, str] = field(default_factory=dict)
    cpus: float = 0.0
    gpus: float = 0.0
    object_store_bytes: float = 0.0
    shm_bytes: int = 0
    free_disk_bytes: int = 0
    cuda_devices: int = 0
    clock_ahead_s: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    sees_run: bool = True
    error: str | None = None


@dataclass(frozen=True)
class NodeType:
    """A kind of node that the autoscaler may add. Ray does not report its labels."""

    name: str
    cpus: float
    gpus: float
    most: int

    def may_be(self, kind: str) -> bool:
        """Whether its nodes may be labelled `kind`: its name is that kind, or none of the kinds."""
        return self.cpus > 0 and (self.name == kind or self.name not in KIND_OF.values())


@dataclass(frozen=True)
class Facts:
    """All that the checks look at; an error is None if that was well."""

    nodes: tuple[Node, ...]
    node_types: tuple[NodeType, ...]
    needs_token: bool
    versions: dict[str, str]
    storage_error: str | None
    conditional_puts: bool
    input_error: str | None
    decode_error: str | None
    requests_error: str | None
    codec_error: str | None
    text_error: str | None
    signing_error: str | None = None


def gather(settings: Settings) -> Facts:
    """Asks every node and the storage; needs a connection to Ray."""
    with _marker(settings) as (marker, storage_error, conditional):
        nodes = tuple(_nodes(marker))
    files, input_error = _tried(lambda: inputs.some(settings.clips, 8))
    url, by_environment = ray_private.dashboard(), os.environ.get("RAY_AUTH_MODE") == "token"
    return Facts(
        nodes=nodes,
        node_types=tuple(_node_types()),
        needs_token=not answers_strangers(f"http://{url}") if url else by_environment,
        versions=versions(),
        storage_error=storage_error,
        conditional_puts=conditional,
        input_error=input_error,
        decode_error=_decode_error(files or []),
        requests_error=_requests_error(settings),
        codec_error=_tried(lambda: make_codec(settings.encode))[1],
        text_error=_tried(lambda: make_text_encoder(settings.encode).encode(["a lighthouse"]))[1],
        signing_error=_tried(lambda: Signer(settings.provenance))[1],
    )


def _tried(act: Callable[[], _T]) -> tuple[_T | None, str | None]:
    """The result, or else the error in a line."""
    try:
        return act(), None
    except Exception as error:  # whatever it is, it is a finding
        text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        return None, text.splitlines()[0]


def _decode_error(files: list[Item]) -> str | None:
    """Why none of these could be decoded; None if one could."""
    errors = []
    for item in files:
        _, error = _tried(functools.partial(probe, item.uri))
        if error is None:
            return None
        errors.append(f"{item.name}: {error}")
    return errors[0] if errors else None


def _requests_error(settings: Settings) -> str | None:
    if settings.generate.requests is None:
        return None
    requests = storage.absolute(settings.generate.requests)
    exists, error = _tried(lambda: storage.exists(requests))
    return error or (None if exists else f"nothing at {requests}")


@contextmanager
def _marker(settings: Settings) -> Iterator[tuple[str, str | None, bool]]:
    """A file in the run's folder that eight create at once; why none could, and whether just one did."""
    location = settings.path(f"doctor-{uuid.uuid4().hex[:8]}")
    with ThreadPoolExecutor(8) as pool:
        create = functools.partial(storage.create, location)
        created, error = _tried(lambda: list(pool.map(create, (b"%d" % n for n in range(8)))))
    try:
        yield location, error, sum(created or ()) == 1
    finally:
        _tried(lambda: storage.delete(location))


@dataclass(frozen=True)
class _Answer:
    """What a node knows of itself."""

    versions: dict[str, str]
    shm_bytes: int
    free_disk_bytes: int
    cuda_devices: int
    sees_run: bool


class _Probe:
    """Lives on a node for a moment."""

    def facts(self, marker: str) -> _Answer:
        import torch

        return _Answer(
            versions=versions(),
            shm_bytes=shutil.disk_usage(_SHM).total if os.path.isdir(_SHM) else 0,
            free_disk_bytes=shutil.disk_usage(ray_private.session_folder()).free,
            cuda_devices=torch.cuda.device_count(),
            sees_run=storage.exists(marker),
        )

    def now(self) -> float:
        return time.time()


def versions() -> dict[str, str]:
    """Of Python, of the packages that must agree between nodes, and a digest of this package's own code."""
    files = sorted(Path(vitascope.__file__).parent.rglob("*.py"))
    own = stable_id(*(path.read_text() for path in files))
    known = {"python": ".".join(platform.python_version_tuple()[:2]), "vitascope": own}
    return known | {package: importlib.metadata.version(package) for package in _PACKAGES}


def _nodes(marker: str) -> Iterator[Node]:
    """Every living node, asked by an actor on it."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    actor: Any = ray.remote(num_cpus=0)(_Probe)
    pins = (NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in alive)
    probes = [actor.options(scheduling_strategy=pin).remote() for pin in pins]
    answers = [probe.facts.remote(marker) for probe in probes]
    ray.wait(answers, num_returns=len(answers), timeout=_NODE_TIMEOUT_S)
    for node, probe_, answer in zip(alive, probes, answers, strict=True):
        yield _node(node, probe_, answer)
        ray.kill(probe_)


def _node(node: Mapping[str, Any], probe_: Any, answer: ray.ObjectRef) -> Node:
    has = node["Resources"]
    known = Node(
        name=node["NodeManagerAddress"],
        labels=dict(node.get("Labels") or {}),
        cpus=has.get("CPU", 0.0),
        gpus=has.get("GPU", 0.0),
        object_store_bytes=has.get("object_store_memory", 0.0),
    )
    own, error = _tried(lambda: ray.get(answer, timeout=1))
    ahead_s, error = (None, error) if error else _tried(lambda: _clock_ahead_s(probe_))
    return replace(known, error=error) if error else replace(known, **vars(own), clock_ahead_s=ahead_s or 0.0)


def _clock_ahead_s(probe_: Any) -> float:
    """By the quickest of some answers; exact to half the time that it took."""
    answers = []
    for _ in range(5):
        sent_s = time.time()
        now_s = ray.get(probe_.now.remote(), timeout=10)
        took_s = time.time() - sent_s
        answers.append((took_s, now_s - sent_s - took_s / 2))
    return min(answers)[1]


def _node_types() -> Iterator[NodeType]:
    """What the autoscaler may add; nothing if there is none."""
    for group in ray_private.node_groups():
        if group.max_count > 0:
            has = group.resources
            yield NodeType(group.name, has.get("CPU", 0), has.get("GPU", 0), group.max_count)

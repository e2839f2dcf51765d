"""The facts that stand in the way of the settings."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from vitascope import storage
from vitascope.cluster.placement import KIND_OF, LABEL
from vitascope.config import Settings
from vitascope.doctor.facts import Facts, Node
from vitascope.stages.registry import STAGES
from vitascope.stages.resources import Resources

_CLOCKS_APART_S = 2.0
_LEAST_STORE_BYTES = 100e6
_LEAST_DISK_BYTES = 5e9


@dataclass(frozen=True)
class Finding:
    """What was checked, with which result, and what to do if that is not well."""

    what: str
    level: Literal["ok", "warning", "problem"]
    found: str
    todo: str = ""


def check(settings: Settings, facts: Facts) -> list[Finding]:
    """All findings, in the order in which a run would meet them; each check has one at least."""
    findings = []
    for what, (troubles_of, well) in _CHECKS.items():
        troubles = [Finding(what, t.level, t.found, t.todo) for t in troubles_of(settings, facts)]
        findings += troubles or [Finding(what, "ok", well.format(n=len(facts.nodes)))]
    return findings


class Trouble(NamedTuple):
    """What is not well, and what to do."""

    found: str
    todo: str
    level: Literal["warning", "problem"] = "problem"


Troubles = Iterator[Trouble]


def _authentication(settings: Settings, facts: Facts) -> Troubles:
    if not facts.needs_token:
        yield Trouble(
            "the cluster accepts unauthenticated requests",
            "start its nodes with RAY_AUTH_MODE=token and one token (cluster/SECURITY.md)",
            level="warning" if settings.cluster.allow_open else "problem",
        )


def _nodes(settings: Settings, facts: Facts) -> Troubles:  # noqa: ARG001
    for node in facts.nodes:
        if node.error:
            yield Trouble(
                f"node {node.name} could not be asked: {node.error}",
                "look at its logs with `ray logs`, or end it so that another comes",
            )


def _versions(settings: Settings, facts: Facts) -> Troubles:  # noqa: ARG001
    for node in _asked(facts):
        for package, ours in facts.versions.items():
            if (theirs := node.versions.get(package)) != ours:
                yield Trouble(
                    f"node {node.name} has {package} {theirs}, this process has {ours}",
                    "use one image, or one environment, on all nodes and for submitting",
                )


def _clocks(settings: Settings, facts: Facts) -> Troubles:  # noqa: ARG001
    for node in _asked(facts):
        if abs(node.clock_ahead_s) > _CLOCKS_APART_S:
            yield Trouble(
                f"the clock of node {node.name} is {node.clock_ahead_s:+.1f} s from this one's",
                "run chrony or systemd-timesyncd there; signed storage requests and tokens go by the clock",
            )


def _storage(settings: Settings, facts: Facts) -> Troubles:
    if facts.storage_error:
        yield Trouble(
            f"{settings.path()} cannot be written: {facts.storage_error}",
            "check run.folder, AWS_ENDPOINT_URL (S3) and the rights of the nodes' role (cluster/README.md)",
        )
    elif not facts.conditional_puts:
        yield Trouble(
            f"of eight that created one file in {settings.path()} at once, not exactly one succeeded",
            "use a storage with conditional puts (`If-None-Match: *`): outputs could be made twice",
        )


def _shared(settings: Settings, facts: Facts) -> Troubles:
    blind = [node.name for node in _asked(facts) if not node.sees_run]
    if blind and not facts.storage_error:
        yield Trouble(
            f"what is written to {settings.path()} is not seen on {', '.join(blind)}",
            "put run.folder on s3:// or gs://, or on a disk that all nodes share"
            if not storage.is_remote(settings.path())
            else "give those nodes the credentials and the endpoint of the storage",
        )


def _cpus(settings: Settings, facts: Facts) -> Troubles:
    for stage, takes in _taken(settings):
        most = _could_have(settings, facts, stage, "cpus")
        if takes.cpus > most:
            yield Trouble(
                f"{stage}'s {takes.processes} take {takes.cpus:g} CPUs at once, "
                f"its nodes have at most {most:g}",
                f"lower {takes.lower}, or raise the number of nodes; it would wait forever",
            )


def _gpus(settings: Settings, facts: Facts) -> Troubles:
    for stage, takes in _taken(settings):
        most = _could_have(settings, facts, stage, "gpus")
        if takes.gpus > most:
            yield Trouble(
                f"{stage} takes {takes.gpus:g} GPUs at once, its nodes have at most {most:g}",
                f"lower {takes.lower_gpus}, or raise the number of GPU nodes; it would wait forever",
            )
        if most and not getattr(settings, stage).use_gpu:
            yield Trouble(
                f"{stage}'s nodes have GPUs, and {stage}.use_gpu is false: it would compute on their CPUs",
                f"set {stage}.use_gpu=true",
                level="warning",
            )
    for node in _asked(facts):
        if node.gpus > node.cuda_devices:
            yield Trouble(
                f"node {node.name} promises {node.gpus:g} GPUs, torch sees {node.cuda_devices}",
                "check the driver there (nvidia-smi), and that torch is a CUDA build",
            )


def _taken(settings: Settings) -> Iterator[tuple[str, Resources]]:
    """What stages take at once, of those that would wait forever with less."""
    for stage in STAGES.values():
        if stage.takes:
            yield stage.name, stage.takes(settings)


def _labels(settings: Settings, facts: Facts) -> Troubles:
    if not settings.cluster.place_by_label:
        return
    labelled = {node.labels.get(LABEL) for node in facts.nodes}
    for kind in sorted(set(KIND_OF.values()) - labelled):
        if any(node_type.may_be(kind) for node_type in facts.node_types):
            continue
        yield Trouble(
            f"no current or future node has the label {LABEL}={kind}",
            "label the node types, or set cluster.place_by_label=false; the stages would wait forever",
        )


def _memory(settings: Settings, facts: Facts) -> Troubles:  # noqa: ARG001
    for node in _asked(facts):
        if node.object_store_bytes > node.shm_bytes:
            yield Trouble(
                f"node {node.name} has {_gb(node.shm_bytes)} of shared memory for an object store of "
                f"{_gb(node.object_store_bytes)}: Ray uses the disk instead, or crashes",
                "mount a larger /dev/shm (docker --shm-size, emptyDir medium Memory)",
                level="warning",
            )
        if 0 < node.object_store_bytes < _LEAST_STORE_BYTES:
            yield Trouble(
                f"the object store of node {node.name} holds {_gb(node.object_store_bytes)}: it will spill",
                "start the node with --object-store-memory of a gigabyte or more",
                level="warning",
            )
        if node.free_disk_bytes < _LEAST_DISK_BYTES:
            yield Trouble(
                f"node {node.name} has {_gb(node.free_disk_bytes)} of disk left where Ray spills and logs",
                "free some, or set RAY_TMPDIR to a folder of yours on a larger disk and start Ray again",
            )


def _input(settings: Settings, facts: Facts) -> Troubles:
    if facts.input_error:
        yield Trouble(
            facts.input_error,
            "set clips.input to a folder or a prefix of a bucket that can be read here",
        )
    elif facts.decode_error:
        yield Trouble(
            f"none of the first files of {settings.clips.input} can be decoded: {facts.decode_error}",
            "check that they are videos or images",
        )


def _requests(settings: Settings, facts: Facts) -> Troubles:  # noqa: ARG001
    if facts.requests_error:
        yield Trouble(facts.requests_error, "set generate.requests to an existing file")


def _encoders(settings: Settings, facts: Facts) -> Troubles:
    for name, error in (("codec", facts.codec_error), ("text_encoder", facts.text_error)):
        if error:
            yield Trouble(
                f"encode.{name} = {getattr(settings.encode, name)!r} does not load: {error}",
                "install what it needs into the nodes' image",
            )


def _signing(settings: Settings, facts: Facts) -> Troubles:  # noqa: ARG001
    if facts.signing_error:
        yield Trouble(facts.signing_error, "give a key that signs, or set provenance.sign=false")


def _asked(facts: Facts) -> list[Node]:
    return [node for node in facts.nodes if not node.error]


def _could_have(settings: Settings, facts: Facts, stage: str, what: Literal["cpus", "gpus"]) -> float:
    """CPUs or GPUs on the nodes of a stage, once as many have come as may."""
    kind = STAGES[stage].nodes if settings.cluster.place_by_label else None
    types = [t for t in facts.node_types if kind is None or t.may_be(kind)]
    nodes = [n for n in facts.nodes if kind in (None, n.labels.get(LABEL))]
    grown = sum(getattr(t, what) * t.most for t in types)
    return max(grown, sum(getattr(n, what) for n in nodes))


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB"


_CHECKS: dict[str, tuple[Callable[[Settings, Facts], Troubles], str]] = {
    "authentication": (_authentication, "a token is required"),
    "nodes": (_nodes, "all {n} running nodes answer; nodes that the autoscaler may add were not checked"),
    "versions": (_versions, "equal on all nodes"),
    "clocks": (_clocks, f"within {_CLOCKS_APART_S:g} s of each other"),
    "storage": (_storage, "can be written, and one writer of many wins"),
    "shared folder": (_shared, "seen from every node"),
    "CPUs": (_cpus, "enough for ranks, feed and replicas"),
    "GPUs": (_gpus, "as many as are asked for, and torch sees them"),
    "labels": (_labels, "every stage has nodes to go to"),
    "memory and disk": (_memory, "shared memory holds the object stores, disks have room"),
    "input": (_input, "listed, and a file decoded"),
    "requests": (_requests, "there, or not asked for"),
    "codec and text encoder": (_encoders, "load"),
    "signing": (_signing, "the key works here, or files stay unsigned"),
}
"""The checks in order, and the line for each that passes."""

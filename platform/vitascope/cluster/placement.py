"""The nodes of each stage."""

from typing import Any, TypedDict

from vitascope.config import Settings
from vitascope.stages.registry import STAGES

LABEL = "vitascope-node"
KIND_OF = {name: stage.nodes for name, stage in STAGES.items() if stage.nodes}
"""Stage -> the value of LABEL on the nodes it works on; other stages run on the head only."""


def node_labels(settings: Settings, stage: str) -> dict[str, str] | None:
    """The labels that a node must have to do the work of `stage`; None if any node will do."""
    return {LABEL: KIND_OF[stage]} if settings.cluster.place_by_label else None


def place(dataset: Any, settings: Settings, stage: str) -> Any:
    """The Ray Data dataset, restricted to the nodes of `stage`."""
    dataset.context.execution_options.label_selector = node_labels(settings, stage)
    return dataset


class EntrypointResources(TypedDict, total=False):
    """The resources of a job's own process, as arguments of Ray's job API."""

    entrypoint_num_cpus: float
    entrypoint_num_gpus: float
    entrypoint_label_selector: dict[str, str]


def entrypoint_resources(command: str, settings: Settings) -> EntrypointResources:
    """A driver takes none and stays on the head, except that of `evaluate`, which runs the model itself."""
    if command != "evaluate":
        return {}
    resources: EntrypointResources = {"entrypoint_num_cpus": settings.evaluate.cpus}
    if settings.train.use_gpu:
        resources["entrypoint_num_gpus"] = 1
    if labels := node_labels(settings, command):
        resources["entrypoint_label_selector"] = labels
    return resources

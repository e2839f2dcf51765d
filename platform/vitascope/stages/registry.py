"""Every stage, declared once."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stage:
    """A command that makes something of the settings.

    Args:
        entry: `module:function`; imported only when the stage is asked for.
        help: what it does, in a line.
        needs: the stage that it goes on from.
        decided_by: sections of the settings that decide what it makes.
        nodes: the kind of nodes that it works on; None of what runs on the head alone.
        has_summary: it leaves summaries/<name>.json.
        in_flow: it is a part of the flow.
    """

    name: str
    entry: str
    help: str
    needs: str | None = None
    decided_by: tuple[str, ...] = ()
    nodes: str | None = None
    has_summary: bool = True
    in_flow: bool = True

    def load(self) -> Callable[..., dict[str, Any]]:
        """The entry point, which takes the settings and returns the summary."""
        module, _, function = self.entry.partition(":")
        entry: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), function)
        return entry


_ALL = (
    Stage(
        "clips",
        "vitascope.clips.stage:run",
        "list, scan, cut and judge videos and images: the clip table",
        decided_by=("run", "clips"),
        nodes="decode",
    ),
    Stage(
        "caption",
        "vitascope.caption.stage:run",
        "ask a model for the captions that clips lack",
        needs="clips",
        decided_by=("caption",),
        nodes="generate",
    ),
    Stage(
        "encode",
        "vitascope.encode.stage:run",
        "encode clips into latent shards",
        needs="caption",
        decided_by=("encode", "model", "feed"),
        nodes="decode",
    ),
    Stage(
        "data",
        "vitascope.report.data:run",
        "data.html: what is in the tables so far, with pictures",
        needs="encode",
        nodes="decode",
        has_summary=False,
    ),
    Stage(
        "train",
        "vitascope.train.stage:run",
        "train on the latents; run again to continue",
        needs="encode",
        decided_by=("train",),
        nodes="train",
    ),
    Stage(
        "generate",
        "vitascope.generate.stage:run",
        "generate a file of requests; exit status 4 if a valid one failed or none has an output",
        needs="train",
        decided_by=("generate",),
        nodes="generate",
    ),
    Stage(
        "evaluate",
        "vitascope.evaluate.stage:run",
        "held-out loss per size and noise level",
        needs="train",
        decided_by=("evaluate",),
        nodes="train",
    ),
    Stage(
        "report",
        "vitascope.report.stage:run",
        "summary.json and report.html of a finished run",
        has_summary=False,
    ),
    Stage(
        "flow",
        "vitascope.stages.as_jobs:run",
        "all of these from the first unfinished one; on a cluster as jobs",
        has_summary=False,
        in_flow=False,
    ),
    Stage(
        "doctor",
        "vitascope.doctor.stage:run",
        "check the settings against the cluster before money is spent",
        has_summary=False,
        in_flow=False,
    ),
    Stage(
        "demo",
        "vitascope.demo.stage:run",
        "the whole flow on real video, with a report",
        has_summary=False,
        in_flow=False,
    ),
)

STAGES = {stage.name: stage for stage in _ALL}
"""By name, in the order of the flow."""

FLOW = tuple(stage.name for stage in _ALL if stage.in_flow)
"""The stages of the flow, in order."""

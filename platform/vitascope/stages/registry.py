"""Every stage, declared once."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from vitascope.config import Settings
from vitascope.stages.resources import Resources, of_generation, of_training

Summary = dict[str, Any]
"""The figures of a stage, as JSON; `succeeded` is false if some of its work failed."""


@dataclass(frozen=True)
class Stage:
    """A command, and what it needs and leaves.

    Args:
        help: its description in one line.
        needs: the stages whose outputs it reads.
        decided_by: sections of the settings that decide its outputs.
        nodes: the kind of nodes that it runs on; None for the head alone.
        takes: the resources of its processes, if all must run at once.
        reads: the setting that names the user's file or folder that it requires.
        module: its `run` takes the settings and returns the summary; by default that of `<name>/stage.py`.
        has_summary: it writes summaries/<name>.json.
        in_flow: it is part of the flow.
    """

    name: str
    help: str
    needs: tuple[str, ...] = ()
    decided_by: tuple[str, ...] = ()
    nodes: str | None = None
    takes: Callable[[Settings], Resources] | None = None
    reads: str | None = None
    module: str = ""
    has_summary: bool = True
    in_flow: bool = True

    def load(self) -> Callable[..., Summary]:
        """Its entry point; imported only when the stage is asked for."""
        return importlib.import_module(self.module or f"vitascope.{self.name}.stage").run


_command = partial(Stage, has_summary=False, in_flow=False)
_ALL = (  # name, help, needs, decided by, nodes, takes
    Stage(
        "clips",
        "list, scan, cut and filter videos and images: the clip table",
        decided_by=("run", "clips"),
        nodes="decode",
        reads="clips.input",
    ),
    Stage("caption", "ask a model for the captions that clips lack", ("clips",), ("caption",), "generate"),
    Stage("encode", "encode clips into latent shards", ("caption",), ("encode", "model", "feed"), "decode"),
    Stage(
        "data",
        "data.html: what is in the tables so far, with pictures",
        needs=("encode",),
        nodes="decode",
        module="vitascope.report.data",
        has_summary=False,
    ),
    Stage(
        "train", "train on the latents; run again to continue", ("encode",), ("train",), "train", of_training
    ),
    Stage(
        "generate",
        "generate a file of requests; exit status 4 if a valid one failed or none has an output",
        needs=("train",),
        decided_by=("generate", "prompts", "provenance"),
        nodes="generate",
        takes=of_generation,
        reads="generate.requests",
    ),
    Stage("evaluate", "held-out loss per size and noise level", ("train",), ("evaluate",), "train"),
    Stage(
        "report",
        "summary.json and report.html of a finished run",
        needs=("data", "generate", "evaluate"),
        has_summary=False,
    ),
    _command(
        "flow",
        "run all stages from the first unfinished one; on a cluster, as jobs",
        module="vitascope.stages.as_jobs",
    ),
    _command("doctor", "check the settings against the cluster before money is spent"),
    _command("demo", "the whole flow on real video, with a report"),
)

STAGES = {stage.name: stage for stage in _ALL}
"""By name, in the order of the flow."""

FLOW = tuple(stage.name for stage in _ALL if stage.in_flow)
"""The stages of the flow, in order."""


def upstream(name: str) -> list[str]:
    """The stages that a stage depends on, directly or not, in the order of the flow."""
    every = {stage for need in STAGES[name].needs for stage in (need, *upstream(need))}
    return [stage for stage in FLOW if stage in every]

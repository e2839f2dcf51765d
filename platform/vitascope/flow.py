"""The stages in order, and which are finished.

A stage that has ended leaves a mark: a digest of all settings that decide what it and the stages before it
make. Run again, the flow starts at the first stage whose mark is missing or of other settings.
"""

from collections.abc import Callable, Mapping
from typing import Any

from vitascope import storage
from vitascope.config import Settings
from vitascope.errors import Mistake
from vitascope.records import stable_id

STAGES = ("clips", "caption", "encode", "data", "train", "generate", "evaluate", "report")

_NEEDS: Mapping[str, str | None] = {
    "clips": None,
    "caption": "clips",
    "encode": "caption",
    "data": "encode",
    "train": "encode",
    "generate": "train",
    "evaluate": "train",
    "report": None,
}
_DECIDED_BY: Mapping[str, tuple[str, ...]] = {
    "clips": ("run", "clips"),
    "caption": ("caption",),
    "encode": ("encode", "model", "feed"),
    "data": (),
    "train": ("train",),
    "generate": ("generate",),
    "evaluate": ("evaluate",),
}


def digest(settings: Settings, stage: str) -> str:
    """Tells apart settings under which `stage` makes something else; where the work runs does not count."""
    if stage == "report":
        return stable_id(digest(settings, "generate"), digest(settings, "evaluate"))
    before = _NEEDS[stage]
    sections = (getattr(settings, name).model_dump_json() for name in _DECIDED_BY[stage])
    return stable_id(digest(settings, before) if before else "", *sections)


def stages(settings: Settings) -> list[str]:
    """The stages that a run with these settings has."""
    return [stage for stage in STAGES if stage != "caption" or settings.caption.source != "off"]


def unfinished(settings: Settings, marks: Mapping[str, str], start: str | None = None) -> list[str]:
    """The stages still to run: all from the first that is unfinished, or from `start` if earlier.

    Args:
        marks: the digests that stages have left, by stage.

    Raises:
        ValueError: where `start` is no stage.
    """
    if start is not None and start not in STAGES:
        raise Mistake(f"no stage {start!r}; the flow has {', '.join(STAGES)}")
    todo = stages(settings)
    while todo and todo[0] != start and marks.get(todo[0]) == digest(settings, todo[0]):
        del todo[0]
    return todo


def run(settings: Settings, execute: Callable[[str], Any], start: str | None = None) -> list[str]:
    """Has `execute` do every unfinished stage in turn, and marks each as it ends; returns those done."""
    todo = unfinished(settings, _marks(settings), start)
    for stage in todo:
        storage.delete(_mark(settings, stage))
    for stage in todo:
        execute(stage)
        storage.put_json(_mark(settings, stage), {"settings": digest(settings, stage)})
    return todo


def _mark(settings: Settings, stage: str) -> str:
    return settings.path("flow", f"{stage}.json")


def _marks(settings: Settings) -> dict[str, str]:
    there = {stage: _mark(settings, stage) for stage in STAGES if storage.exists(_mark(settings, stage))}
    return {stage: storage.read_json(location)["settings"] for stage, location in there.items()}

"""The stages in order, and which are finished.

A finished stage leaves a mark: its settings, and a digest of all settings that decide its outputs and those
of the stages before it. When the flow is run again, it starts at the first stage whose mark is missing or has
other settings.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from vitascope import storage
from vitascope.config import Settings
from vitascope.errors import Missing, Mistake
from vitascope.records import stable_id
from vitascope.section import decides
from vitascope.stages.registry import FLOW, STAGES, upstream

_MAY_MOVE = ("run.folder", "encode.codec_folder", "encode.text_folder", "model.start_from")
Values = dict[str, object]
"""Settings by their names, `section.key`."""


@dataclass(frozen=True)
class Mark:
    """The mark of a stage: the settings of its outputs; `digest` is None if it has to be repeated."""

    digest: str | None
    values: Values


def deciding(settings: Settings, stage: str) -> Values:
    """The settings that decide the outputs of this stage, apart from those of earlier ones."""
    values: Values = {}
    for section in STAGES[stage].decided_by:
        own = getattr(settings, section)
        dumped = own.model_dump(mode="json", include=decides(type(own)))
        values |= {f"{section}.{key}": value for key, value in dumped.items()}
    return values


def digest(settings: Settings, stage: str) -> str:
    """Identifies the settings that decide the outputs of `stage`; settings of execution do not count."""
    needs = [digest(settings, need) for need in STAGES[stage].needs]
    return stable_id(*(needs or [""]), storage.json_bytes(deciding(settings, stage)))


def stages(settings: Settings) -> list[str]:
    """The stages of a run with these settings: one on another run's latents makes no data of its own."""
    left_out = {"caption"} if settings.caption.source == "off" else set()
    if settings.feed.latents:
        left_out = {"clips", "caption", "encode", "data"}
    return [stage for stage in FLOW if stage not in left_out]


def check_start(start: str | None) -> None:
    """Refuses to start at a stage that the flow does not have."""
    if start is not None and start not in FLOW:
        raise Mistake(f"no stage {start!r}; the flow has {', '.join(FLOW)}")


def unfinished(settings: Settings, marks: Mapping[str, Mark], start: str | None = None) -> list[str]:
    """The stages still to run: all from the first that is unfinished, or from `start` if earlier.

    Args:
        marks: the marks by stage.

    Raises:
        Mistake: `start` is no stage.
    """
    check_start(start)
    todo = stages(settings)
    finished = {stage for stage, mark in marks.items() if mark.digest == digest(settings, stage)}
    while todo and todo[0] != start and todo[0] in finished:
        del todo[0]
    return todo


def check_inputs(settings: Settings, todo: Collection[str]) -> None:
    """Checks before any stage starts that the user's files for them exist.

    Raises:
        Mistake: a required setting is not set.
        Missing: its location does not exist.
    """
    for stage in todo:
        if (key := STAGES[stage].reads) is None:
            continue
        section, _, name = key.partition(".")
        place = getattr(getattr(settings, section), name)
        if not place:
            raise Mistake(f"{key} is not set, and {stage} needs it; set it, or run the stages one by one")
        with suppress(PermissionError):  # the nodes may have access that this process lacks
            if not storage.exists(storage.absolute(place)):
                raise Missing(f"nothing is at {place}; set {key}")


def run(settings: Settings, execute: Callable[[str], bool | None], start: str | None = None) -> list[str]:
    """Runs every unfinished stage in turn with `execute`; returns those that are not complete."""
    todo = unfinished(settings, read_marks(settings), start)
    return [stage for stage in todo if not perform(settings, stage, execute)]


def perform(settings: Settings, stage: str, execute: Callable[[str], bool | None]) -> bool:
    """Runs a stage with `execute`, marks it as finished if it is complete, and returns whether it is.

    It is incomplete if `execute` returns False; the next run repeats it. The marks of the stage and of later
    stages that depend on it are removed first, because their outputs are about to be replaced.
    """
    for later, mark in read_marks(settings).items():
        if stage in (later, *upstream(later)):
            _put(settings, later, Mark(None, mark.values))
    complete = execute(stage) is not False
    if complete:
        _put(settings, stage, Mark(digest(settings, stage), deciding(settings, stage)))
    return complete


def read_marks(settings: Settings) -> dict[str, Mark]:
    """The marks of the stages of a run."""
    marks = {}
    for stage in FLOW:
        if storage.exists(location := _location(settings, stage)):
            document = storage.read_json(location)
            marks[stage] = Mark(document["settings"], document.get("made_with", {}))
    return marks


def changes(before: Values, now: Values) -> list[str]:
    """The changed settings, a line each: `clips.fps: 8.0 before, 12.0 now`."""
    both = [name for name in now if name in before]
    return [line for name in both for line in _changed(name, before[name], now[name])]


def changed_before(settings: Settings, stage: str, marks: Mapping[str, Mark]) -> list[str]:
    """The settings that differ from those of the tables that `stage` reads."""
    earlier = [name for name in upstream(stage) if name in stages(settings) and name in marks]
    return [line for name in earlier for line in changes(marks[name].values, deciding(settings, name))]


def values_before(settings: Settings, stage: str) -> Values:
    """The settings that decide what `stage` reads, except places that may move with their content."""
    made_with = [deciding(settings, earlier).items() for earlier in upstream(stage)]
    return {name: value for values in made_with for name, value in values if name not in _MAY_MOVE}


def plan_lines(settings: Settings, todo: Iterable[str], marks: Mapping[str, Mark]) -> list[str]:
    """The stages to be repeated, and the changed settings that cause it; empty if none has changed."""
    again = [stage for stage in todo if stage in marks]
    lines = [line for stage in again for line in changes(marks[stage].values, deciding(settings, stage))]
    title = f"to be done again: {', '.join(again)}, because of changed settings:"
    return [title, *(f"  {line}" for line in lines)] if lines else []


def _changed(name: str, before: object, now: object) -> list[str]:
    if before == now:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        keys = {**before, **now}
        return [line for key in keys for line in _changed(f"{name}.{key}", before.get(key), now.get(key))]
    was, is_ = ("not set" if value is None else value for value in (before, now))
    return [f"{name}: {was} before, {is_} now"]


def _location(settings: Settings, stage: str) -> str:
    return settings.path("flow", f"{stage}.json")


def _put(settings: Settings, stage: str, mark: Mark) -> None:
    storage.put_json(_location(settings, stage), {"settings": mark.digest, "made_with": mark.values})

"""The stages in order, and which are finished.

A stage that has ended leaves a mark: the settings it was made with, and a digest of all settings that decide
what it and the stages before it make. Run again, the flow starts at the first stage whose mark is missing or
of other settings.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from vitascope import storage
from vitascope.config import Settings
from vitascope.errors import Missing, Mistake
from vitascope.records import stable_id
from vitascope.section import decides
from vitascope.stages.registry import FLOW, STAGES

Values = dict[str, Any]
"""Settings by their names, `section.key`."""


@dataclass(frozen=True)
class Mark:
    """What a stage leaves: the settings it was made with; `digest` is None once it is to be done again."""

    digest: str | None
    values: Values


def deciding(settings: Settings, stage: str) -> Values:
    """The settings that decide what this stage makes of what the ones before it made."""
    values: Values = {}
    for section in STAGES[stage].decided_by:
        own = getattr(settings, section)
        dumped = own.model_dump(mode="json", include=decides(type(own)))
        values |= {f"{section}.{key}": value for key, value in dumped.items()}
    return values


def digest(settings: Settings, stage: str) -> str:
    """Tells apart settings under which `stage` makes something else; where the work runs does not count."""
    if stage == "report":
        return stable_id(digest(settings, "generate"), digest(settings, "evaluate"))
    before = STAGES[stage].needs
    own = storage.json_bytes(deciding(settings, stage))
    return stable_id(digest(settings, before) if before else "", own)


def stages(settings: Settings) -> list[str]:
    """The stages that a run with these settings has."""
    return [stage for stage in FLOW if stage != "caption" or settings.caption.source != "off"]


def check_start(start: str | None) -> None:
    """Refuses a stage to begin with that the flow does not have."""
    if start is not None and start not in FLOW:
        raise Mistake(f"no stage {start!r}; the flow has {', '.join(FLOW)}")


def unfinished(settings: Settings, marks: Mapping[str, Mark], start: str | None = None) -> list[str]:
    """The stages still to run: all from the first that is unfinished, or from `start` if earlier.

    Args:
        marks: what stages have left, by stage.

    Raises:
        Mistake: `start` is no stage.
    """
    check_start(start)
    todo = stages(settings)
    while todo and todo[0] != start and _is_finished(settings, todo[0], marks):
        del todo[0]
    return todo


def _is_finished(settings: Settings, stage: str, marks: Mapping[str, Mark]) -> bool:
    return stage in marks and marks[stage].digest == digest(settings, stage)


def check_inputs(settings: Settings, todo: Collection[str]) -> None:
    """Looks for the user's files that the stages need before any of them starts.

    Raises:
        Mistake: a setting that is needed is not set.
        Missing: nothing is at the location that it names.
    """
    needed = {
        "clips": ("clips.input", settings.clips.input),
        "generate": ("generate.requests", settings.generate.requests),
    }
    for stage, (key, place) in needed.items():
        if stage not in todo:
            continue
        if not place:
            raise Mistake(f"{key} is not set, and {stage} needs it; set it, or run the stages one by one")
        with suppress(PermissionError):  # the nodes may be let in even if this process is not
            if not storage.exists(storage.absolute(place)):
                raise Missing(f"nothing is at {place}; set {key}")


def run(settings: Settings, execute: Callable[[str], bool | None], start: str | None = None) -> list[str]:
    """Has `execute` do every unfinished stage in turn, and marks it as it ends.

    Returns those that `execute` says are not complete (False), which the next run does again.
    """
    todo = unfinished(settings, read_marks(settings), start)
    if todo:
        begin(settings, todo[0])
    left = []
    for stage in todo:
        if execute(stage) is False:
            left.append(stage)
        else:
            mark(settings, stage)
    return left


def begin(settings: Settings, stage: str) -> None:
    """Marks a stage, and those that go on from it, as unfinished: what it made is about to be replaced."""
    for later, found in read_marks(settings).items():
        if later == stage or stage in _before(later):
            _put(settings, later, Mark(None, found.values))


def mark(settings: Settings, stage: str) -> None:
    """Marks a stage as finished with these settings."""
    _put(settings, stage, Mark(digest(settings, stage), deciding(settings, stage)))


def read_marks(settings: Settings) -> dict[str, Mark]:
    """What the stages of the run have left."""
    found = {}
    for stage in FLOW:
        if storage.exists(location := _location(settings, stage)):
            document = storage.read_json(location)
            found[stage] = Mark(document["settings"], document.get("made_with", {}))
    return found


def changes(before: Values, now: Values) -> list[str]:
    """The settings of other values, a line each: `clips.fps: 8.0 before, 12.0 now`."""
    names = [name for name in now if name in before and before[name] != now[name]]
    return [line for name in names for line in _changed(name, before[name], now[name])]


def changed_before(settings: Settings, stage: str, marks: Mapping[str, Mark]) -> list[str]:
    """How the settings differ from those that the tables were made with which `stage` goes on from."""
    earlier = [name for name in _before(stage) if name in stages(settings) and name in marks]
    return [line for name in earlier for line in changes(marks[name].values, deciding(settings, name))]


def values_before(settings: Settings, stage: str) -> Values:
    """The settings that decide what `stage` goes on from, wherever the run's folder is."""
    values: Values = {}
    for earlier in _before(stage):
        values |= deciding(settings, earlier)
    return {name: value for name, value in values.items() if name != "run.folder"}


def plan_lines(settings: Settings, todo: Iterable[str], marks: Mapping[str, Mark]) -> list[str]:
    """What is to be done again, and because of which settings; nothing if no setting has changed."""
    again = [stage for stage in todo if stage in marks]
    lines = [line for stage in again for line in changes(marks[stage].values, deciding(settings, stage))]
    said = f"to be done again: {', '.join(again)}, because of changed settings:"
    return [said, *(f"  {line}" for line in lines)] if lines else []


def _changed(name: str, before: Any, now: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        return [line for key in keys for line in _changed(f"{name}.{key}", before.get(key), now.get(key))]
    return [f"{name}: {_shown(before)} before, {_shown(now)} now"]


def _shown(value: Any) -> str:
    return "not set" if value is None else f"{value}"


def _before(stage: str) -> list[str]:
    """The stages that a stage goes on from, the first first."""
    if stage == "report":
        return [earlier for earlier in FLOW if earlier != "report"]
    before = STAGES[stage].needs
    return [*_before(before), before] if before else []


def _location(settings: Settings, stage: str) -> str:
    return settings.path("flow", f"{stage}.json")


def _put(settings: Settings, stage: str, left: Mark) -> None:
    storage.put_json(_location(settings, stage), {"settings": left.digest, "made_with": left.values})

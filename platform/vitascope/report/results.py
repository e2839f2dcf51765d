"""Everything that a run has left behind, read."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from vitascope import storage
from vitascope.caption.answers import clip_rows
from vitascope.config import Settings
from vitascope.encode.fingerprint import latents_folder
from vitascope.encode.shards import read_index
from vitascope.encode.stage import DROPS_FILE
from vitascope.errors import Missing
from vitascope.model.card import ModelCard, load_card
from vitascope.stages.registry import STAGES
from vitascope.stages.running import summary_location
from vitascope.train import log
from vitascope.wording import short

Row = dict[str, Any]
WITH_SUMMARY = tuple(name for name, stage in STAGES.items() if stage.has_summary)
"""The stages whose summaries are read, in their order."""

_MOST_SAID = 400  # characters of an error
_Part = TypeVar("_Part")


@dataclass(frozen=True)
class Results:
    """The tables, logs and summaries of a run, as its stages wrote them; empty if a stage has not run.

    videos, clips, samples, drops, manifest: rows of the tables of `records`. steps, held_out: training's log,
    split. losses: what evaluation measured. card: of the model that generates. summaries: by stage, of those
    that have ended. missing: by file, why something that such a stage wrote cannot be read.
    """

    settings: Settings
    videos: list[Row]
    clips: list[Row]
    samples: list[Row]
    drops: list[Row]
    steps: list[Row]
    held_out: list[Row]
    losses: Row
    manifest: list[Row]
    card: ModelCard | None
    summaries: dict[str, Row]
    missing: dict[str, str]


def read(settings: Settings) -> Results:
    """Reads what the stages that have run have left.

    Raises:
        Missing: no stage has run.
    """
    reader = _Reader(settings)
    latents, path = latents_folder(settings), settings.path
    outputs = path("outputs", settings.generate.batch, "manifest.parquet")
    losses = path("evaluate", "losses.json")
    rows: list[Row] = reader.part("train", path("train", "metrics"), _log, [])
    return Results(
        settings=settings,
        videos=reader.part("clips", path("videos"), storage.rows, []),
        clips=reader.part("clips", path("clips"), lambda _: list(clip_rows(settings)), []),
        samples=reader.part("encode", latents, lambda folder: read_index(folder).to_pylist(), []),
        drops=reader.part("encode", storage.join(latents, DROPS_FILE), storage.rows, []),
        steps=[row for row in rows if "loss" in row],
        held_out=[row for row in rows if row.get("val_loss") is not None],
        losses=reader.part("evaluate", losses, storage.read_json, {}),
        manifest=reader.part("generate", outputs, storage.rows, []),
        card=reader.part("train", settings.generate.model or path("model"), load_card, None),
        summaries=reader.summaries,
        missing=reader.missing,
    )


def _log(folder: str) -> list[Row]:
    rows: list[Row] = [dict(row) for row in log.read(folder)]
    if not rows:
        raise FileNotFoundError(f"no step in {folder}")
    return rows


class _Reader:
    """Reads files one by one, and notes which of those that must be there cannot be read."""

    def __init__(self, settings: Settings) -> None:
        self.missing: dict[str, str] = {}
        self.summaries: dict[str, Row] = {}
        for stage in WITH_SUMMARY:
            location = summary_location(settings, stage)
            if storage.exists(location):
                self.summaries[stage] = self.part(stage, location, storage.read_json, {})
        if not self.summaries:
            raise Missing(
                f"no stage has ended in {settings.path()}; run one first, or set run.folder to another run's"
            )

    def part(self, stage: str, location: str, read: Callable[[str], _Part], nothing: _Part) -> _Part:
        """What `read` makes of a location, or `nothing`."""
        try:
            return read(location)
        except storage.Unavailable:
            raise
        except FileNotFoundError as error:
            if stage in self.summaries:
                self.missing[location] = short(f"is gone ({error})", _MOST_SAID)
        except Exception as error:  # whatever a damaged file leads to
            self.missing[location] = short(f"cannot be read ({type(error).__name__}: {error})", _MOST_SAID)
        return nothing

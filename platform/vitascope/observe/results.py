"""Everything a finished run left behind, read."""

from dataclasses import dataclass
from typing import Any

from vitascope import storage
from vitascope.caption.answers import clip_rows
from vitascope.config import Settings
from vitascope.encode.fingerprint import latents_folder
from vitascope.encode.pipeline import DROPS_FILE
from vitascope.encode.shards import read_index
from vitascope.train import log

Row = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """The tables, logs and summaries of a run, as its stages wrote them.

    videos, clips, samples, drops, manifest: rows of the tables of `records`. steps, held_out: training's log,
    split. losses: what evaluation found. summaries: by stage.
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
    summaries: dict[str, Row]


def read(settings: Settings) -> Results:
    """Reads a run in which every stage is finished; FileNotFoundError naming what is missing."""
    latents = latents_folder(settings)
    rows = log.read(settings.path("train", "metrics"))
    stages = ("clips", "encode", "train", "generate", "evaluate")
    return Results(
        settings=settings,
        videos=storage.rows(settings.path("videos")),
        clips=list(clip_rows(settings)),
        samples=read_index(latents).to_pylist(),
        drops=storage.rows(storage.join(latents, DROPS_FILE)),
        steps=[row for row in rows if "loss" in row],
        held_out=[row for row in rows if row.get("val_loss") is not None],
        losses=storage.read_json(settings.path("evaluate", "losses.json")),
        manifest=storage.rows(settings.path("outputs", settings.generate.batch, "manifest.parquet")),
        summaries={stage: storage.read_json(settings.path("summaries", f"{stage}.json")) for stage in stages},
    )

"""Runs the whole flow, ending in a report."""

from typing import Any

from vitascope import config, storage
from vitascope.clips.table import clip_rows
from vitascope.config import Settings
from vitascope.demo import inputs
from vitascope.demo.requests import Example, requests_for
from vitascope.encode.fingerprint import latents_folder
from vitascope.encode.shards import read_index
from vitascope.files import packaged
from vitascope.records import VideoSize
from vitascope.stages import runner
from vitascope.stages.registry import STAGES, Summary

REQUESTS = str(packaged("configs", "demo_requests.jsonl"))
"""The requests of the demo with its own input; media are in the run's folder."""


def run(settings: Settings) -> Summary:
    """Runs all stages; writes summary.json, whose content it returns, data.html and report.html for the run.

    If `clips.input` is not set, or is the run's own folder `input`, the demo's videos are copied there;
    otherwise the user's are used. Without `generate.requests` the demo uses its own requests, or derives some
    from the user's videos. These choices are saved with the settings.
    """
    folder = settings.clips.input or storage.join(settings.run.folder, "input")
    own_input = storage.absolute(folder) == settings.path("input")
    settings = _saved_with(settings, "clips", input=folder)
    if own_input and not storage.exists(settings.path("input", inputs.BROKEN)):  # written last
        inputs.gather_stills(settings.path("media"))
        inputs.gather(folder)
    summaries = {}
    for name in runner.stages(settings):
        if name == "generate" and settings.generate.requests is None:
            settings = _saved_with(settings, "generate", requests=_put_requests(settings, own_input))
        summaries[name] = STAGES[name].load()(settings)
    return summaries["report"] | {"succeeded": summaries["generate"]["succeeded"]}


def _saved_with(settings: Settings, section: str, **values: Any) -> Settings:
    """The settings with changed values in a section, saved with the run."""
    changed = getattr(settings, section).model_copy(update=values)
    settings = settings.model_copy(update={section: changed})
    config.save(settings)
    return settings


def _put_requests(settings: Settings, own_input: bool) -> str:
    """Writes the request file to the run's folder, the base of its media paths; returns its location."""
    location = settings.path("requests.jsonl")
    if own_input:
        storage.put(location, storage.read_bytes(REQUESTS))
    else:
        storage.put(location, storage.json_lines(requests_for(_examples(settings), settings.clips.fps)))
    return location


def _examples(settings: Settings) -> list[Example]:
    clip_of = {clip["clip_id"]: clip for clip in clip_rows(settings)}
    return [
        Example(
            row["clip_id"],
            row["caption"],
            VideoSize(row["n_frames"], row["height"], row["width"]),
            clip_of[row["clip_id"]]["kind"],
            clip_of[row["clip_id"]]["uri"],
        )
        for row in read_index(latents_folder(settings)).to_pylist()
    ]

"""The whole flow on small files, good and bad, with its input and output in a bucket."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flow import sources
from vitascope import cli, config, storage
from vitascope.config import Settings
from vitascope.encode.fingerprint import latents_folder

REPO = Path(__file__).resolve().parents[2]
STEPS = 4
SETTINGS = f"""
[run]
folder = "BUCKET/run"
[clips]
input = "BUCKET/in"
captions = "BUCKET/in/captions.csv"
val_names = ["tower*", "dahlia*"]
[clips.filters.still_share]
use = "score"
[encode]
max_pixels = 9216
frame_counts = [1, 9, 17]
[feed]
token_budget = 256
packs_per_step = 2
[model]
depth = 2
width = 64
heads = 4
[train]
steps = {STEPS}
warmup_steps = 1
val_every = 2
checkpoint_every = 2
checkpoints_kept = 1
[generate]
requests = "BUCKET/requests.jsonl"
steps = 2
max_pixels = 16384
"""
LIKE_BUNNY, LIKE_TOWER = {"width": 112, "height": 80}, {"width": 80, "height": 112}
REQUESTS: dict[str, dict[str, Any]] = {
    "text": LIKE_BUNNY | {"seconds": 9 / 8},
    "portrait, at 12 fps": LIKE_TOWER | {"seconds": 1, "fps": 12},
    "picture": {"width": 70, "height": 45, "seconds": 0},
    "from a picture": {
        "mode": "image_to_video",
        "image": "in/dahlia.jpg",
        "width": 96,
        "height": 64,
        "seconds": 1,
    },
    "goes on from <this>": LIKE_BUNNY
    | {"mode": "extend_forward", "video": "in/bunny.mp4", "seconds": 17 / 8},
    "turned, leads up to": {
        "mode": "extend_backward",
        "video": "in/turned.mp4",
        "width": 64,
        "height": 96,
        "seconds": 9 / 8,
    },
    "joined": LIKE_TOWER
    | {"mode": "join", "video": "in/tower.mp4", "video_after": "in/bunny.mp4", "seconds": 17 / 8},
}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown field": (LIKE_BUNNY | {"seconds": 1, "<promt>": "a cat"}, "invalid_request"),
    "too large": ({"width": 256, "height": 256, "seconds": 1}, "invalid_request"),
    "no image": (LIKE_BUNNY | {"mode": "image_to_video", "seconds": 1}, "media_missing"),
    "empty prompt": (LIKE_BUNNY | {"seconds": 1, "prompt": " "}, "invalid_request"),
}


@dataclass(frozen=True)
class Flow:
    """A finished flow: the files in the run's folder, and the files in the folder in which it was started."""

    settings: Settings
    files: dict[str, str]
    beside: list[str]

    def path(self, *parts: str) -> str:
        """A location in the run's folder."""
        return self.settings.path(*parts)

    def save(self, folder: Path) -> None:
        """Leaves all files of the bucket in a local folder, at once, for `copied`."""
        bucket, partly = _bucket(self.settings), folder.with_suffix(".partly")
        for uri in storage.list_files(bucket):
            storage.put(str(partly / uri.removeprefix(bucket + "/")), storage.read_bytes(uri))
        partly.rename(folder)

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json."""
        return storage.read_json(self.path("summary.json"))

    @property
    def manifest(self) -> dict[str, dict[str, Any]]:
        """The batch's manifest, by custom_id."""
        rows = storage.rows(self.path("outputs", "batch", "manifest.parquet"))
        return {row["custom_id"]: row for row in rows}

    @property
    def samples(self) -> list[dict[str, Any]]:
        """The latent index."""
        return storage.rows(storage.join(latents_folder(self.settings), "index.parquet"))


def _bucket(settings: Settings) -> str:
    return settings.run.folder.removesuffix("/run")


def copied(saved: Path, folder: Path) -> Settings:
    """The settings of a run that a test may change: a copy of what `Flow.save` left, in a new folder.

    Its tables name the copies of the sources, in `folder / "in"`, and of the outputs.
    """
    shutil.copytree(saved, folder)
    file = folder / "settings.toml"
    bucket = _bucket(config.load(str(file)))
    file.write_text(file.read_text().replace(bucket, str(folder)))
    settings = config.load(str(file))

    def moved(row: dict[str, Any]) -> dict[str, Any]:
        if row["uri"] is None:
            return row
        uri = row["uri"].replace(bucket, str(folder))
        return row | {"uri": uri} | ({"version": storage.version(uri)} if "version" in row else {})

    for table in ("videos/videos", "clips/clips", "outputs/batch/manifest"):
        change(settings.path(f"{table}.parquet"), moved)
    return settings


def change(location: str, changed: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Replaces each row of a table by what `changed` makes of it, and leaves out those it makes None of."""
    table = storage.read_table(location)
    rows = [row for row in map(changed, table.to_pylist()) if row is not None]
    storage.put_table(location, pa.Table.from_pylist(rows, table.schema))


def upload(folder: Path, bucket: str) -> str:
    """Puts sources, requests and settings into the bucket; gives the settings file's URI."""
    sources.make(folder)
    for path in folder.iterdir():
        storage.put(storage.join(bucket, "in", path.name), path.read_bytes())
    wrong = {name: fields for name, (fields, _) in WRONG.items()}
    documents = [{"prompt": f"a {name}"} | f | {"custom_id": name} for name, f in (REQUESTS | wrong).items()]
    storage.put(f"{bucket}/requests.jsonl", storage.json_lines(documents))
    storage.put(f"{bucket}/settings.toml", SETTINGS.replace("BUCKET", bucket).encode())
    return f"{bucket}/settings.toml"


def written(settings: Settings) -> dict[str, str]:
    """Every file of the run, by its place in the folder, with what changes when it is written again."""
    return {
        uri.removeprefix(settings.path() + "/"): storage.filesystem(uri)[0].ukey(uri)
        for uri in storage.list_files(settings.path())
    }


def finished(bucket: str, folder: Path) -> Flow:
    """Runs the flow from an empty bucket, as a user does in an empty folder; `folder` is for both."""
    made, here = folder / "sources", folder / "here"
    made.mkdir()
    here.mkdir()
    settings = upload(made, bucket)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        assert cli.main(["demo", settings]) == 0
    loaded = config.load(settings)
    beside = [str(path) for path in (*here.iterdir(), *REPO.glob("*:*"))]  # workers have other directories
    return Flow(loaded, written(loaded), beside)

"""A run of six requests, as all stages would have left it, without training anything."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from vitascope import config, records, storage
from vitascope.clips.table import CLIPS, VIDEOS
from vitascope.config import Settings
from vitascope.encode.buckets import Patching
from vitascope.encode.fingerprint import latents_folder
from vitascope.encode.strides import strides_of
from vitascope.generate.media import read_given
from vitascope.generate.request import MEDIA, Limits, Request, parse
from vitascope.generate.sidecar import conditioning, put_conditioning, sidecar
from vitascope.ledger import Reason
from vitascope.media.mp4 import media_bytes
from vitascope.model.card import ModelCard, save_model

REQUESTS = [
    {"prompt": "a red wave", "width": 96, "height": 64, "seconds": 2.0},
    {"prompt": "a green wave", "width": 64, "height": 96, "seconds": 0},
    {
        "prompt": "go on from <this>",
        "width": 96,
        "height": 64,
        "seconds": 2,
        "mode": "image_to_video",
        "image": "a.png",
    },
    {
        "prompt": "and on",
        "width": 96,
        "height": 64,
        "seconds": 2,
        "mode": "extend_forward",
        "video": "wave.mp4",
    },
    {
        "prompt": "before",
        "width": 96,
        "height": 64,
        "seconds": 2,
        "mode": "extend_backward",
        "video": "wave.mp4",
    },
    {
        "prompt": "between the two",
        "width": 64,
        "height": 64,
        "seconds": 2.5,
        "mode": "join",
        "video": "wave.mp4",
        "video_after": "wave.mp4",
    },
]


def wave(n_frames: int, height: int, width: int, hue: float) -> np.ndarray:
    """A picture that moves: uint8 (F, H, W, 3)."""
    t, y, x = np.mgrid[0:n_frames, 0:height, 0:width]
    light = 0.5 + 0.5 * np.sin(x / 9 + y / 14 + t / 3)
    color = 0.5 + 0.5 * np.cos(2 * np.pi * (hue + np.arange(3) / 3))
    return (255 * light[..., None] * color).astype(np.uint8)


def make_run(folder: Path, **tables: Any) -> Settings:
    """Such a run in a folder of its own, for tests that break it."""
    settings = config.load(
        None,
        [
            f"run.folder={folder}",
            "model.depth=2",
            "model.width=64",
            "model.heads=2",
            "train.steps=120",
            "feed.token_budget=1024",
            "feed.packs_per_step=4",
        ],
    )
    write_inputs(folder)
    write_tables(settings, **tables)
    write_training(settings)
    write_outputs(settings)
    return settings


def write_inputs(folder: Path) -> None:
    (folder / "inputs").mkdir()
    (folder / "inputs" / "wave.mp4").write_bytes(media_bytes(wave(16, 120, 160, 0.1), 8.0)[0])
    (folder / "inputs" / "a.png").write_bytes(_png(wave(1, 120, 120, 0.6)[0]))


def _png(frame: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(frame).save(sink, "PNG")
    return sink.getvalue()


def write_tables(settings: Settings, n_val: int = 0) -> None:
    """Two good files, two bad ones; ten clips of which one is too short and one has no bucket.

    The last `n_val` clips are held out.
    """
    inputs = settings.path("inputs")
    video = {
        "video_id": "v1",
        "uri": f"{inputs}/wave.mp4",
        "name": "wave.mp4",
        "kind": "video",
        "codec": "h264",
    }
    video |= {
        "version": storage.version(f"{inputs}/wave.mp4"),
        "width": 160,
        "height": 120,
        "rotation_deg": 0,
        "fps": 8.0,
        "duration_s": 2.0,
        "decoder": "pyav",
    }
    image = {"video_id": "v2", "uri": f"{inputs}/a.png", "name": "a.png", "kind": "image", "width": 120}
    image["version"] = storage.version(f"{inputs}/a.png")
    image |= {"height": 120, "rotation_deg": 0, "duration_s": 0.0, "decoder": "pillow", "codec": "png"}
    lost = [
        {"video_id": "v3", "uri": "x", "name": "empty.mp4"} | records.dropped(Reason.EMPTY_FILE, "0 bytes"),
        {"video_id": "v4", "uri": "y", "name": "text.mp4"}
        | records.dropped(Reason.UNREADABLE, "not a <video>"),
    ]
    put(
        settings.path("videos", "videos.parquet"),
        [video | records.OK, image | records.OK, *lost],
        VIDEOS,
    )
    clips = [clip(i, video if i else image) for i in range(10)]
    for row in clips[len(clips) - n_val :]:
        row["split"] = "val"
    clips[3] |= records.dropped(Reason.TOO_SHORT, "0.2 s")
    put(settings.path("clips", "clips.parquet"), clips, CLIPS)
    latents = latents_folder(settings)
    samples = [sample(c, i) for i, c in enumerate(clips) if i not in (3, 7)]
    put(storage.join(latents, "index.parquet"), samples, records.SAMPLES)
    drop = {"clip_id": "c7", "name": "wave.mp4"} | records.dropped(Reason.NO_BUCKET, "too long and thin")
    put(storage.join(latents, "drops.parquet"), [drop], records.DROPS)
    storage.put_json(storage.join(latents, "encode.json"), {"channels": 48, "text_dim": 384})
    for stage in ("clips", "encode", "evaluate"):
        storage.put_json(settings.path("summaries", f"{stage}.json"), {"seconds": 12.0})
    by_size = [{"size": "9x64x96", "samples": 3, "loss": [0.9, 0.5, 0.3]}]
    document = {"timesteps": [0.1, 0.5, 0.9], "by_size": by_size, "loss": [0.9, 0.5, 0.3]}
    storage.put_json(settings.path("evaluate", "losses.json"), document)


def put(location: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    storage.put_table(location, pa.Table.from_pylist(rows, schema))


def clip(i: int, source: dict[str, Any]) -> dict[str, Any]:
    same = {
        k: source[k]
        for k in ("video_id", "uri", "name", "version", "kind", "width", "height", "rotation_deg", "decoder")
    }
    span = {"start_s": 0.1 * i, "end_s": 0.1 * i + 1, "fps": 8.0, "n_frames": 9 if i else 1}
    whole = {"crop_left": 0.0, "crop_top": 0.0, "crop_width": 1.0, "crop_height": 1.0}
    return (
        same
        | span
        | whole
        | {"clip_id": f"c{i}", "caption": f"waves, take {i}", "split": "train"}
        | records.OK
    )


def sample(row: dict[str, Any], i: int) -> dict[str, Any]:
    n_frames, height, width = (1, 96, 96) if i == 0 else (9, 64, 96) if i % 2 else (9, 96, 64)
    shape = {"latent_frames": 1 + n_frames // 4, "latent_height": height // 8, "latent_width": width // 8}
    where = {"sample_id": i, "shard": i // 4, "row": i % 4, "n_text": 5, "psnr_db": 31.0 + i / 4, "digest": i}
    size = {"n_frames": n_frames, "height": height, "width": width}
    return {k: row[k] for k in ("clip_id", "name", "caption", "split")} | where | size | shape


def write_training(settings: Settings) -> None:
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = [{"step": 0, "val_loss": 2.0}]
    for step in range(settings.train.steps):
        loss = 0.4 + 1.6 * float(np.exp(-step / 30)) * (1 + 0.1 * rng.standard_normal())
        rows.append({"step": step, "loss": loss, "tokens_per_s": 8000 + 300 * rng.standard_normal()})
        if step in (2, 77):  # skipped, since they were not finite
            rows[-1]["loss"] = None
        if step % 40 == 39:
            rows.append({"step": step + 1, "val_loss": loss * 1.1})
    storage.put(settings.path("train", "metrics", "00000000.jsonl"), storage.json_lines(rows))
    summary = {
        "useful_token_share": 0.991,
        "cost_spread_p99": 0.004,
        "ranks": 2,
        "zero_stage": 3,
        "precision": "bf16",
        "steps": 120,
        "steps_skipped": 2,
    }
    summary |= {
        "train_loss_first": 2.0,
        "train_loss_last": 0.42,
        "val_loss_first": 2.0,
        "val_loss_last": 0.45,
    }
    summary |= {"tokens_per_s": 8000.0, "data_wait_share": 0.01, "n_parameters": 1_234_567, "seconds": 240.0}
    storage.put_json(settings.path("summaries", "train.json"), summary)
    card = ModelCard(
        model=settings.model,
        encode=settings.encode,
        channels=48,
        text_dim=384,
        fingerprint="f",
        timestep_shift=1.0,
        step=120,
    )
    save_model(settings.path("model"), {}, card)


def write_outputs(settings: Settings) -> None:
    """An output for each request, and a refused one."""
    patching = Patching(strides_of(settings.encode), settings.model.patch)
    limits = Limits(settings.generate, patching, settings.path("inputs"))
    manifest = []
    for i, document in enumerate(REQUESTS):
        line = storage.json_lines([document | {"custom_id": f"r{i}"}]).decode()
        manifest.append(write_output(settings, parse(line, limits), i + 1))
    refused = {"line": 9, "custom_id": "r9"} | records.dropped(Reason.INVALID_REQUEST, "unknown key 'heigth'")
    put(settings.path("outputs", "batch", "manifest.parquet"), [*manifest, refused], records.MANIFEST)
    generated = {"requests": len(manifest) + 1, "seconds": 55.0}
    storage.put_json(settings.path("summaries", "generate.json"), generated)


def write_output(settings: Settings, request: Request, line: int) -> dict[str, Any]:
    size = request.size
    content, suffix = media_bytes(wave(size.n_frames, size.height, size.width, line / 7), request.fps)
    uri = settings.path("outputs", "batch", request.custom_id + suffix)
    storage.put(uri, content)
    location = settings.path("outputs", "batch", request.custom_id)
    patching = Patching(strides_of(settings.encode), settings.model.patch)
    given = read_given(request, patching) if MEDIA[request.mode] else None
    about = put_conditioning(location, conditioning(request, *given) if given else [])
    storage.put_json(f"{location}.json", sidecar(request, uri, {}, {}) | about)
    row = {"line": line, "custom_id": request.custom_id, "mode": request.kind, "uri": uri, "seconds": 1.5}
    row |= {"width": size.width, "height": size.height, "n_frames": size.n_frames, "fps": request.fps}
    return row | records.OK

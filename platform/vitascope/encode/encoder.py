"""Encode the frames and captions of one shard."""

import functools
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from vitascope.encode.buckets import latent_shape
from vitascope.encode.codecs import make_codec, psnr_db
from vitascope.encode.frames import frames_of
from vitascope.encode.plan import EncodeTask, tasks_of
from vitascope.encode.settings import EncodeSettings
from vitascope.encode.shards import Moments, ShardNote, digest, latent_row, read_note, shard_uri, write_shard
from vitascope.encode.text import TextStates, make_text_encoder
from vitascope.errors import Failed, Mistake
from vitascope.records import SAMPLES


class ShardEncoder:
    """Turns decoded shards into committed ones; an actor that keeps its codec, text encoder and text states.

    Raises:
        Mistake: `settings.gpus` is above 0, and this process has none.
    """

    def __init__(self, settings: EncodeSettings, latents: str) -> None:
        if settings.gpus and not torch.cuda.is_available():
            raise Mistake(f"encode.gpus is {settings.gpus:g}, and CUDA is not to be had here; set it to 0")
        self._device = torch.device("cuda" if settings.gpus else "cpu")
        self._codec = make_codec(settings)
        self._text = TextStates(make_text_encoder(settings, self._device))
        self._latents = latents

    def __call__(self, decoded: pa.Table) -> pa.Table:
        """Commits the shard of the one row that `decode_shard` made, and says what became of its tasks.

        An existing shard is left untouched: if an actor dies, Ray re-runs all its tasks,
        including committed ones.

        Raises:
            DamagedShard: what is there is damaged.
            Failed: what is there was planned otherwise.
        """
        uri, key = shard_uri(self._latents, decoded["shard"][0].as_py()), decoded["key"][0].as_py()
        note = read_note(uri)
        if note is None:
            rows, note = self._encoded(decoded)
            if not write_shard(uri, rows, note):
                note = read_note(uri)
        if note is None or note.key != key:
            raise Failed(
                f"{uri} has been written by another run meanwhile; let one run of vitascope encode at a time "
                "write into the folder, and run this one again"
            )
        reasons = pa.array([[drop["reason"] for drop in note.drops]], pa.list_(pa.string()))
        return pa.table({"shard": decoded["shard"], "samples": [len(note.samples)], "drops": reasons})

    def _encoded(self, decoded: pa.Table) -> tuple[list[dict[str, Any]], ShardNote]:
        """The shard's rows of records.LATENTS, and the note about them."""
        shard = decoded["shard"][0].as_py()
        tasks = tasks_of(decoded)
        texts = self._text.encode([tasks[number].caption for number in decoded["decoded"][0].as_py()])
        rows: list[dict[str, Any]] = []
        samples: list[dict[str, Any]] = []
        moments = Moments.none(self._codec.channels)
        for (task, frames), text in zip(frames_of(decoded, tasks), texts, strict=True):
            latent, psnr = self._encode(frames)
            row = latent_row(task, latent, text)
            measured = {"n_text": len(text), "psnr_db": psnr, "digest": digest(row)}
            samples.append(_sample(task) | {"shard": shard, "row": len(rows)} | measured)
            rows.append(row)
            moments += Moments.of(latent)
        drops = decoded["drops"][0].as_py()
        table = pa.Table.from_pylist(samples, schema=SAMPLES)
        return rows, ShardNote(decoded["key"][0].as_py(), self._text.dim, table, drops, moments)

    def _encode(self, frames: np.ndarray) -> tuple[torch.Tensor, float]:
        """The latent as bf16, and the PSNR in dB of what that gives back."""
        pixels = torch.from_numpy(frames).to(self._device)
        latent = self._codec.encode(pixels).to(torch.bfloat16)
        return latent, psnr_db(pixels, self._codec.decode(latent))


def encode_shard(decoded: pa.Table, *, settings: EncodeSettings, latents: str) -> pa.Table:
    """As a `ShardEncoder` does, of which the process keeps one for later shards with the same settings."""
    return _kept(settings.model_dump_json(), latents)(decoded)


@functools.lru_cache(maxsize=1)
def _kept(settings: str, latents: str) -> ShardEncoder:
    return ShardEncoder(EncodeSettings.model_validate_json(settings), latents)


def _sample(task: EncodeTask) -> dict[str, Any]:
    """The columns of records.SAMPLES that follow from the task alone."""
    frames, height, width = latent_shape(task.size)
    copied = ("sample_id", "clip_id", "name", "split", "n_frames", "height", "width", "caption")
    latent = {"latent_frames": frames, "latent_height": height, "latent_width": width}
    return {**{key: getattr(task, key) for key in copied}, **latent}

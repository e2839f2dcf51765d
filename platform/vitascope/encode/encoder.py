"""Encode the clips of one shard."""

import functools
from typing import Any

import torch

from vitascope.clips.decode import read_clip
from vitascope.encode.buckets import latent_shape
from vitascope.encode.codecs import make_codec, psnr_db
from vitascope.encode.plan import EncodeTask, drop_row
from vitascope.encode.settings import EncodeSettings
from vitascope.encode.shards import ShardNote, latent_row, shard_uri, write_shard
from vitascope.encode.text import make_text_encoder
from vitascope.ledger import Rejected


def encode_shard(
    plan_row: dict[str, Any], *, settings: EncodeSettings, latents: str, decode_timeout_s: float
) -> dict[str, Any]:
    """Encodes a plan row into a committed shard; each process keeps its codec and text encoder."""
    return _encoder(settings, latents, decode_timeout_s).encode(plan_row)


class ShardEncoder:
    """Turns plan rows into committed shards; holds the codec and the text encoder."""

    def __init__(self, settings: EncodeSettings, latents: str, decode_timeout_s: float) -> None:
        self._codec = make_codec(settings)
        self._text = make_text_encoder(settings)
        self._latents = latents
        self._timeout_s = decode_timeout_s

    def encode(self, plan_row: dict[str, Any]) -> dict[str, Any]:
        """Encodes the row's tasks, commits its shard, and says how many became samples and why others not.

        Doing a row twice writes the same shard twice, under one name.
        """
        tasks = [EncodeTask(**row) for row in plan_row["tasks"]]
        texts = self._encode_captions(tasks)
        latents, samples, drops = {}, [], []
        tasks.sort(key=lambda task: (task.uri, task.start_s))  # one source after the other is decoded faster
        for task in tasks:
            text = texts[task.caption]
            try:
                latent, psnr = self._encode_frames(task)
            except Rejected as error:
                drops.append(drop_row(task.clip_id, task.name, error))
                continue
            latents[task.sample_id] = latent_row(task, latent, text)
            samples.append({**_sample(task), "n_text": len(text), "psnr_db": psnr})
        samples.sort(key=lambda sample: sample["sample_id"])
        for number, sample in enumerate(samples):
            sample.update(shard=int(plan_row["shard"]), row=number)
        rows = [latents.pop(sample["sample_id"]) for sample in samples]
        note = ShardNote(plan_row["key"], self._text.dim, samples, drops)
        write_shard(shard_uri(self._latents, plan_row["shard"]), rows, note)
        return {
            "shard": int(plan_row["shard"]),
            "samples": len(samples),
            "drops": [drop["reason"] for drop in drops],
        }

    def _encode_captions(self, tasks: list[EncodeTask]) -> dict[str, torch.Tensor]:
        """The token states of each distinct caption."""
        captions = sorted({task.caption for task in tasks})
        return dict(zip(captions, self._text.encode(captions), strict=True))

    def _encode_frames(self, task: EncodeTask) -> tuple[torch.Tensor, float]:
        """The task's latent as bf16, and the PSNR in dB of what that gives back."""
        frames = read_clip(
            task.uri,
            start_s=task.start_s,
            fps=task.fps,
            n_frames=task.n_frames,
            size=(task.height, task.width),
            rotation_deg=task.rotation_deg,
            decoder=task.decoder,
            timeout_s=self._timeout_s,
        )
        pixels = torch.from_numpy(frames)
        latent = self._codec.encode(pixels).to(torch.bfloat16)
        return latent, psnr_db(pixels, self._codec.decode(latent))


_encoder = functools.lru_cache(maxsize=1)(ShardEncoder)


def _sample(task: EncodeTask) -> dict[str, Any]:
    """The columns of records.SAMPLES that follow from the task alone."""
    frames, height, width = latent_shape(task.size)
    copied = ("sample_id", "clip_id", "name", "split", "n_frames", "height", "width", "caption")
    latent = {"latent_frames": frames, "latent_height": height, "latent_width": width}
    return {**{key: getattr(task, key) for key in copied}, **latent}

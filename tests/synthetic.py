"""Latents and models of random numbers, for tests without videos and training."""

from collections.abc import Container, Sequence

import numpy as np
import pyarrow as pa
import torch

from vitascope import config, records, storage
from vitascope.config import Settings
from vitascope.encode.codecs import make_codec
from vitascope.encode.fingerprint import latents_folder
from vitascope.encode.plan import EncodeTask
from vitascope.encode.samples import Encoded, Moments, shard_table
from vitascope.encode.settings import EncodeSettings
from vitascope.encode.shards import ShardNote, facts_hash, shard_uri, write_index, write_shard
from vitascope.encode.text import make_text_encoder
from vitascope.model.formats.card import ModelCard
from vitascope.model.settings import ModelSettings

CHANNELS, TEXT_DIM = 8, 32
SIZES = [(1, 8, 12), (3, 6, 8), (3, 8, 6), (5, 4, 6)]
"""Latent sizes in turn: 24, 36, 36 and 30 patches."""


def tiny_card() -> ModelCard:
    """The card of a model with two small blocks."""
    encode = EncodeSettings(dct_channels=12)
    return ModelCard(
        model=ModelSettings(depth=2, width=64, heads=2, patch=2),
        encode=encode,
        channels=make_codec(encode).channels,
        text_dim=make_text_encoder(encode).dim,
        fingerprint="tiny",
        timestep_shift=1.0,
        step=7,
    )


def make_run(
    folder: str,
    overrides: Sequence[str] = (),
    *,
    n_samples: int = 24,
    n_shards: int = 3,
    sizes: Sequence[tuple[int, int, int]] = SIZES,
    not_finite: Container[int] = (),
    channels: int = CHANNELS,
) -> Settings:
    """A run folder with committed latents, and the settings of a tiny model to train on them.

    Every eighth sample is held out. Sample i has id 1000 + i; the latents of those in `not_finite` are NaN.
    """
    settings = config.load(
        None,
        [
            f"run.folder={folder}",
            *("model.depth=2", "model.width=64", "model.heads=4"),
            *("feed.token_budget=160", "feed.packs_per_step=2", "feed.window_samples=16"),
            *("train.lr=1e-3", "train.warmup_steps=2", "train.steps=20"),
            *overrides,
        ],
    )
    latents = latents_folder(settings)
    generator = torch.Generator().manual_seed(0)
    index = []
    for shard, numbers in enumerate(np.array_split(np.arange(n_samples), n_shards)):
        encoded = [
            _encoded(
                int(number),
                (*sizes[number % len(sizes)], channels),
                generator,
                spoil=int(number) in not_finite,
            )
            for number in numbers
        ]
        rows = shard_table(shard, encoded)
        samples = rows.select(records.SAMPLES.names)
        note = ShardNote(str(shard), TEXT_DIM, len(rows), facts_hash(samples), [], Moments.none(channels))
        write_shard(shard_uri(latents, shard), rows, note)
        index.append(samples)
    described = {"channels": channels, "text_dim": TEXT_DIM, "fingerprint": "synthetic", "patch": 2}
    storage.put_json(
        storage.join(latents, "encode.json"), described | {"encode": settings.encode.model_dump(mode="json")}
    )
    write_index(latents, pa.concat_tables(index))
    return settings


def _encoded(number: int, shape: tuple[int, ...], generator: torch.Generator, *, spoil: bool) -> Encoded:
    latent = torch.randn(*shape, generator=generator) * (torch.nan if spoil else 1)
    text = torch.randn(5 + number % 7, TEXT_DIM, generator=generator)
    frames, height, width, _ = shape
    task = EncodeTask(
        sample_id=1000 + number,
        clip_id=f"clip-{number}",
        name=f"video-{number}.mp4",
        uri=f"video-{number}.mp4",
        version="",
        kind="video",
        start_s=0.0,
        fps=8.0,
        decoder="pyav",
        split="val" if number % 8 == 7 else "train",
        caption=f"caption {number}",
        n_frames=1 + 4 * (frames - 1),
        height=8 * height,
        width=8 * width,
        n_tokens=frames * height * width // 4,
    )
    return Encoded(task, latent, text, 30.0)

"""What decides a plan and its packs."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from vitascope.encode.shards import read_index, read_samples
from vitascope.feed.packs import Pack, Segment, collate
from vitascope.feed.patches import Grid, grid_of, patchify
from vitascope.feed.plan import Lengths, Planner, Position


class Draw(Protocol):
    """How a sample is trained: noise level per latent frame, no caption or its own, its noise's seed."""

    @property
    def timesteps(self) -> np.ndarray: ...

    @property
    def drop_text(self) -> bool: ...

    @property
    def noise_key(self) -> int: ...


@dataclass(frozen=True)
class Source:
    """A small value from which any process can work out any step of any epoch, and load it.

    latents: the folder of one fingerprint. split: train or val. patch: side of a patch in latent pixels.
    cost: FLOPs of samples of so many patches and text tokens. draws: from (sample id, epoch, grid).
    """

    latents: str
    split: str
    patch: int
    seed: int
    token_budget: int
    packs_per_step: int
    window_samples: int
    cost: Callable[[np.ndarray, np.ndarray], np.ndarray]
    draws: Callable[[int, int, Grid], Draw]


@dataclass(frozen=True, eq=False)
class Planned:
    """The samples of a split, sorted by shard and row, and their planner.

    shard, row, n_text: (N,) int64 columns of the index.
    """

    shard: np.ndarray
    row: np.ndarray
    n_text: np.ndarray
    planner: Planner


def has_samples(latents: str, split: str) -> bool:
    """Whether the split holds anything."""
    return split in read_index(latents, ["split"])["split"].unique().to_pylist()


def samples_digest(latents: str) -> str:
    """A name for the training samples and their order: with the settings, it decides the plan."""
    ids = _of_split(latents, "train", ["sample_id"])["sample_id"].to_numpy().tobytes()
    return hashlib.blake2b(ids, digest_size=8).hexdigest()


def _of_split(latents: str, split: str, columns: list[str]) -> pa.Table:
    """The samples of a split, by shard and row."""
    return read_index(latents, [*columns, "split"]).filter(pc.field("split") == split)


@lru_cache(maxsize=4)
def planned(source: Source) -> Planned:
    """Index and planner of a source, kept by each process that plans or loads.

    Raises:
        FileNotFoundError: where the latents are not committed.
        ValueError: where the split is empty or a sample exceeds the token budget.
    """
    numbers = ["sample_id", "shard", "row", "n_text", "latent_frames", "latent_height", "latent_width"]
    table = _of_split(source.latents, source.split, numbers)
    column = {name: table[name].to_numpy().astype(np.int64) for name in numbers}
    tokens = column["latent_frames"] * column["latent_height"] * column["latent_width"] // source.patch**2
    costs = np.asarray(source.cost(tokens, column["n_text"]))
    planner = Planner(
        Lengths(column["sample_id"], column["shard"], tokens, costs),
        seed=source.seed,
        token_budget=source.token_budget,
        packs_per_step=source.packs_per_step,
        window_samples=source.window_samples,
    )
    return Planned(column["shard"], column["row"], column["n_text"], planner)


def load_pack(source: Source, position: Position, number: int) -> Pack:
    """Pack `number` of the step at `position`: clean bf16 patches, the epoch's noise levels and captions."""
    known = planned(source)
    chosen = known.planner.step(position).packs[number]
    samples = read_samples(source.latents, list(zip(known.shard[chosen], known.row[chosen], strict=True)))
    return collate([_segment(source, position.epoch, s.sample_id, (s.latent, s.text)) for s in samples])


def _segment(
    source: Source, epoch: int, sample_id: int, content: tuple[torch.Tensor, torch.Tensor]
) -> Segment:
    latent, text = content
    grid = grid_of((latent.shape[0], latent.shape[1], latent.shape[2]), source.patch)
    draw = source.draws(sample_id, epoch, grid)
    return Segment(
        tokens=patchify(latent, source.patch),
        grid=grid,
        timesteps=torch.from_numpy(draw.timesteps),
        text=text[:0] if draw.drop_text else text,
        sample_id=sample_id,
        noise_key=draw.noise_key,
    )

"""The inputs of a plan and its packs."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import pyarrow as pa
import torch

from vitascope.encode.samples import Sample
from vitascope.encode.shards import index_parts, no_caption, read_samples
from vitascope.errors import Mistake
from vitascope.feed.lengths import Lengths
from vitascope.feed.packs import Draw, Pack, Segment, collate
from vitascope.feed.patches import Grid, grid_of, patchify
from vitascope.feed.plan import Planner, Position

Draws = Callable[[int, int, Grid], Draw]
"""The `Draw` of (sample id, epoch, grid)."""


@dataclass(frozen=True)
class Source:
    """A small value from which any process can compute any step of any epoch, and load it.

    latents: the folder of one fingerprint. split: train or val. patch: side of a patch in latent pixels.
    cost: FLOPs as a function of patches and text tokens.
    """

    latents: str
    split: str
    patch: int
    seed: int
    token_budget: int
    packs_per_step: int
    window_samples: int
    cost: Callable[[np.ndarray, np.ndarray], np.ndarray]
    draws: Draws


@dataclass(frozen=True, eq=False)
class Planned:
    """The samples of a split, sorted by shard and row, and their planner: 18 bytes a sample.

    row (int32), n_text (uint16): (N,) columns of the index.
    """

    row: np.ndarray
    n_text: np.ndarray
    planner: Planner

    @property
    def shard(self) -> np.ndarray:
        """(N,) int32 column of the index."""
        return self.planner.lengths.shard


def has_samples(latents: str, split: str) -> bool:
    """Whether the split has samples."""
    return any(len(part) for part in index_parts(latents, split, []))


def samples_digest(latents: str) -> str:
    """A digest of the training samples and their order: with the settings, it decides the plan."""
    ids = hashlib.blake2b(digest_size=8)
    for part in index_parts(latents, "train", ["sample_id"]):
        ids.update(part["sample_id"].to_numpy().tobytes())
    return ids.hexdigest()


@lru_cache(maxsize=4)
def planned(source: Source) -> Planned:
    """Index and planner of a source, cached by each process that plans or loads.

    Raises:
        Missing: the latents are not committed.
        Mistake: the split is empty or a sample exceeds the token budget.
    """
    parts = [_numbers(source, part) for part in index_parts(source.latents, source.split, _COLUMNS)]
    column = {
        name: np.concatenate([np.empty(0, kind), *(part[name] for part in parts)])
        for name, kind in _TYPES.items()
    }
    planner = Planner(
        Lengths(column["shard"], column["tokens"], column["costs"]),
        seed=source.seed,
        token_budget=source.token_budget,
        packs_per_step=source.packs_per_step,
        window_samples=source.window_samples,
    )
    return Planned(column["row"], column["n_text"], planner)


_COLUMNS = ["sample_id", "shard", "row", "n_text", "latent_frames", "latent_height", "latent_width"]
_TYPES = {"shard": np.int32, "row": np.int32, "n_text": np.uint16, "tokens": np.int32, "costs": np.float32}
_LARGEST = {"shard": 2**31 - 1, "row": 2**31 - 1, "n_text": 2**16 - 1, "tokens": 2**31 - 1}


def _numbers(source: Source, part: pa.Table) -> dict[str, np.ndarray]:
    """The columns for planning from a part of the index."""
    shard, row, n_text, *size = (part[name].to_numpy().astype(np.int64) for name in _COLUMNS[1:])
    tokens = np.prod(size, axis=0) // source.patch**2
    costs = np.asarray(source.cost(tokens, n_text), np.float64)
    columns = {"shard": shard, "row": row, "n_text": n_text, "tokens": tokens, "costs": costs}
    for name, values in columns.items():
        if values.max(initial=0) > _LARGEST.get(name, np.inf):
            raise Mistake(f"{source.latents} holds a sample with {name} = {values.max()}, too large")
    _check_sizes(source, part, tokens)
    return {name: values.astype(_TYPES[name]) for name, values in columns.items()}


def _check_sizes(source: Source, part: pa.Table, tokens: np.ndarray) -> None:
    """Refuses a sample that fits no pack, and names it."""
    if tokens.max(initial=0) > source.token_budget:
        largest = int(tokens.argmax())
        raise Mistake(
            f"sample {part['sample_id'][largest].as_py()} has {tokens[largest]} tokens, more than the budget "
            f"of {source.token_budget}: set feed.token_budget to that or more, or encode at smaller sizes"
        )


def load_pack(source: Source, position: Position, number: int) -> Pack:
    """Pack `number` of the step at `position`: clean bf16 patches, the epoch's noise levels and captions."""
    known = planned(source)
    chosen = known.planner.step(position).packs[number]
    samples = read_samples(source.latents, list(zip(known.shard[chosen], known.row[chosen], strict=True)))
    segment = partial(segment_of, draws=source.draws, without=no_caption(source.latents))
    return collate([segment(sample, source.patch, position.epoch) for sample in samples])


def segment_of(sample: Sample, patch: int, epoch: int, *, draws: Draws, without: torch.Tensor) -> Segment:
    """The sample as it is trained or measured in an epoch: clean patches and its `Draw`.

    without: the token states (m, text_dim) that replace a caption that is dropped.
    """
    frames, height, width, _ = sample.latent.shape
    grid = grid_of((frames, height, width), patch)
    draw = draws(sample.sample_id, epoch, grid)
    return Segment(
        tokens=patchify(sample.latent, patch),
        grid=grid,
        timesteps=torch.from_numpy(draw.timesteps),
        text=without if draw.drop_text else sample.text,
        sample_id=sample.sample_id,
        noise_key=draw.noise_key,
    )

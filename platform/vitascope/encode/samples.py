"""Samples: as training takes them, and as a shard holds them."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from vitascope.encode.plan import EncodeTask
from vitascope.records import LATENTS


@dataclass(frozen=True)
class Sample:
    """What training takes of an encoded clip."""

    sample_id: int
    latent: torch.Tensor  # bf16 (T, h, w, C)
    text: torch.Tensor  # bf16 (n_text, dim)
    caption: str

    def __repr__(self) -> str:
        shapes = f"latent {tuple(self.latent.shape)}, text {tuple(self.text.shape)}"
        return f"Sample({self.sample_id}, {shapes})"


class StoredSample(NamedTuple):
    """A sample as a row of its shard holds it; the fields are columns of records.LATENTS."""

    sample_id: int
    caption: str
    n_text: int
    latent_shape: list[int]
    latent: bytes
    text: bytes

    @property
    def digest(self) -> int:
        """63 bits that change with anything that training takes from the row."""
        content = hashlib.blake2b(digest_size=8)
        for part in (self.latent, self.text, self.caption.encode()):
            content.update(len(part).to_bytes(8, "little") + part)
        return int.from_bytes(content.digest(), "big") >> 1

    def decoded(self, text_dim: int) -> Sample:
        """The sample with its bytes as tensors."""
        latent = from_bytes(self.latent, self.latent_shape)
        return Sample(self.sample_id, latent, from_bytes(self.text, (self.n_text, text_dim)), self.caption)


class Encoded(NamedTuple):
    """An encoded clip: latent (T, h, w, C), text states (n, dim), and the codec's PSNR on its frames."""

    task: EncodeTask
    latent: torch.Tensor
    text: torch.Tensor
    psnr_db: float


def shard_table(shard: int, encoded: Sequence[Encoded]) -> pa.Table:
    """The shard's content, records.LATENTS."""
    rows = []
    for number, (task, latent, text, psnr_db) in enumerate(encoded):
        content = (list(latent.shape), to_bytes(latent), to_bytes(text))
        stored = StoredSample(task.sample_id, task.caption, len(text), *content)
        places = {"shard": shard, "row": number, "psnr_db": psnr_db, "digest": stored.digest}
        axes = ("latent_frames", "latent_height", "latent_width")
        sides = dict(zip(axes, stored.latent_shape[:3], strict=True))
        rows.append(asdict(task) | places | sides | stored._asdict())
    return pa.Table.from_pylist(rows, schema=LATENTS)  # which leaves out what else is in a task


def to_bytes(values: torch.Tensor) -> bytes:
    """The values as bf16, little-endian, in C order."""
    return values.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes()


def from_bytes(content: bytes, shape: Sequence[int]) -> torch.Tensor:
    """bf16 of `shape` from the bytes of `to_bytes`."""
    words = np.frombuffer(content, dtype="<i2").copy()
    return torch.from_numpy(words).view(torch.bfloat16).reshape(tuple(shape))


@dataclass(frozen=True)
class Moments:
    """Sums over latent pixels, per channel (C,), from which follow mean and std of many shards."""

    n: int
    total: list[float]
    squares: list[float]

    @classmethod
    def none(cls, channels: int) -> "Moments":
        """Of no pixel."""
        return cls(0, [0.0] * channels, [0.0] * channels)

    @classmethod
    def of(cls, latent: torch.Tensor) -> "Moments":
        """Of a latent (T, h, w, C)."""
        pixels = latent.flatten(0, -2).double()
        return cls(len(pixels), pixels.sum(0).tolist(), pixels.square().sum(0).tolist())

    def __add__(self, other: "Moments") -> "Moments":
        total, squares = np.add((self.total, self.squares), (other.total, other.squares)).tolist()
        return Moments(self.n + other.n, total, squares)

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """Per channel; zeros of no pixel."""
        mean = np.array(self.total) / max(self.n, 1)
        variance = np.array(self.squares) / max(self.n, 1) - mean**2
        return mean.tolist(), np.sqrt(variance.clip(min=0)).tolist()

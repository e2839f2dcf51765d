"""Keeps the finished chunks of a long video until the video is whole.

They lie in a hidden folder next to the outputs, one file each. An output's name follows from everything that
makes it, so a file with its name is of the same video; the chunk's place is checked, because releases may cut
otherwise.
"""

import posixpath
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vitascope import storage
from vitascope.generate.chunks import Chunk

FOLDER = ".running"
"""In the folder of the outputs: what is not finished."""


class Made(NamedTuple):
    """Latents (t, h, w, C) float32 of a chunk, the seconds it waited and took, and those of the device."""

    latent: np.ndarray
    waited_s: float
    worked_s: float
    device_s: float


def location(target: str, index: int) -> str:
    """The file of a chunk of the output at `target`, its location without suffix."""
    folder, name = posixpath.split(target)
    return storage.join(folder, FOLDER, f"{name}.chunk-{index:04d}")


def keep(target: str, chunk: Chunk, made: Made) -> None:
    """Commits the latents of a chunk."""
    place = np.array([chunk.start, chunk.stop, chunk.n_before])
    content = {"latent": made.latent, "place": place, "seconds": np.array(made[1:])}
    storage.put(location(target, chunk.index), save(content))


def kept(target: str, chunk: Chunk) -> Made | None:
    """The latents of a chunk that was made before, if it was."""
    try:
        content = load(storage.read_bytes(location(target, chunk.index)))
        fits = content["place"].tolist() == [chunk.start, chunk.stop, chunk.n_before]
        return Made(content["latent"], *content["seconds"].tolist()) if fits else None
    except (FileNotFoundError, SafetensorError, KeyError):
        return None


def n_kept(target: str) -> int:
    """The number of finished chunks of an output that is in work: its progress, out of `chunks_of`."""
    first = location(target, 0)
    return sum(file.startswith(first[:-4]) for file in storage.list_files(posixpath.dirname(first)))


def forget(target: str, chunks: list[Chunk]) -> None:
    """Removes all chunks of an output."""
    for chunk in chunks:
        storage.delete(location(target, chunk.index))

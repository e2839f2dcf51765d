"""Encode the frames and captions of one shard."""

import functools

import numpy as np
import pyarrow as pa
import torch

from vitascope import storage
from vitascope.encode.captions import CaptionStates
from vitascope.encode.codecs import make_codec, psnr_db
from vitascope.encode.frames import frames_of
from vitascope.encode.plan import Drop, stored_in, tasks_of
from vitascope.encode.samples import Encoded, Moments, shard_table
from vitascope.encode.settings import EncodeSettings
from vitascope.encode.shards import ShardNote, facts_hash, read_shard, shard_uri, write_shard
from vitascope.errors import Failed, Mistake
from vitascope.records import SAMPLES


def device_of(settings: EncodeSettings) -> torch.device:
    """The device of an encoder process. Raises Mistake if it should have a GPU and has none."""
    if settings.gpus and not torch.cuda.is_available():
        raise Mistake(f"encode.gpus is {settings.gpus:g}, and CUDA is not to be had here; set it to 0")
    return torch.device("cuda" if settings.gpus else "cpu")


@functools.lru_cache(maxsize=1)
def _captions(settings: EncodeSettings, latents: str) -> CaptionStates:
    """The text encoder of this process."""
    return CaptionStates(settings, latents, device_of(settings))


class CaptionEncoder:
    """Commits the states of captions that several shards need; an actor that keeps the text encoder."""

    def __init__(self, settings: EncodeSettings, latents: str) -> None:
        self._states = _captions(settings, latents)

    def __call__(self, row: pa.Table) -> pa.Table:
        """Takes one row of `captions`; gives their number as `done`."""
        captions = row["captions"][0].as_py()
        self._states.commit(captions)
        return pa.table({"done": [len(captions)]})


def encode_captions(row: pa.Table, *, settings: EncodeSettings, latents: str) -> pa.Table:
    """As `CaptionEncoder`, which `encode_shard` shares the text encoder with."""
    return CaptionEncoder(settings, latents)(row)


class ShardEncoder:
    """Turns decoded shards into committed ones; an actor that keeps codec and text encoder.

    Raises:
        Mistake: `settings.gpus` is above 0, and this process has no GPU.
    """

    def __init__(self, settings: EncodeSettings, latents: str) -> None:
        self._device = device_of(settings)
        self._codec = make_codec(settings, self._device)
        self._text = _captions(settings, latents)
        self._latents = latents

    def __call__(self, decoded: pa.Table) -> pa.Table:
        """Commits the shard of the one row that `decode_shard` made, and gives the outcome of its tasks.

        An existing shard is left untouched: if an actor dies, Ray re-runs all its tasks,
        including committed ones.

        Returns:
            One row: `shard`; `samples`, their number; `facts`, records.SAMPLES as `storage.stream_bytes`;
            `drops`, the reason of each.

        Raises:
            DamagedShard: the existing shard is damaged.
            Failed: the existing shard was planned otherwise.
        """
        uri, key = shard_uri(self._latents, decoded["shard"][0].as_py()), decoded["key"][0].as_py()
        shard = read_shard(uri)
        if shard is None:
            rows, note = self._encoded(decoded)
            shard = (note, rows.select(SAMPLES.names)) if write_shard(uri, rows, note) else read_shard(uri)
        if shard is None or shard[0].key != key:
            raise Failed(
                f"{uri} has been written by another run meanwhile; let one run of vitascope encode at a time "
                "write into the folder, and run this one again"
            )
        note, samples = shard
        facts = pa.array([storage.stream_bytes(samples)], pa.large_binary())
        reasons = pa.array([[drop.reason for drop in note.drops]], pa.list_(pa.string()))
        columns = {"shard": decoded["shard"], "samples": [len(samples)], "facts": facts, "drops": reasons}
        return pa.table(columns)

    def _encoded(self, decoded: pa.Table) -> tuple[pa.Table, ShardNote]:
        """The shard's records.LATENTS, and the note about them."""
        tasks = tasks_of(decoded)
        captions = [tasks[number].caption for number in decoded["decoded"][0].as_py()]
        texts = self._text.of(captions, stored_in(decoded))
        encoded: list[Encoded] = []
        moments = Moments.none(self._codec.channels)
        for (task, frames), text in zip(frames_of(decoded, tasks), texts, strict=True):
            latent, psnr = self._encode(frames)
            encoded.append(Encoded(task, latent.cpu(), text, psnr))
            moments += Moments.of(latent)
        rows = shard_table(decoded["shard"][0].as_py(), encoded)
        return rows, ShardNote(
            key=decoded["key"][0].as_py(),
            text_dim=self._text.dim,
            n_samples=len(rows),
            facts_hash=facts_hash(rows.select(SAMPLES.names)),
            drops=[Drop(**row) for row in decoded["drops"][0].as_py()],
            moments=moments,
        )

    def _encode(self, frames: np.ndarray) -> tuple[torch.Tensor, float]:
        """The latent as bf16, and the PSNR in dB of what that gives back."""
        pixels = torch.from_numpy(frames).to(self._device)
        latent = self._codec.encode(pixels).to(torch.bfloat16)
        return latent, psnr_db(pixels, self._codec.decode(latent))


def encode_shard(decoded: pa.Table, *, settings: EncodeSettings, latents: str) -> pa.Table:
    """As `ShardEncoder`; the process keeps one for later shards with the same settings."""
    return _kept(settings, latents)(decoded)


_kept = functools.lru_cache(maxsize=1)(ShardEncoder)

"""The states of captions, each computed once for all shards.

A caption that a committed sample has, here or in a folder of latents with the same text encoder, is read from
that sample's shard. One that several new shards need is encoded before them: its states wait in a file, until
the index names the shards. So only the captions of a single shard are encoded along with it.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import safetensors
import safetensors.torch
import torch

from vitascope import storage
from vitascope.encode.plan import PlannedShard, StoredCaption
from vitascope.encode.settings import EncodeSettings
from vitascope.encode.shards import INDEX, no_caption, put_no_caption, read_index, read_samples
from vitascope.encode.text import make_text_encoder

TOGETHER = 32
"""Captions encoded between two commits: what a worker that is killed has to do again, at most."""

_FOLDER, _STATES = "texts", "states"
_PLACE = ["caption", "shard", "row"]


class CaptionStates:
    """The states of captions: read if they are stored, else encoded. The encoder is loaded when needed.

    Before the first is encoded, the states that stand for no caption are committed.
    """

    def __init__(self, settings: EncodeSettings, latents: str, device: torch.device) -> None:
        self._encoder, self._latents = make_text_encoder(settings, device), latents
        self.dim, self._begun = self._encoder.dim, False

    def of(self, captions: Sequence[str], stored: Sequence[StoredCaption] = ()) -> list[torch.Tensor]:
        """Per caption (n_tokens, dim), float32, or bf16 if it comes from a file.

        One whose file is missing or damaged is encoded.
        """
        wanted = set(captions)
        with ThreadPoolExecutor(16) as pool:
            read = pool.map(_read, kept := [one for one in stored if one.caption in wanted])
            states = {
                one.caption: states for one, states in zip(kept, read, strict=True) if states is not None
            }
        states |= self._encoded(sorted(wanted - states.keys()))
        return [states[caption] for caption in captions]

    def commit(self, captions: Sequence[str]) -> None:
        """Commits the states of captions for several shards; an existing file is left untouched."""
        for begin in range(0, len(captions), TOGETHER):
            some = captions[begin : begin + TOGETHER]
            missing = [caption for caption in some if not storage.exists(_location(self._latents, caption))]
            for caption, states in self._encoded(missing).items():
                content = safetensors.torch.save({_STATES: states.to(torch.bfloat16).contiguous()})
                storage.create(_location(self._latents, caption), content)

    def _encoded(self, captions: list[str]) -> dict[str, torch.Tensor]:
        if not captions:
            return {}
        if not self._begun:
            put_no_caption(self._latents, self._encoder.encode([""])[0])
            self._begun = True
        return dict(zip(captions, self._encoder.encode(captions), strict=True))


def plan_captions(
    shards: Sequence[PlannedShard], latents: str, stored: dict[str, StoredCaption]
) -> tuple[list[PlannedShard], list[str]]:
    """The shards with the files of their captions' states, and the captions to encode before them, in order.

    Args:
        stored: captions whose states are in a file.
    """
    captions = [{task.caption for task in shard.tasks} for shard in shards]
    times = Counter(caption for each in captions for caption in each)
    first = sorted(c for c, n in times.items() if n > 1 and c and c not in stored)
    known = stored | {caption: StoredCaption(caption, latents) for caption in first}
    planned = [
        replace(shard, stored=[known[caption] for caption in sorted(each & known.keys())])
        for shard, each in zip(shards, captions, strict=True)
    ]
    return planned, first


def find_stored(
    latents: str, settings: EncodeSettings, samples: pa.Table, shards: Iterable[PlannedShard]
) -> dict[str, StoredCaption]:
    """The captions of `shards` that a sample has: one of `samples`, or of another folder next to `latents`.

    Args:
        samples: caption, shard and row of what `latents` holds.
    """
    wanted = {task.caption for shard in shards for task in shard.tasks} - {""}
    found = _among(samples, latents, wanted)
    for folder in _same_text(latents, settings) if wanted - found.keys() else ():
        more = _among(read_index(folder, _PLACE), folder, wanted - found.keys())
        if more:  # and then this folder may need no encoder
            put_no_caption(latents, no_caption(folder))
        found |= more
    return found


def forget_waiting(latents: str) -> None:
    """Deletes the files of states that waited for their shards, which hold them now."""
    storage.delete(storage.join(latents, _FOLDER))


def _among(samples: pa.Table, latents: str, wanted: set[str]) -> dict[str, StoredCaption]:
    here = samples.select(_PLACE).filter(pc.is_in(samples["caption"], pa.array(sorted(wanted), pa.string())))
    return {row["caption"]: StoredCaption(latents=latents, **row) for row in storage.iter_rows(here)}


def _same_text(latents: str, settings: EncodeSettings) -> list[str]:
    """The other folders of latents whose captions the same text encoder has encoded."""
    fingerprint = make_text_encoder(settings).fingerprint
    same = []
    parent, _, own = latents.rpartition("/")
    for folder in storage.level(parent).folders:
        with suppress(FileNotFoundError, ValueError):  # none yet, or damaged
            facts = storage.read_json(storage.join(folder, "encode.json"))
            visible = storage.exists(storage.join(folder, INDEX))
            if folder.rpartition("/")[2] != own and visible and facts.get("text_fingerprint") == fingerprint:
                same.append(folder)
    return same


def _location(latents: str, caption: str) -> str:
    name = hashlib.blake2b(caption.encode(), digest_size=20).hexdigest()
    return storage.join(latents, _FOLDER, f"{name}.safetensors")


def _read(stored: StoredCaption) -> torch.Tensor | None:
    """bf16 (n_tokens, dim); None if it cannot be read, or is of another caption."""
    with suppress(OSError, ValueError, safetensors.SafetensorError):
        if stored.shard is None:
            return safetensors.torch.load(storage.read_bytes(_location(stored.latents, stored.caption)))[
                _STATES
            ]
        (sample,) = read_samples(stored.latents, [(stored.shard, stored.row)])
        return sample.text if sample.caption == stored.caption else None
    return None

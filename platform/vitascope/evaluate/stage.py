"""Held-out loss per size bucket and noise level."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch

from vitascope import storage
from vitascope.config import Settings
from vitascope.encode.fingerprint import latents_folder
from vitascope.encode.shards import read_index, read_samples
from vitascope.errors import Mistake
from vitascope.feed.packs import Pack, collate
from vitascope.feed.source import segment_of
from vitascope.model import flow
from vitascope.model.formats.card import load_card
from vitascope.model.formats.check import rebased
from vitascope.model.formats.load import load_model
from vitascope.model.formats.pipeline import is_pipeline
from vitascope.model.network import Network
from vitascope.progress import track
from vitascope.records import VideoSize
from vitascope.stages.registry import Summary
from vitascope.stages.running import running


def run(settings: Settings) -> Summary:
    """Measures the run's model on every held-out sample at each of `evaluate.timesteps` that it is for.

    Writes evaluate/losses.json: `timesteps`, `by_size` (size, samples, loss at each timestep) and `loss`, the
    mean over the samples at each timestep. All frames are to be generated, the noise is the same in every
    run, and training measures its held-out loss in the same way (`flow.Probe`).

    Raises:
        Missing: the latents or the model do not exist.
        Mistake: the model was trained on other latents, or at none of these noise levels, or is a published
            pipeline.
    """
    with running(settings, "evaluate") as summary:
        summary |= _measured(settings)
    return summary


def _measured(settings: Settings) -> Summary:
    latents = latents_folder(settings)
    rows = [row for row in read_index(latents).to_pylist() if row["split"] == "val"]
    device = "cuda" if settings.train.use_gpu else "cpu"
    folder = settings.generate.model or settings.path("model")
    if is_pipeline(folder):
        why = "is a published pipeline, not a model that was trained on the run's latents"
        raise Mistake(f"generate.model = {folder} {why}; leave generate.model out to evaluate")
    card = rebased(folder, load_card(folder), settings.model.start_from)
    model, _ = load_model(folder, device, card)
    if card.fingerprint != latents.rpartition("/")[2]:
        raise Mistake(
            f"the model was trained on latents {card.fingerprint}, the settings' are {latents}; "
            "evaluate with the encode settings it was trained with"
        )
    timesteps = settings.evaluate.timesteps_within(card.noise_range)
    if not timesteps:
        raise Mistake(
            f"the model was trained at noise levels {card.noise_range[0]:g} to {card.noise_range[1]:g}, and "
            "evaluate.timesteps has none of them; add one"
        )
    losses: dict[str, list[list[float]]] = defaultdict(list)
    with track(len(rows), "evaluate") as advance:
        for row in rows:
            place = (row["shard"], row["row"])
            packs = _packs(latents, place, patch=card.model.patch, probe=flow.Probe(timesteps))
            size = str(VideoSize(row["n_frames"], row["height"], row["width"]))
            losses[size].append([_loss(model, pack.to(device)) for pack in packs])
            advance(1)
    document = _document(timesteps, losses)
    storage.put_json(settings.path("evaluate", "losses.json"), document)
    return document | {"samples": len(rows)}


def _packs(latents: str, place: tuple[int, int], *, patch: int, probe: flow.Probe) -> Iterator[Pack]:
    """A pack of one sample at each of the probe's levels."""
    (sample,) = read_samples(latents, [place])
    for number in range(len(probe.levels)):
        yield collate([segment_of(sample, patch, number, draws=probe, without=sample.text[:0])])


def _loss(model: Network, pack: Pack) -> float:
    """Mean squared error of the velocity."""
    with torch.no_grad():
        return float(flow.sample_losses(model, pack)[0])


def _document(timesteps: tuple[float, ...], losses: dict[str, list[list[float]]]) -> Summary:
    def mean(values: list[list[float]]) -> list[float]:
        return [float(v) for v in np.mean(values, axis=0)]

    order = sorted(losses, key=lambda size: [int(part) for part in size.split("x")])
    every = [values for size in order for values in losses[size]]
    return {
        "timesteps": list(timesteps),
        "by_size": [
            {"size": size, "samples": len(losses[size]), "loss": mean(losses[size])} for size in order
        ],
        "loss": mean(every) if every else [],
    }

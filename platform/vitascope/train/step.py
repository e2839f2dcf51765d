"""One training step, and its log row."""

import math
import resource
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from vitascope.feed.stream import Step
from vitascope.model import flow
from vitascope.model.cost import BACKWARD_AND_FORWARD, WITHOUT_WEIGHTS
from vitascope.records import stable_int
from vitascope.train.engine import Engine, Ranks
from vitascope.train.log import Row


class SkippedPack(NamedTuple):
    """A pack of a skipped step; the loss is None if it is not finite."""

    loss: float | None
    sample_ids: list[int]


@dataclass(frozen=True)
class Taken:
    """The result of a step: its row for the log and, if it was skipped, this rank's packs."""

    row: Row
    packs: list[SkippedPack] = field(default_factory=list)


def take_step(engine: Engine, ranks: Ranks, step: Step) -> Taken:
    """One global step: this rank's packs forward and backward, then the update.

    The update is skipped on all ranks if the loss or the gradient is not finite on any.
    """
    started, number, wait_s = time.perf_counter(), engine.step_number, 0.0
    losses, ids = [], []
    for n in range(engine.passes):
        waiting = time.perf_counter()
        pack = next(step.packs)
        torch.manual_seed(stable_int(*pack.noise_keys.tolist()))  # dropout is that of the pack, on any rank
        pack = pack.to(ranks.device)
        wait_s += time.perf_counter() - waiting
        loss = flow.loss(engine.model, pack) / step.n_tokens
        engine.backward(loss, last=n == engine.passes - 1)
        losses.append(loss.detach())
        ids.append(pack.sample_ids)
    loss_sum, wait_sum = sum_over_ranks([float(torch.stack(losses).double().sum()), wait_s], ranks)
    norm, rate = engine.step(discard=not math.isfinite(loss_sum))
    seconds = time.perf_counter() - started
    skipped = not (math.isfinite(loss_sum) and math.isfinite(norm))
    row: Row = {
        "step": number,
        "epoch": step.position.epoch,
        "loss": finite(loss_sum),
        "grad_norm": finite(norm),
        "lr": rate,
        "tokens": step.n_tokens,
        "step_s": seconds,
        "tokens_per_s": step.n_tokens / seconds,
        "useful_token_share": step.useful_token_share,
        "cost_spread": step.cost_spread,
        "data_wait_share": wait_sum / ranks.size / seconds,
        "flops_per_s": (WITHOUT_WEIGHTS if engine.adapts else BACKWARD_AND_FORWARD) * step.flops / seconds,
        "not_finite": float(skipped),
    }
    packs = zip(losses, ids, strict=True) if skipped else ()
    return Taken(row, [SkippedPack(finite(float(loss)), of.tolist()) for loss, of in packs])


def finite(value: float) -> float | None:
    """The value, or None if it is not finite: JSON has no number for that."""
    return value if math.isfinite(value) else None


def peak_memory_bytes(device: torch.device) -> int:
    """The peak memory of this rank: of its GPU, or without one of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB


def sum_over_ranks(values: list[float], ranks: Ranks) -> list[float]:
    """Adds up values over the ranks, in float64."""
    total = torch.tensor(values, dtype=torch.float64, device=ranks.device)
    dist.all_reduce(total)
    return total.tolist()


def gather_over_ranks(value: Any, ranks: Ranks) -> list[Any]:
    """The value of every rank, in their order, on all of them."""
    values: list[Any] = [None] * ranks.size
    dist.all_gather_object(values, value)
    return values

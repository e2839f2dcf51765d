"""One training step, and what it says of itself."""

import math
import resource
import time
from typing import Any

import torch
import torch.distributed as dist

from vitascope.feed.stream import Step
from vitascope.model import flow
from vitascope.train.engine import Engine, Ranks

BACKWARD_AND_FORWARD = 3  # a backward pass costs about twice its forward pass

PEAK_FLOPS_PER_S = {
    "B200": 2250e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
}
"""Dense bfloat16 peaks of GPUs from their data sheets; a name that contains others stands before them."""


def take_step(engine: Engine, ranks: Ranks, step: Step) -> dict[str, Any]:
    """One global step: this rank's packs forward and backward, then the update. Returns the step's row."""
    started, number, wait_s = time.perf_counter(), engine.step_number, 0.0
    losses = []
    for n in range(engine.passes):
        waiting = time.perf_counter()
        pack = next(step.packs).to(ranks.device)
        wait_s += time.perf_counter() - waiting
        loss = flow.loss(engine.model, pack) / step.n_tokens
        engine.backward(loss, last=n == engine.passes - 1)
        losses.append(loss.detach())
    norm, rate = engine.step()
    loss_sum, wait_sum = sum_over_ranks([float(torch.stack(losses).double().sum()), wait_s], ranks)
    seconds = time.perf_counter() - started
    return {
        "step": number,
        "epoch": step.position.epoch,
        "loss": loss_sum,
        "grad_norm": norm,
        "lr": rate,
        "tokens": step.n_tokens,
        "step_s": seconds,
        "tokens_per_s": step.n_tokens / seconds,
        "useful_token_share": step.useful_token_share,
        "cost_spread": step.cost_spread,
        "data_wait_share": wait_sum / ranks.size / seconds,
        "flops_per_s": BACKWARD_AND_FORWARD * step.flops / seconds,
        "not_finite": float(not (math.isfinite(loss_sum) and math.isfinite(norm))),
    }


def peak_flops_per_s(device: torch.device, bf16: bool) -> float | None:
    """What a GPU could reach; None for other devices, GPUs that are not listed, and other number formats."""
    if device.type != "cuda" or not bf16:
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS_PER_S.items() if part in name), None)


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory this rank has held: of its GPU, or else of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB


def sum_over_ranks(values: list[float], ranks: Ranks) -> list[float]:
    """Adds up values over the ranks, in float64."""
    total = torch.tensor(values, dtype=torch.float64, device=ranks.device)
    dist.all_reduce(total)
    return total.tolist()

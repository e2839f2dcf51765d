"""What training loops without Ray need, for several benchmarks."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import nn

from vitascope.feed.packs import Pack
from vitascope.model import flow
from vitascope.train.settings import TrainSettings

if TYPE_CHECKING:  # the engine needs DeepSpeed, the bare loop does not
    from vitascope.train.engine import Ranks


class Bare:
    """A plain mixed-precision loop for one device, without log and without waiting for the loss.

    Weights in the model's precision with float32 masters, flow.loss, backward, clip_grad_norm_, fused AdamW
    on the masters, which are copied back to the weights. With an EMA, that of the masters is updated, too.
    """

    def __init__(self, model: nn.Module, settings: TrainSettings, *, with_ema: bool = False) -> None:
        self.model, self.settings = model, settings
        self.weights: list[torch.Tensor] = list(model.parameters())
        self.masters = [weight.detach().float() for weight in self.weights]
        self.ema = [master.clone() for master in self.masters] if with_ema else []
        self.optimizer = torch.optim.AdamW(
            self.masters, lr=settings.lr, betas=(0.9, 0.99), weight_decay=settings.weight_decay, fused=True
        )

    def step(self, packs: Sequence[Pack]) -> None:
        """One step on these packs, which are on the model's device."""
        n_tokens = sum(pack.n_tokens for pack in packs)
        for pack in packs:
            (flow.loss(self.model, pack) / n_tokens).backward()
        for master, weight in zip(self.masters, self.weights, strict=True):
            assert weight.grad is not None, "every weight takes part in every pass"
            master.grad, weight.grad = weight.grad.float(), None
        torch.nn.utils.clip_grad_norm_(self.masters, self.settings.grad_clip)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(self.weights, self.masters)
            if self.ema:
                torch._foreach_lerp_(self.ema, self.masters, 1 - self.settings.ema_decay)


def start_ranks(kind: str) -> "Ranks":
    """This process as one of torchrun's, or alone, on `cuda` or `cpu`."""
    from vitascope.train.engine import Ranks

    alone = {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }
    for name, value in alone.items():
        os.environ.setdefault(name, value)
    device = torch.device(kind, int(os.environ["LOCAL_RANK"])) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    return Ranks(dist.get_rank(), dist.get_world_size(), device)

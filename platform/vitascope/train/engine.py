"""DeepSpeed ZeRO-3 around the model, with its EMA."""

import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitascope.model.formats.card import ModelCard
from vitascope.model.formats.stored import Weights
from vitascope.model.lora import is_adapter
from vitascope.model.network import Network
from vitascope.precision import Precision
from vitascope.train.schedule import ema_decay, learning_rate
from vitascope.train.settings import TrainSettings
from vitascope.train.shards import ShardedState, Shards, part_of, write_shard

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed picks its accelerator when it is imported
    os.environ.setdefault(
        "LOCAL_SIZE", "1"
    )  # without it DeepSpeed starts numactl in every step, to count CPUs
logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
# DeepSpeed calls collectives by names that newer torch versions rename.
warnings.filterwarnings("ignore", "`torch.distributed.*is deprecated", FutureWarning)
import deepspeed  # noqa: E402
from deepspeed.utils import set_z3_leaf_modules  # noqa: E402

# An inference extension, which takes a minute to compile at its first use.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

ZERO_STAGE = 3
"""Weights, gradients and optimizer state are all split over the ranks."""

SMALL_WEIGHT = 1_000_000
"""Weights with fewer elements stay whole on every rank: gathering them in every pass costs more than it
saves, and in models wide enough to need the memory few weights are this small."""

KINDS = ("master", "exp_avg", "exp_avg_sq", "ema")
"""The tensors that a checkpoint holds of every parameter, each float32."""


@dataclass(frozen=True)
class Ranks:
    """This process among the processes of the run."""

    rank: int
    size: int
    device: torch.device


class Engine:
    """A model whose weights, gradients, optimizer state and EMA are each split over the ranks.

    The EMA is kept next to the float32 master weights of this rank and is never gathered.
    """

    def __init__(
        self, model: Network, settings: TrainSettings, ranks: Ranks, *, passes: int, precision: Precision
    ) -> None:
        self._settings, self._ranks, self.passes = settings, ranks, passes
        optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=settings.lr,
            betas=(0.9, 0.99),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        set_z3_leaf_modules(
            model, list(type(model).leaves)
        )  # gathered whole, a hook each, not one a submodule
        config = _config(settings, passes, precision)
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=config, dist_init_required=False
        )
        self._zero = self._engine.optimizer
        self._ema = [flat.detach().clone() for flat in self._masters]
        self.step_number = self.updates = 0

    @property
    def adapts(self) -> bool:
        """Whether adapters are trained, of weights that are frozen."""
        return not all(parameter.requires_grad for parameter in self._engine.module.parameters())

    @property
    def model(self) -> nn.Module:
        """The model to call; its weights are gathered as the pass needs them."""
        return self._engine

    @property
    def _masters(self) -> list[Tensor]:
        return self._zero.fp32_partitioned_groups_flat

    def train(self, training: bool) -> None:
        """Training or evaluation mode."""
        self._engine.train(training)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Adds the gradients of this rank's part of the step's loss; `last` for the step's last pass.

        DeepSpeed averages over ranks; the step's loss is a sum, hence the factor.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * self._ranks.size, scale_wrt_gas=False)

    def step(self, *, discard: bool = False) -> tuple[float, float]:
        """Updates weights and EMA; returns the gradient's norm before clipping and the learning rate.

        If the gradient is not finite on any rank, or if all ranks pass `discard`, the step is skipped:
        weights, moments, EMA and the schedules are unchanged, and the returned norm is not finite.
        """
        rate = learning_rate(self._settings, self.updates)
        for group in self._zero.optimizer.param_groups:
            group["lr"] = rate
        if discard:  # DeepSpeed skips a step only if its gradient is not finite
            self._zero.averaged_gradients[0][0].fill_(torch.nan)
        self._engine.step()
        self.step_number += 1
        if self._engine.was_step_applied():
            self._update_ema()
            self.updates += 1
        return float(self._engine.get_global_grad_norm()), rate

    def _update_ema(self) -> None:
        weight = 1 - ema_decay(self._settings, self.updates)
        for ema, master in zip(self._ema, self._masters, strict=True):
            ema.lerp_(master.detach(), weight)

    def is_finite(self) -> bool:
        """Whether every master weight of this rank, and its EMA, is finite."""
        return all(bool(flat.isfinite().all()) for flat in (*self._masters, *self._ema))

    def save(self, folder: str | Path) -> Shards:
        """Writes this rank's shard; returns the state that all shards have in common."""
        size, rank = self._ranks.size, self._ranks.rank
        tensors = {}
        for name, parameter, parts in self._parts():
            own = part_of(parameter.ds_numel, size, rank)
            for kind, part in parts.items():
                tensors[f"{kind}/{name}"] = part[: own.stop - own.start]
        write_shard(folder, tensors, rank, size)
        shapes = {name: tuple(parameter.ds_shape) for name, parameter in self._trained()}
        return Shards(step=self.step_number, updates=self.updates, ranks=size, shapes=shapes)

    def load(self, folder: str | Path, shards: Shards) -> None:
        """Loads what `save` wrote, on any number of ranks."""
        source = ShardedState(folder, shards.ranks)
        self.step_number, self.updates = shards.step, shards.updates
        self._create_optimizer_state()
        for name, parameter, parts in self._parts():
            own = part_of(parameter.ds_numel, self._ranks.size, self._ranks.rank)
            for kind, part in parts.items():
                part.zero_()
                part[: own.stop - own.start].copy_(source.read(f"{kind}/{name}", parameter.ds_numel, own))
        self._publish_masters()

    def begin_with(self, weights: Weights) -> None:
        """Loads published weights, of which this rank reads only its parts: as master weights and EMA, or as
        the frozen weights of adapters, which keep theirs.
        """
        self._create_optimizer_state()
        trained = {name: parts for name, _, parts in self._parts()}
        for name, parameter in self._engine.module.named_parameters():
            if is_adapter(name):
                continue
            own = part_of(parameter.ds_numel, self._ranks.size, self._ranks.rank)
            values = weights.read_part(name, own.start, own.stop)
            parts = trained.get(name)
            for part in (parts["master"], parts["ema"]) if parts else (parameter.ds_tensor.data,):
                part.zero_()
                part[: len(values)].copy_(values)
        self._publish_masters()

    def _trained(self) -> Iterator[tuple[str, Any]]:
        """The parameters that training changes, by name."""
        named = self._engine.module.named_parameters()
        return ((name, parameter) for name, parameter in named if parameter.requires_grad)

    def _parts(self) -> Iterator[tuple[str, Any, dict[str, Tensor]]]:
        """Views of this rank's part of every trained parameter, one of each kind, including padding."""
        for name, parameter in self._trained():
            group, offset, numel = self._zero.grad_position[self._zero.get_param_id(parameter)]
            master = self._masters[group]
            state = self._zero.optimizer.state[master]
            wholes = (master, state["exp_avg"], state["exp_avg_sq"], self._ema[group])
            yield (
                name,
                parameter,
                {k: w.detach().narrow(0, offset, numel) for k, w in zip(KINDS, wholes, strict=True)},
            )

    def _create_optimizer_state(self) -> None:
        """Adam's moments, which it would otherwise create at its first step."""
        for master in self._masters:
            self._zero.optimizer.state[master] = {
                "step": torch.tensor(float(self.updates), device=master.device),
                "exp_avg": torch.zeros_like(master),
                "exp_avg_sq": torch.zeros_like(master),
            }

    def _publish_masters(self) -> None:
        """Copies the master weights into the compute weights, and small ones to every rank."""
        for low, master in zip(self._zero.fp16_partitioned_groups_flat, self._masters, strict=True):
            low.data.copy_(master.data)
        if small := self._zero.persistent_parameters:
            small[0].partition(small)
            small[0].all_gather(small)


def engine_of(
    card: ModelCard, settings: TrainSettings, ranks: Ranks, *, passes: int, precision: Precision
) -> Engine:
    """An engine around a new model.

    If the model is to start from published weights, no rank ever holds all of it: it is divided over the
    ranks module by module while it is built. Otherwise every rank draws the same fresh weights.
    """
    config = _config(settings, passes, precision)
    divided = card.model.start_from is not None
    # The number format follows from `config`: on a CPU without float16, DeepSpeed ignores a given dtype.
    with deepspeed.zero.Init(config_dict_or_path=config, enabled=divided):
        model = card.build()
    model.activation_checkpointing = settings.activation_checkpointing
    return Engine(model.to(ranks.device), settings, ranks, passes=passes, precision=precision)


def _config(settings: TrainSettings, passes: int, precision: Precision) -> dict[str, object]:
    """DeepSpeed's own settings. Gradients are summed and sent in float32, so ranks change little."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": passes,
        "gradient_clipping": settings.grad_clip,
        "zero_optimization": {
            "stage": ZERO_STAGE,
            "overlap_comm": settings.use_gpu,
            "contiguous_gradients": True,
            "stage3_param_persistence_threshold": SMALL_WEIGHT,
        },
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "steps_per_print": 10**9,
    }

"""The parts of gpu.py that measure this project alone.

machine: what it is, seconds to the first result, a matrix product, a copy, and every attention kernel.
kernels: the checks of tests/gpu against the CPU's results.
forward_small, train_small: Wan 2.1 1.3B with random weights in bf16. Packs of one size and a mix of images
    and videos, all of as many tokens; the training step is flow.loss, backward, AdamW on float32 masters and
    EMA, with and without activation checkpointing (without it in half as many tokens).
large: the shapes of Wan 2.2 TI2V 5B, forward and the training step with checkpointing.
engine: the training step of `vitascope train`, DeepSpeed's ZeRO-3 on one rank, without Ray.
generation: tokens per second by tokens of a pass, and the engine with many requests in a pass against one at
    a time, below and above saturation: the fewest tokens of a pass with 90 % of the most tokens per second.

FLOPs are of the model (model/cost.py); what checkpointing computes again does not count. gpu_sizes.py has the
networks, the packs and the estimates of memory.
"""

import gc
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import agreement
import torch
from gpu_run import Run, described, need, ratio
from gpu_sizes import CAPTIONS, LARGE, SMALL, TOY, Sizes, forward_bytes, training_bytes
from loops import Bare, start_ranks
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from wan_forward import fresh

from vitascope.feed.packs import Pack, collate
from vitascope.feed.patches import Grid
from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.sampler import Work
from vitascope.generate.denoise.schedule import Schedule
from vitascope.model import flow
from vitascope.model.attention import Boundaries, attention
from vitascope.model.cost import BACKWARD_AND_FORWARD
from vitascope.model.network import Network
from vitascope.train.settings import TrainSettings

SATURATED = 0.9
GUIDANCE = 5.0


def machine(run: Run) -> None:
    """What the machine is and has."""
    started = time.perf_counter()
    torch.ones(1, device=run.device).sum().item()
    facts: dict[str, Any] = {"first_result_s": round(time.perf_counter() - started, 2)}
    facts |= {"torch": torch.__version__, "cuda": torch.version.cuda}
    if run.device.type == "cuda":
        about = torch.cuda.get_device_properties(run.device)
        facts |= {"name": about.name, "memory_bytes": about.total_memory, "driver": driver_version()}
        facts |= {"capability": [about.major, about.minor], "cudnn": torch.backends.cudnn.version()}
        run.headline(gpu=about.name)
    run.headline(torch=torch.__version__)
    run.report("about", **facts)
    run.attempt("matmul", lambda: {"flops_per_s": round(run.matmul_flops_per_s())})
    source = torch.empty(1 << (10 if run.toy else 30), dtype=torch.uint8, device=run.device)
    copy = torch.empty_like(source)
    run.attempt(
        "copy", lambda: {"bytes_per_s": round(2 * source.nbytes / run.median_s(lambda: copy.copy_(source)))}
    )
    run.report("flash_implementations", found=flash_implementations())
    for name, kernel in attention_kernels(run).items():
        run.attempt(name, kernel)


def driver_version() -> str | None:
    """NVIDIA's driver; None if nvidia-smi does not say."""
    if not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return done.stdout.strip() or None


def flash_implementations() -> list[str]:
    """Those that `torch.nn.attention.activate_flash_attention_impl` knows here."""
    known = getattr(torch.nn.attention, "list_flash_attention_impls", list)
    return [str(name) for name in known()]


def attention_kernels(run: Run) -> dict[str, Callable[[], dict[str, Any]]]:
    """The measurement of each kernel: one segment of 32,760 tokens, 12 heads of 128 channels.

    What a machine lacks is a result, not a failure of the part.
    """
    n_tokens, heads, channels = (48, 2, 8) if run.toy else (32_760, 12, 128)
    parts = torch.randn(3, n_tokens, heads, channels, device=run.device).to(run.dtype)
    of = Boundaries.of([n_tokens], run.device)
    flops = 4 * n_tokens**2 * heads * channels
    q, k, v = (x.detach().requires_grad_() for x in parts)
    whole = [x.transpose(0, 1)[None] for x in (q, k, v)]  # 1 heads n channels

    def speeds(kernel: Callable[[], torch.Tensor]) -> dict[str, Any]:
        def both() -> None:
            out = kernel()
            out.backward(out.detach())

        try:
            with torch.no_grad():
                forward = run.median_s(kernel)
            return {
                "forward_flops_per_s": round(flops / forward),
                # the backward pass has five products for the forward's two
                "both_flops_per_s": round(3.5 * flops / run.median_s(both)),
            }
        except RuntimeError as error:
            return {"unavailable": described(error)["message"]}

    def of_torch(backend: SDPBackend) -> torch.Tensor:
        with sdpa_kernel(backend):
            return functional.scaled_dot_product_attention(*whole)

    kernels = {"ours": lambda: attention(q, k, v, (of, of))}
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        kernels[backend.name.lower()] = lambda backend=backend: of_torch(backend)
    return {name: lambda kernel=kernel: speeds(kernel) for name, kernel in kernels.items()}


def kernels(run: Run) -> None:
    """Raises AssertionError at the end if a result is not the CPU's."""
    found: dict[str, agreement.Agreement] = {}

    def compared(name: str) -> dict[str, Any]:
        found[name] = agreement.CHECKS[name](run.device)
        return shown(found[name])

    def coded(precision: str) -> dict[str, Any]:
        checks = autoencoder_checks(run, precision)
        found.update({f"{precision}_{name}": check for name, check in checks.items()})
        return {name: shown(check) for name, check in checks.items()}

    for name in list(agreement.CHECKS)[: -1 if run.toy else None]:
        run.attempt(name, lambda name=name: compared(name))
    if find_spec("diffusers"):
        for precision in ("float32", "bf16")[: 1 if run.toy else 2]:
            run.attempt(f"autoencoder_{precision}", lambda precision=precision: coded(precision))
    else:
        run.report("autoencoder", skipped="diffusers is not installed")
    errors = [found[name].error for name in agreement.CHECKS if name in found]
    run.headline(kernels_largest_error=max(errors, default=None))
    wrong = [name for name, check in found.items() if not check.holds]
    assert not wrong, f"not the CPU's results: {wrong}"


def shown(check: agreement.Agreement) -> dict[str, Any]:
    """A check for the report."""
    return {"error": check.error, "allowed": check.allowed, "holds": check.holds}


def autoencoder_checks(run: Run, precision: str) -> dict[str, agreement.Agreement]:
    """Those of a small one with random weights."""
    from diffusers import AutoencoderKLWan

    with TemporaryDirectory() as folder:
        torch.manual_seed(0)
        AutoencoderKLWan(base_dim=8, num_res_blocks=1).save_pretrained(folder)
        return agreement.autoencoder(run.device, Path(folder), precision, 16 if run.toy else 64)


def forward_small(run: Run) -> None:
    """Wan 2.1 1.3B."""
    forward(run, TOY if run.toy else SMALL, "1.3b")


def forward(run: Run, sizes: Sizes, title: str) -> Network:
    """Reports every pack; returns the network."""
    model = sizes.network(run.device, run.dtype).eval()
    matmul = run.matmul_flops_per_s()
    found = {
        name: run.attempt(f"forward_{name}", one_forward(run, sizes, model, grids, matmul))
        for name, grids in sizes.packs.items()
    }
    run.headline(
        **{
            f"forward_{title}_percent_of_peak": (found["mix"] or {}).get("percent_of_peak"),
            f"forward_{title}_mix_over_one_video": ratio(found["mix"], found["one_video"]),
        }
    )
    return model


def one_forward(
    run: Run, sizes: Sizes, model: Network, grids: Sequence[Grid], matmul: float
) -> Callable[[], dict[str, Any]]:
    """The measurement of a pack."""

    def measured() -> dict[str, Any]:
        samples = sizes.samples(grids)
        pack = collate([sample.segment for sample in samples]).to(run.device)
        with torch.inference_mode():
            seconds = run.median_s(lambda: model(fresh(pack)))
        rates = run.rates(pack.n_tokens, sizes.flops(samples), seconds, matmul)
        return rates | {
            "peak_bytes": run.peak_bytes(),
            "estimated_bytes": forward_bytes(sizes, pack.n_tokens),
        }

    return measured


def train_small(run: Run) -> None:
    """Wan 2.1 1.3B."""
    sizes = TOY if run.toy else SMALL
    model = sizes.network(run.device, run.dtype)
    packs = {name: sizes.packs[name] for name in ("mix", "short_videos", "images")}
    found = train(run, sizes, model, packs)
    run.headline(train_mix_over_short_videos=ratio(found["mix"], found["short_videos"]))
    without = train(run, sizes, model, {"half": sizes.half}, checkpointing=False)
    again = train(run, sizes, model, {"half": sizes.half})
    run.headline(train_without_checkpointing_over_with=ratio(without["half"], again["half"]))


def large(run: Run) -> None:
    """Wan 2.2 TI2V 5B."""
    sizes = TOY if run.toy else LARGE
    model = forward(run, sizes, "5b")
    found = train(run, sizes, model, {name: sizes.packs[name] for name in ("mix", "one_video")})
    run.headline(train_5b_mix_over_one_video=ratio(found["mix"], found["one_video"]))


Steps = dict[str, dict[str, Any] | None]


def train(
    run: Run, sizes: Sizes, model: Network, packs: dict[str, list[Grid]], *, checkpointing: bool = True
) -> Steps:
    """Reports a training step on every pack, in a plain loop with EMA."""
    gc.collect()  # an earlier loop's optimizer
    model.train()
    model.activation_checkpointing = checkpointing
    loop = Bare(model, TrainSettings(), with_ema=True)

    def step(pack: Pack) -> None:
        loop.step([fresh(pack)])

    ending = "" if checkpointing else "_without_checkpointing"
    found = steps(run, sizes, packs, step, ending=ending, checkpointing=checkpointing)
    model.zero_grad(set_to_none=True)
    return found


def steps(
    run: Run,
    sizes: Sizes,
    packs: dict[str, list[Grid]],
    step: Callable[[Pack], None],
    *,
    ending: str = "",
    checkpointing: bool = True,
) -> Steps:
    """Reports `step` on every pack."""
    matmul = run.matmul_flops_per_s()

    def measured(grids: Sequence[Grid]) -> dict[str, Any]:
        samples = sizes.samples(grids)
        pack = collate([sample.segment for sample in samples]).to(run.device)
        seconds = run.median_s(lambda: step(pack))
        flops = BACKWARD_AND_FORWARD * sizes.flops(samples)
        estimate = training_bytes(sizes, pack.n_tokens, checkpointing=checkpointing)
        rates = run.rates(pack.n_tokens, flops, seconds, matmul)
        return rates | {"peak_bytes": run.peak_bytes(), "estimated_bytes": estimate}

    return {
        name: run.attempt(f"train_{name}{ending}", lambda grids=grids: measured(grids))
        for name, grids in packs.items()
    }


def engine(run: Run) -> None:
    """Wan 2.1 1.3B with DeepSpeed; `train_small` has the same steps without."""
    need("deepspeed")
    sizes = TOY if run.toy else SMALL
    ranks = start_ranks(run.device.type)  # before the engine is imported, which needs DeepSpeed
    from vitascope.train.engine import Engine

    settings = TrainSettings(use_gpu=run.device.type == "cuda", activation_checkpointing=True)
    model = sizes.network(run.device, run.dtype).train()
    model.activation_checkpointing = True
    precision = "bf16" if run.dtype is torch.bfloat16 else "float32"
    ours = Engine(model, settings, ranks, passes=1, precision=precision)

    def step(pack: Pack) -> None:
        ours.backward(flow.loss(ours.model, fresh(pack)) / pack.n_tokens, last=True)
        norm, _ = ours.step()
        assert norm < float("inf"), f"the gradient's norm is {norm}"

    found = steps(run, sizes, {name: sizes.packs[name] for name in ("mix", "short_videos")}, step)
    run.headline(engine_tokens_per_s=(found["mix"] or {}).get("tokens_per_s"))
    torch.distributed.destroy_process_group()


def generation(run: Run) -> None:
    """Wan 2.1 1.3B."""
    sizes = TOY if run.toy else SMALL
    model = sizes.network(run.device, run.dtype).eval()
    small, large = sizes.requests
    saturation = run.attempt("saturation", lambda: curve(run, sizes, model, small))
    if saturation:
        run.headline(saturation_tokens=saturation["tokens"])
    for name, grid, n_requests, n_steps in (("below", small, 16, 8), ("above", large, 4, 3)):
        works = [work(run, sizes, grid, n_steps) for _ in range(n_requests)]
        found = run.attempt(f"{name}_saturation", lambda works=works: together_and_alone(run, model, works))
        run.headline(**{f"one_pack_over_one_at_a_time_{name}_saturation": (found or {}).get("ratio")})


def curve(run: Run, sizes: Sizes, model: Network, grid: Grid) -> dict[str, Any]:
    """Tokens per second of passes of 1, 2, 4, … requests, and from how many tokens it hardly rises.

    saturated: whether that is fewer than the most that were tried.
    """
    points = []
    for exponent in range(4 if run.toy else 8):
        samples = sizes.samples([grid] * 2**exponent)
        pack = collate([sample.segment for sample in samples]).to(run.device)
        with torch.inference_mode():
            seconds = run.median_s(lambda pack=pack: model(fresh(pack)))
        points.append((pack.n_tokens, round(pack.n_tokens / seconds)))
    most = max(rate for _, rate in points)
    tokens = next(n for n, rate in points if rate >= SATURATED * most)
    return {"tokens": tokens, "saturated": tokens < points[-1][0], "tokens_and_per_s": points}


def work(run: Run, sizes: Sizes, grid: Grid, n_steps: int) -> Work:
    """A guided request from noise, of `n_steps` steps."""
    dim = sizes.channels * sizes.settings.patch**2
    return Work(
        tokens=torch.randn(prod(grid), dim, device=run.device),
        grid=grid,
        given=torch.zeros(grid[0], dtype=torch.bool, device=run.device),
        schedule=Schedule.of(tuple(1 - n / n_steps for n in range(n_steps + 1))),
        guidance=(GUIDANCE,),
        text=torch.randn(CAPTIONS[1], sizes.text_dim, device=run.device),
        negative=torch.randn(CAPTIONS[0], sizes.text_dim, device=run.device),
    )


def together_and_alone(run: Run, model: Network, works: list[Work]) -> dict[str, Any]:
    """The engine with room for all requests in a pass, and for one."""
    each = works[0].load.n_tokens
    together = denoised(run, model, works, each * len(works))
    alone = denoised(run, model, works, each)
    return {
        "tokens_of_a_request": each,
        "together": together,
        "one_at_a_time": alone,
        "ratio": ratio(together, alone, "requests_per_s"),
    }


def denoised(run: Run, model: Network, works: list[Work], budget: int) -> dict[str, Any]:
    """The engine's rates with passes of at most `budget` tokens, after one request to warm up."""
    n_passes = 0

    def counted(pack: Pack) -> torch.Tensor:
        nonlocal n_passes
        n_passes += 1
        return model(pack)

    denoiser = Denoiser(Experts([counted], run.device.type), token_budget=budget)
    try:
        denoiser.submit(works[0]).result()
        n_passes, started = 0, time.perf_counter()
        futures = [denoiser.submit(work) for work in works]
        finished = [future.result() for future in futures]
        seconds = time.perf_counter() - started
    finally:
        denoiser.close()
    assert all(work.load.n_passes == 0 for work in finished), "a request has steps left"
    return {
        "passes": n_passes,
        "passes_per_s": round(n_passes / seconds, 3),
        "requests_per_s": round(len(works) / seconds, 3),
    }

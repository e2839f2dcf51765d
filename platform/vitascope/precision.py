"""The number format that a machine computes fast.

Matrix products in bf16 take a fraction of the time of float32 ones on processors and GPUs with instructions
for them. Without these, torch still computes them, 30 to 60 times slower than in float32, so nothing computes
in bf16 without asking this module.
"""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

Precision = Literal["bf16", "float32"]

DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "float32": torch.float32}

_SIDE = 256
_TRIES, _TRIED_S = 5, 0.05  # at least, each: on a busy machine most are interrupted
_BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx_ne_convert")  # of x86, as torch names them

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
"""Dense bfloat16 peaks of GPUs from their data sheets; a name that contains others comes before them."""


@dataclass(frozen=True)
class Machine:
    """The fast number format of a machine.

    precision: bf16 if the device has it, else float32. reason: a clause that says why.
    bf16_time: measured time of a matrix product in bf16 divided by float32; None for a GPU.
    """

    precision: Precision
    reason: str
    bf16_time: float | None = None


def inspect(device: torch.device) -> Machine:
    """The fast format of `device`, from torch, and on a CPU confirmed by timing two small products."""
    return _gpu(device) if device.type == "cuda" else _cpu()


def fastest(device: torch.device, wanted: torch.dtype) -> torch.dtype:
    """`wanted`, or float32 if the device computes products in `wanted` slowly."""
    if wanted is torch.float16:
        return wanted if device.type == "cuda" else torch.float32
    if wanted is torch.bfloat16:
        return DTYPES[inspect(device).precision]
    return wanted


def slowest(machines: Sequence[Machine]) -> Machine:
    """The machine that the others wait for in bf16: one without bf16 instructions, if any."""
    return max(machines, key=lambda m: (m.precision == "float32", m.bf16_time or 0.0))


def choose(wanted: str, recorded: Precision | None, machine: Machine) -> tuple[Precision, str]:
    """The precision of a run, and a sentence about it that names its cost here.

    Args:
        wanted: the setting; "auto" takes the checkpoint's, or without one the machine's.
        recorded: that of the checkpoint that the run continues from; None without one.
        machine: the slowest of those that compute.
    """
    fixed = recorded if wanted == "auto" else wanted
    chosen: Precision = machine.precision if fixed is None else "bf16" if fixed == "bf16" else "float32"
    if chosen == machine.precision:
        return chosen, f"computes in {chosen}: {machine.reason}"
    because = "like the checkpoint it continues" if wanted == "auto" else "as train.precision asks"
    cost = f"{machine.precision} would be faster"
    if machine.bf16_time:
        times = machine.bf16_time if chosen == "bf16" else 1 / machine.bf16_time
        cost = f"a matrix product takes {times:.2g} times as long as in {machine.precision}"
    return chosen, f"computes in {chosen}, {because}, though {machine.reason}: {cost}"


def peak_flops_per_s(device: torch.device, precision: Precision) -> float | None:
    """The peak of a GPU; None for other devices, unlisted GPUs and other number formats."""
    if device.type != "cuda" or precision != "bf16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS_PER_S.items() if part in name), None)


def _gpu(device: torch.device) -> Machine:
    name = torch.cuda.get_device_name(device)
    has = torch.cuda.is_bf16_supported(including_emulation=False)  # of the current device
    return Machine("bf16", f"{name} has bf16") if has else Machine("float32", f"{name} has no bf16")


@functools.cache
def _cpu() -> Machine:
    ratio = _bf16_time()
    if not _torch_reports_bf16():
        return Machine("float32", "this processor has no bf16 instructions", ratio)
    if ratio >= 1:
        return Machine("float32", "this processor computes bf16 no faster", ratio)
    return Machine("bf16", "this processor has bf16 instructions", ratio)


def _torch_reports_bf16() -> bool:
    """False if torch says that the processor has no bf16 instructions.

    Both queries are private to torch; one that it no longer answers counts as yes, and the timing decides.
    """
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    known = [capabilities[name] for name in _BF16_INSTRUCTIONS if name in capabilities]
    return (supported is None or bool(supported())) and (not known or any(known))


def _bf16_time() -> float:
    """Time of a product of two small matrices in bf16 divided by the time in float32."""
    square = torch.randn(_SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
    return _seconds(square.bfloat16()) / _seconds(square)


def _seconds(square: torch.Tensor) -> float:
    """The shortest time of a product of `square` with itself."""
    square @ square  # chooses and compiles the kernel
    times: list[float] = []
    while len(times) < _TRIES or sum(times) < _TRIED_S:
        started = time.perf_counter()
        square @ square
        times.append(time.perf_counter() - started)
    return min(times)

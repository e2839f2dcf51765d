"""The machine reports which number format it computes fast."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vitascope import precision
from vitascope.precision import Machine, choose, fastest, inspect, slowest

CPU = torch.device("cpu")
WITH = Machine("bf16", "this processor has bf16 instructions", 0.4)
WITHOUT = Machine("float32", "this processor has no bf16 instructions", 46.0)


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes torch report a processor, and products take as long as wished."""

    def make(reports: bool | None, capabilities: dict[str, bool] | None, bf16_time: float) -> None:
        precision._cpu.cache_clear()
        ask = (
            SimpleNamespace()
            if reports is None
            else SimpleNamespace(_is_mkldnn_bf16_supported=lambda: reports)
        )
        monkeypatch.setattr(torch.ops, "mkldnn", ask)
        if capabilities is None:
            monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
        else:
            monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
        monkeypatch.setattr(precision, "_bf16_time", lambda: bf16_time)

    yield make
    precision._cpu.cache_clear()


AVX2 = {"avx2": True, "avx512_bf16": False, "amx_bf16": False}
AMX = {"avx2": True, "avx512_bf16": True, "amx_bf16": True}


@pytest.mark.parametrize(
    ("reports", "capabilities", "bf16_time", "expected"),
    [
        (True, AMX, 0.3, "bf16"),
        (False, AVX2, 46.0, "float32"),
        (True, AVX2, 1.8, "float32"),  # AVX-512 without bf16: oneDNN emulates it
        (True, AVX2, 0.9, "float32"),  # a noisy measurement does not outweigh what torch reports
        (True, AMX, 3.0, "float32"),  # reported, and not confirmed
        (True, {"sve": True}, 0.5, "bf16"),  # not x86
        (None, None, 0.4, "bf16"),  # a torch that answers neither question is measured
        (None, None, 46.0, "float32"),
    ],
)
def test_a_processor_computes_in_bf16_only_if_it_has_it_and_it_is_faster(
    processor: Any, reports: bool | None, capabilities: dict, bf16_time: float, expected: str
) -> None:
    processor(reports, capabilities, bf16_time)
    assert inspect(CPU) == Machine(expected, inspect(CPU).reason, bf16_time)


def test_this_machine_is_not_trapped() -> None:
    """Whatever it is: the chosen format is not several times slower than the other."""
    machine = inspect(CPU)
    assert machine.bf16_time is not None
    assert (machine.bf16_time if machine.precision == "bf16" else 1 / machine.bf16_time) < 3


@pytest.mark.parametrize(("has", "expected"), [(True, "bf16"), (False, "float32")])
def test_a_gpu_without_bf16_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch, has: bool, expected: str
) -> None:
    def supported(including_emulation: bool) -> bool:
        return has or including_emulation  # torch emulates it on old GPUs, slowly

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    assert inspect(torch.device("cuda", 0)).precision == expected


@pytest.mark.parametrize("bf16_time", [46.0, 0.4])
def test_a_model_in_half_precision_is_computed_in_what_is_fast(processor: Any, bf16_time: float) -> None:
    processor(bf16_time < 1, AMX if bf16_time < 1 else AVX2, bf16_time)
    assert fastest(CPU, torch.bfloat16) == (torch.bfloat16 if bf16_time < 1 else torch.float32)
    assert fastest(CPU, torch.float16) == torch.float32
    assert fastest(CPU, torch.float32) == torch.float32


@pytest.mark.parametrize(
    ("wanted", "recorded", "machine", "chosen", "sentence"),
    [
        ("auto", None, WITH, "bf16", "computes in bf16: this processor has bf16 instructions"),
        ("auto", None, WITHOUT, "float32", "computes in float32: this processor has no bf16 instructions"),
        (
            "auto",
            "bf16",
            WITHOUT,
            "bf16",
            "like the checkpoint it continues, though this processor has no bf16 instructions: "
            "a matrix product takes 46 times as long as in float32",
        ),
        (
            "auto",
            "float32",
            WITH,
            "float32",
            "like the checkpoint it continues, though this processor has bf16 instructions: "
            "a matrix product takes 2.5 times as long as in bf16",
        ),
        (
            "bf16",
            None,
            WITHOUT,
            "bf16",
            "as train.precision asks, though this processor has no bf16 instructions: "
            "a matrix product takes 46 times as long as in float32",
        ),
        ("float32", "float32", WITHOUT, "float32", "computes in float32: this processor has no bf16"),
        (
            "float32",
            None,
            Machine("bf16", "NVIDIA H200 has bf16"),
            "float32",
            "though NVIDIA H200 has bf16: bf16 would be faster",
        ),
    ],
)
def test_a_run_says_what_it_computes_in_and_what_that_costs(
    wanted: str, recorded: Any, machine: Machine, chosen: str, sentence: str
) -> None:
    assert choose(wanted, recorded, machine)[0] == chosen
    assert sentence in choose(wanted, recorded, machine)[1]


def test_one_machine_without_bf16_decides_for_all() -> None:
    assert slowest([WITH, WITHOUT, WITH]) == WITHOUT
    assert slowest([WITH, Machine("bf16", "this processor has bf16 instructions", 0.9)]).bf16_time == 0.9


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("Tesla T4", None),
    ],
)
def test_the_peak_of_a_gpu_is_known_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, peak: float | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert precision.peak_flops_per_s(torch.device("cuda"), precision="bf16") == peak
    assert precision.peak_flops_per_s(torch.device("cuda"), precision="float32") is None
    assert precision.peak_flops_per_s(CPU, precision="bf16") is None

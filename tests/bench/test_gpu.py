"""The benchmark for GPUs, at toy size on the CPU, and how it treats parts that do not end well."""

import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from vitascope.model import wan
from vitascope.model.attention import Boundaries
from vitascope.model.network import Surroundings

BENCH = Path(__file__).parents[2] / "jobs" / "bench"
Line = dict[str, Any]
LIMIT_S = 20.0  # of a part that hangs: importing torch takes a few of them

BROKEN = """
import os, subprocess, sys, time

def works(run):
    run.report("number", value=1)
    run.headline(good=2)

def raises(run):
    run.report("before", value=3)
    raise ValueError("no such thing")

def one_case_raises(run):
    run.attempt("bad", lambda: {"value": 1 / 0})
    run.attempt("good", lambda: {"value": 4})

def dies(run):
    run.report("before", value=5)
    print("last words", flush=True)
    os._exit(7)

def hangs(run):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    run.report("before", child=child.pid)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """jobs/bench/gpu.py."""
    spec = importlib.util.spec_from_file_location("bench_gpu", BENCH / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_gpu"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sizes() -> Iterator[ModuleType]:
    """jobs/bench/gpu_sizes.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        yield importlib.import_module("gpu_sizes")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Line]:
    """The line of every part of a run at toy size, and the last one as "summary"."""
    out = tmp_path_factory.mktemp("gpu") / "lines"
    command = [sys.executable, str(BENCH / "gpu.py"), "--device", "cpu", "--toy", "--minutes", "20"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert out.read_text() == done.stdout
    *lines, summary = map(json.loads, done.stdout.splitlines())
    return {line["part"]: line for line in lines} | {"summary": summary}


def test_every_part_runs_and_the_last_line_sums_up(bench: ModuleType, toy: dict[str, Line]) -> None:
    names = ["packages", *(part.name for part in bench.PARTS)]
    assert list(toy) == [*names, "summary"]
    assert toy["summary"]["parts"] == dict.fromkeys(names, "ok")
    assert toy["packages"]["missing"] == []
    for name in names[1:]:
        assert 0 < toy[name]["seconds"] <= toy[name]["limit_s"]
        assert toy["summary"].items() >= toy[name]["headlines"].items()
    ratios = [v for name, v in toy["summary"].items() if "_over_" in name or name.endswith("per_s")]
    assert len(ratios) >= 20
    assert all(math.isfinite(v) and v > 0 for v in ratios)


def test_tokens_flops_and_memory_are_those_of_the_shapes(sizes: ModuleType, toy: dict[str, Line]) -> None:
    small, results = sizes.TOY, toy["forward_1.3b"]["results"]
    assert results.keys() == {f"forward_{name}" for name in small.packs}
    for name, grids in small.packs.items():
        row = results[f"forward_{name}"]
        assert row["tokens"] == sum(math.prod(grid) for grid in grids) == 48
        assert row["tokens_per_s"] == pytest.approx(48 / row["seconds"], rel=0.02)
        expected = small.flops(small.samples(grids))
        assert row["flops_per_s"] * row["seconds"] == pytest.approx(expected, rel=0.02)
        assert row["estimated_bytes"] == sizes.forward_bytes(small, 48)
        assert row["peak_bytes"] is None
    trained = toy["train_1.3b"]["results"]
    mix = trained["train_mix"]
    flops = 3 * small.flops(small.samples(small.packs["mix"]))
    assert mix["flops_per_s"] * mix["seconds"] == pytest.approx(flops, rel=0.02)
    assert trained["train_half_without_checkpointing"]["tokens"] == trained["train_half"]["tokens"] == 24
    assert toy["engine_1.3b"]["results"].keys() == {"train_mix", "train_short_videos"}
    assert toy["forward_and_train_5b"]["results"].keys() >= {"forward_mix", "train_mix", "train_one_video"}


def test_results_are_right(toy: dict[str, Line]) -> None:
    checks = dict(toy["kernels"]["results"])
    coded = checks.pop("autoencoder_float32")
    assert (len(checks), coded.keys()) == (4, {"latents", "frames"})
    assert all(check["holds"] and check["error"] < 0.02 for check in (*checks.values(), *coded.values()))
    assert max(toy["diffusers"]["results"]["float32_differences"].values()) < 1e-5
    assert "error" not in json.dumps([toy[name]["results"] for name in ("machine", "diffusers_compiled")])


def test_requests_share_passes(toy: dict[str, Line]) -> None:
    results = toy["generation"]["results"]
    for name, n_requests, n_steps in (("below", 16, 8), ("above", 4, 3)):
        found = results[f"{name}_saturation"]
        assert found["one_at_a_time"]["passes"] == n_requests * n_steps
        assert (
            n_steps <= found["together"]["passes"] <= n_requests * n_steps
        )  # some join after the first pass
    points = results["saturation"]["tokens_and_per_s"]
    assert [n for n, _ in points] == [4, 8, 16, 32]
    assert dict(points)[results["saturation"]["tokens"]] >= 0.9 * max(rate for _, rate in points)


def test_packs_of_a_network_have_equally_many_tokens(sizes: ModuleType) -> None:
    for network, n_tokens in ((sizes.SMALL, 32_760), (sizes.LARGE, 27_280), (sizes.TOY, 48)):
        counts = {sum(math.prod(grid) for grid in grids) for grids in network.packs.values()}
        assert counts == {n_tokens}
        assert sum(math.prod(grid) for grid in network.half) * 2 == n_tokens
    assert sizes.n_weights(sizes.SMALL) == 1_418_996_800
    assert 4.9e9 < sizes.n_weights(sizes.LARGE) < 5.1e9


class Kept(torch.autograd.Function):
    """Keeps its inputs and, if there are several, its output for the backward pass, as GPU kernels do."""

    @staticmethod
    def forward(ctx: Any, *inputs: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(inputs[0])
        ctx.save_for_backward(*inputs, *([out] if len(inputs) > 1 else []))
        return out


class Norm(nn.Module):
    """Keeps its input alone, as the GPU's RMS norm does; on a CPU it is composed of several operations."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Kept.apply(x)


def test_the_memory_of_a_training_step_is_what_blocks_keep(
    sizes: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wan, "attention", lambda q, k, v, _: Kept.apply(q, k, v))
    settings, n, cpu = sizes.TOY.settings, 2048, torch.device("cpu")
    block = wan.Block(settings).bfloat16()
    for part in (block.attn1, block.attn2):
        part.norm_q = part.norm_k = Norm()
    around = Surroundings(
        shared=torch.randn(1, 6, settings.width).bfloat16(),
        frame=torch.zeros(n, dtype=torch.long),
        rope=(torch.randn(n, 1, 12), torch.randn(n, 1, 12)),
        tokens=Boundaries.of([n], cpu),
        text=torch.randn(1, settings.width).bfloat16(),
        words=Boundaries.of([1], cpu),
    )
    others = (*block.parameters(), around.shared, around.frame, around.text, *around.rope)
    kept = dict.fromkeys((tensor.untyped_storage().data_ptr() for tensor in others), 0)
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        alive.append(storage)
        return tensor

    x = torch.randn(n, settings.width).bfloat16().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        block(x, around)
    statistics = 6 * 4  # mean and scale of three layer norms
    per_token = sum(kept.values()) / n
    assert per_token == pytest.approx(sizes.saved_by_block(settings) + statistics, rel=0.01)


@pytest.fixture
def driver(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A driver on the CPU whose parts are the functions of BROKEN."""
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return bench.Driver("cpu", True, time.monotonic() + 600, tmp_path / "out")


def test_parts_that_end_badly_have_their_lines_and_the_rest_goes_on(
    bench: ModuleType, driver: Any, tmp_path: Path
) -> None:
    names = ("raises", "dies", "hangs", "one_case_raises", "works")
    driver.run([bench.Part(name, f"broken:{name}", LIMIT_S if name == "hangs" else 120) for name in names])
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert lines == driver.lines
    raised, died, hung, one, worked = lines
    assert [line["part"] for line in lines] == list(names)
    assert raised["status"] == "failed"
    assert raised["results"] == {"before": {"value": 3}}
    assert (raised["error"]["type"], raised["error"]["message"]) == ("ValueError", "no such thing")
    assert any("in raises" in line for line in raised["error"]["traceback"])
    assert died["status"] == "failed"
    assert died["results"] == {"before": {"value": 5}}
    assert died["error"]["message"] == "the process ended with status 7"
    assert died["error"]["last_lines"] == ["last words"]
    assert hung["status"] == "timeout"
    assert LIMIT_S <= hung["seconds"] < LIMIT_S + 60
    assert is_gone(hung["results"]["before"]["child"])
    assert one["status"] == "failed"
    assert one["error"]["type"] == one["results"]["bad"]["error"]["type"] == "ZeroDivisionError"
    assert one["results"]["good"] == {"value": 4}
    assert worked["status"] == "ok"
    assert worked["results"] == {"number": {"value": 1}}
    summary = driver.summary()
    assert summary["parts"] == dict(zip(names, ("failed", "failed", "timeout", "failed", "ok"), strict=True))
    assert summary["good"] == 2


def is_gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_no_part_begins_when_the_time_is_over(bench: ModuleType, driver: Any) -> None:
    driver.deadline = time.monotonic() + 1
    driver.run([bench.Part("works", "broken:works", 60)])
    assert driver.lines == [{"part": "works", "status": "skipped", "reason": "no time left"}]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_else_is_tried(bench: ModuleType, driver: Any) -> None:
    driver.device = "cuda"
    driver.run([bench.Part(name, "broken:works", 120) for name in ("first", "second")])
    first, second = driver.lines
    assert first["status"] == "failed"
    assert "--device cpu --toy" in first["error"]["message"]
    assert second == {"part": "second", "status": "skipped", "reason": "no device"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--device", "cpu"], "add --toy"),
        (["--wheels", "nowhere"], "--wheels is a folder of wheels, got nowhere"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: list[str], expected: str) -> None:
    command = [sys.executable, str(BENCH / "gpu.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stdout == ""


def test_packages_that_are_missing_or_old_are_named(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = dict.fromkeys(bench.wanted_packages(), "9999")
    assert installed.keys() >= {"torch", "pydantic", "diffusers", "deepspeed", "hjson"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert bench.missing_packages() == []
    installed["torch"], installed["huggingface-hub"] = "2.9.1+cu130", "1.32.0"
    assert bench.missing_packages() == ["torch"]
    del installed["torch"], installed["hjson"]
    installed["pydantic"] = "2.9.2"
    assert set(bench.missing_packages()) == {"torch", "hjson", "pydantic", "pydantic-core"}


def test_missing_packages_are_installed_from_wheels(bench: ModuleType, tmp_path: Path) -> None:
    wheels, target = tmp_path / "wheels", tmp_path / "target"
    wheels.mkdir()
    for name, tag in (("probe", "py3-none-any"), ("foreign", "cp27-none-any")):
        write_wheel(wheels, f"vitascope_{name}", tag)
    names = ["vitascope-probe", "vitascope-foreign", "vitascope-lacks"]
    assert bench.install(names, wheels, target) == ["vitascope-probe"]
    code = "import vitascope_probe; print(vitascope_probe.NUMBER)"
    environment = os.environ | {"PYTHONPATH": str(target)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "6\n"


def write_wheel(folder: Path, name: str, tag: str) -> None:
    """A wheel with one module, which needs torch."""
    about = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-{tag}.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "NUMBER = 6\n")
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: torch\n"
        wheel.writestr(f"{about}/METADATA", metadata)
        wheel.writestr(f"{about}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        wheel.writestr(f"{about}/RECORD", "")

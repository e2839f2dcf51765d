"""The process of one part of gpu.py: its report, its clock, and how it measures."""

import argparse
import importlib
import json
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from wan_forward import timed

from vitascope.precision import peak_flops_per_s

MOST_S, MOST_ROUNDS = 4.0, 15  # of a measurement, after it has warmed up
TOY_MOST_S, TOY_ROUNDS = 0.1, 3
WARM_UP = 2  # rounds, fewer if they are slow
FOR_MEASURING = 0.75  # of a part's time; after that nothing new is begun
SIDE, TOY_SIDE = 8192, 256  # of the square matrices whose product gives the machine's own peak
LAST_LINES = 8  # of a traceback


class Skipped(Exception):
    """The part cannot run here; the message says why."""


class NoDevice(Skipped):
    """The machine has no such device: no part can run."""


@dataclass
class Run:
    """What a part gets: the device, whether shapes are tiny, and its report and clock.

    seconds: after which the process is killed, counted from `started`.
    """

    device: torch.device
    toy: bool
    seconds: float
    file: Path
    started: float = field(default_factory=time.monotonic)
    errors: list[dict[str, Any]] = field(default_factory=list)

    @property
    def dtype(self) -> torch.dtype:
        """In which networks compute: bf16 on a GPU."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def left_s(self) -> float:
        """Seconds in which a measurement may begin, negative when they are over."""
        return self.started + FOR_MEASURING * self.seconds - time.monotonic()

    def report(self, name: str, **figures: Any) -> None:
        """A result; it is kept if the part fails or is killed later."""
        self._write("result", name, figures)

    def headline(self, **figures: Any) -> None:
        """Figures for the last line of all."""
        for name, value in figures.items():
            self._write("headline", name, value)

    def attempt(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Reports and returns the figures of `work`; None if it failed, or memory or time was short.

        The first error also ends the part as failed, after what follows has been tried.
        """
        if self.left_s() < 0:
            self.report(name, skipped="no time left")
            return None
        figures = self._attempted(name, work)
        if figures is None and self.device.type == "cuda":
            with suppress(RuntimeError):  # after some errors nothing works any more
                torch.cuda.empty_cache()
        return figures

    def _attempted(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Leaves no reference to the exception, which holds the memory of what failed."""
        try:
            figures = work()
        except torch.OutOfMemoryError:
            self.report(name, out_of_memory=True)
        except Exception as error:
            traceback.print_exc()
            self.errors.append(described(error))
            self.report(name, error=described(error))
        else:
            self.report(name, **figures)
            return figures
        return None

    def median_s(self, work: Callable[[], object]) -> float:
        """Median seconds of `work` until the device is done; fewer rounds if they are slow."""
        most_s, most_rounds = (TOY_MOST_S, TOY_ROUNDS) if self.toy else (MOST_S, MOST_ROUNDS)
        for _ in range(WARM_UP):
            if timed(work, self.device)[0] > most_s / 2:
                break
        self.forget_peak()
        times: list[float] = []
        while not times or (sum(times) < most_s and len(times) < most_rounds and self.left_s() > 0):
            times.append(timed(work, self.device)[0])
        return sorted(times)[len(times) // 2]

    def forget_peak(self) -> None:
        """Peak memory counts from here."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_bytes(self) -> int | None:
        """Peak memory of the GPU since the last measurement had warmed up; None on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None

    def matmul_flops_per_s(self) -> float:
        """Of a product of square matrices in the precision of the networks."""
        side = TOY_SIDE if self.toy else SIDE
        square = torch.randn(side, side, device=self.device).to(self.dtype)
        return 2 * side**3 / self.median_s(lambda: square @ square)

    def rates(self, n_tokens: int, flops: float, seconds: float, matmul: float) -> dict[str, Any]:
        """Tokens and FLOPs per second, and these in per cent of the data sheet's peak and of a product's."""
        peak = peak_flops_per_s(self.device, "bf16")
        return {
            "tokens": n_tokens,
            "seconds": round(seconds, 5),
            "tokens_per_s": round(n_tokens / seconds),
            "flops_per_s": round(flops / seconds),
            "percent_of_peak": round(100 * flops / seconds / peak, 1) if peak else None,
            "percent_of_matmul": round(100 * flops / seconds / matmul, 1),
        }

    def _write(self, kind: str, name: str, value: Any) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps([kind, name, value]) + "\n")

    def end(self, **outcome: Any) -> None:
        """The part's status and what belongs to it."""
        self._write("outcome", "", outcome)


def ratio(
    above: dict[str, Any] | None, below: dict[str, Any] | None, key: str = "tokens_per_s"
) -> float | None:
    """Of two results; None if one is missing."""
    return round(above[key] / below[key], 3) if above and below else None


def need(package: str) -> None:
    """Raises Skipped if a package is missing."""
    if find_spec(package) is None:
        raise Skipped(f"{package} is not installed")


def described(error: BaseException) -> dict[str, Any]:
    """An error for the report."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return {"type": type(error).__name__, "message": str(error)[:1000], "traceback": lines[-LAST_LINES:]}


def main() -> None:
    """Runs one part."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", help="module:function")
    parser.add_argument("--device", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--toy", action="store_true")
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)  # others may compute, and shapes are tiny
    run = Run(torch.device(args.device), args.toy, args.seconds, args.report, started)
    try:
        if run.device.type == "cuda" and not torch.cuda.is_available():
            raise NoDevice("no CUDA device; `--device cpu --toy` checks the script without one")
        module, _, function = args.target.partition(":")
        getattr(importlib.import_module(module), function)(run)
        run.end(**({"status": "failed", "error": run.errors[0]} if run.errors else {"status": "ok"}))
    except NoDevice as reason:
        run.end(status="failed", no_device=True, error=described(reason))
        sys.exit(1)
    except Skipped as reason:
        run.end(status="skipped", reason=str(reason))
    except Exception as error:
        traceback.print_exc()
        run.end(status="failed", error=described(error))
        sys.exit(1)

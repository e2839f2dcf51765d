"""The benchmark of generation, at toy size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "jobs" / "bench" / "generate.py"
EXPECTED = {
    "ratio_to_one_at_a_time",
    "ratio_to_static_batches",
    "ratio_above_saturation",
    "p95_small_over_alone",
    "equal",
}


def measured(*arguments: str) -> dict[str, object]:
    toy = ["--rounds=1", "--threads=1", "--depth=1", "--width=64", "--steps", "1", "2", "3", "--arrivals=5"]
    run = subprocess.run(
        [sys.executable, BENCH, *toy, *arguments], capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found: dict[str, object] = json.loads(run.stdout.splitlines()[-1])
    return found


def test_every_figure_is_on_the_last_line_and_the_plot_is_drawn(tmp_path: Path) -> None:
    found = measured("--parts", "below", "above", "poisson", f"--plot={tmp_path / 'plot.png'}")
    assert found.keys() >= EXPECTED
    assert found["equal"] is True
    assert all(found[name] > 0 for name in EXPECTED - {"equal"})
    assert (tmp_path / "plot.png").stat().st_size > 1000


@pytest.mark.nightly
def test_the_app_is_compared_with_its_parts() -> None:
    assert measured().keys() >= {*EXPECTED, "app_overhead"}

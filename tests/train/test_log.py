"""The step log holds every step once, whatever happened on the way."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vitascope import storage
from vitascope.train import log
from vitascope.train.log import StepLog


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return (
        str(tmp_path / "metrics") if request.param == "local" else request.getfixturevalue("s3") + "/metrics"
    )


def write(to: StepLog, steps: range, attempt: str) -> None:
    for step in steps:
        to.write({"step": step, "loss": 1.0, "attempt": attempt})


def test_a_run_that_goes_on_from_a_checkpoint_rewrites_what_came_after(folder: str) -> None:
    first = StepLog(folder, 0)
    write(first, range(10), "first")
    first.cut(10)
    write(first, range(10, 20), "first")
    first.cut(20)
    write(first, range(20, 23), "first")
    first.flush()
    second = StepLog(folder, 10)  # the checkpoint at 20 was never committed
    write(second, range(10, 15), "second")
    second.flush()
    rows = log.read(folder)
    assert [row["step"] for row in rows] == list(range(15))
    assert [row["attempt"] for row in rows] == ["first"] * 10 + ["second"] * 5


def test_the_newest_step_is_found_past_held_out_rows(folder: str) -> None:
    assert log.last_row(folder) is None
    steps = StepLog(folder, 0)
    write(steps, range(3), "first")
    steps.cut(3)
    steps.write({"step": 3, "val_loss": 0.5})
    steps.flush()
    assert log.last_row(folder)["step"] == 2


def test_it_can_be_read_while_it_is_written(folder: str) -> None:
    steps, seen = StepLog(folder, 0), [0]
    write(steps, range(1), "first")
    steps.flush()

    def watch() -> None:
        while seen[-1] < 60:
            seen.append(log.last_row(folder)["step"])

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        for step in range(1, 61):
            write(steps, range(step, step + 1), "first")
            steps.flush()
        watching.result(timeout=300)
    assert seen == sorted(seen)


def test_a_file_dropped_since_it_was_listed_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = StepLog(str(tmp_path), 0)
    write(kept, range(3), "first")
    kept.flush()
    listed = [str(tmp_path / "00000000.jsonl"), str(tmp_path / "00000009.jsonl")]
    monkeypatch.setattr(storage, "list_files", lambda _: listed)
    assert log.last_row(str(tmp_path))["step"] == 2

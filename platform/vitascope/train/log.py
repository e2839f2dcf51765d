"""Step metrics as JSON lines that survive a restart."""

import time
from contextlib import suppress
from typing import TypedDict

from vitascope import storage

FLUSH_EVERY_S = 2.0


class Row(TypedDict, total=False):
    """A line of the log: a step, a held-out loss, or why the run had to end. None: not a finite number."""

    step: int
    epoch: int
    loss: float | None
    grad_norm: float | None
    lr: float
    tokens: int
    step_s: float
    tokens_per_s: float
    useful_token_share: float
    cost_spread: float
    data_wait_share: float
    flops_per_s: float
    not_finite: float
    val_loss: float | None
    val_loss_by_level: list[float | None]
    failed: str


class StepLog:
    """Rows of a run, with a file for every interval between checkpoints, named after its first step.

    A run that continues from the checkpoint at step n rewrites the file of n and drops later ones, so that
    the log has every step once, as it was last computed. Works on object stores, which cannot append.
    """

    def __init__(self, folder: str, step: int) -> None:
        self._folder = folder
        for file in storage.list_files(folder):
            if _first_step(file) > step:
                storage.delete(file)
        self._begin(step)

    def _begin(self, step: int) -> None:
        self._location = storage.join(self._folder, f"{step:08d}.jsonl")
        self._rows: list[Row] = []
        self._flushed = time.monotonic()

    def write(self, row: Row) -> None:
        """Adds a row; it is visible within seconds."""
        self._rows.append(row)
        if time.monotonic() - self._flushed > FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Makes all rows visible."""
        storage.put(self._location, storage.json_lines(self._rows))
        self._flushed = time.monotonic()

    def cut(self, step: int) -> None:
        """Ends the file at a checkpoint that step `step` follows, and begins another."""
        self.flush()
        self._begin(step)


def read(folder: str) -> list[Row]:
    """All rows of a run in the order they were written; empty if nothing has run."""
    return [row for file in storage.list_files(folder) for row in storage.read_json_lines(file)]


def last_row(folder: str) -> Row | None:
    """The newest step row, read from the newest file that has one; None without one."""
    for file in reversed(storage.list_files(folder)):
        with suppress(FileNotFoundError):  # a continuing run has just dropped it
            if rows := [row for row in storage.read_json_lines(file) if "loss" in row]:
                return rows[-1]
    return None


def failure(folder: str) -> str | None:
    """Why the run had to end, if that is its last row."""
    files = storage.list_files(folder)
    rows = storage.read_json_lines(files[-1]) if files else []
    return rows[-1].get("failed") if rows else None


def _first_step(file: str) -> int:
    return int(file.rsplit("/", 1)[1].removesuffix(".jsonl"))

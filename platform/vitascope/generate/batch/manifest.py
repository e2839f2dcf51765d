"""The outcome of every request of a batch."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vitascope import copies
from vitascope.generate.batch.figures import Made, figures
from vitascope.generate.changes import MEANING, Change
from vitascope.ledger import Reason, Rejected, Status
from vitascope.records import MANIFEST
from vitascope.stages.registry import Summary
from vitascope.wording import count, short

_ROWS_PER_GROUP = 10_000
_MOST_EXAMPLES, _MOST_SHOWN = 5, 300


@dataclass(frozen=True)
class Outcome:
    """A row of records.MANIFEST; None is what a refused line does not tell, or what a request has not."""

    line: int
    custom_id: str | None = None
    mode: str | None = None
    width: int | None = None
    height: int | None = None
    n_frames: int | None = None
    fps: float | None = None
    uri: str | None = None
    seconds: float | None = None
    device_s: float | None = None
    changes: tuple[str, ...] | None = None
    status: Status = Status.OK
    reason: Reason | None = None
    detail: str | None = None

    def refused(self, why: Rejected) -> "Outcome":
        """The same request without an output."""
        return replace(self, status=Status.DROPPED, reason=why.reason, detail=why.detail)

    def made(self, sidecar: Mapping[str, Any]) -> "Outcome":
        """The same request with the output that its sidecar describes."""
        changes = tuple(Change(change) for change in sidecar.get("changes", ()))
        device_s = sidecar.get("device_s")  # earlier releases did not measure it
        return replace(
            self,
            uri=str(sidecar["uri"]),
            seconds=float(sum(sidecar["seconds"].values())),
            device_s=None if device_s is None else float(device_s),
            changes=changes,
        )


@dataclass
class Manifest:
    """Rows of records.MANIFEST, and their counts.

    Rows may come in any order; those that follow each other in the request file are written to a temporary
    file, the others wait in memory.

        with Manifest() as manifest:
            manifest.add(0, row, skipped=False)
            manifest.commit("outputs/batch/manifest.parquet")
    """

    outputs: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    made: dict[str, Made] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    skipped: int = 0
    n_in_order: int = 0
    _early: dict[int, Outcome] = field(default_factory=dict)
    _rows: list[Outcome] = field(default_factory=list)

    def __enter__(self) -> "Manifest":
        with ExitStack() as stack:
            self._file = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".parquet"))
            self._writer = stack.enter_context(pq.ParquetWriter(self._file, MANIFEST, compression="zstd"))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, position: int, row: Outcome, *, skipped: bool) -> None:
        """Adds the row of the request at `position` among all, from 0.

        Args:
            skipped: its request was finished before this run.
        """
        self._count(row, skipped=skipped)
        self._early[position] = row
        while self.n_in_order in self._early:
            self._rows.append(self._early.pop(self.n_in_order))
            self.n_in_order += 1
        if len(self._rows) >= _ROWS_PER_GROUP:
            self._write()

    def commit(self, uri: str) -> None:
        """Commits the rows in the order of the request file; none may be missing."""
        assert not self._early, f"no row at position {self.n_in_order}"
        self._write()
        self._writer.close()
        self._file.flush()
        copies.copy_file(self._file.name, uri)

    @property
    def n_outputs(self) -> int:
        """Requests with an output."""
        return sum(self.outputs.values())

    @property
    def n_failed(self) -> int:
        """Requests without one."""
        return sum(self.failed.values())

    def summary(self, device_hour_price: float | None = None) -> Summary:
        """The counts, and what the outputs took (`figures.figures`), of all and by mode.

        `succeeded` is false if a valid request has no output, or if no request has one.
        """
        unmade = self.failed[Reason.GENERATION_FAILED] + self.failed[Reason.CANCELLED]
        return {
            "requests": self.n_outputs + self.n_failed,
            "outputs": self.n_outputs,
            "outputs_by_mode": dict(self.outputs.most_common()),
            "outputs_changed": dict(self.changed.most_common()),
            "requests_failed_by_reason": dict(self.failed.most_common()),
            "skipped_done": self.skipped,
            "denoising": figures(self.made, device_hour_price),
            "succeeded": not unmade and bool(self.n_outputs or not self.n_failed),
        }

    def account(self, folder: str, uri: str) -> Iterator[str]:
        """Sentences for the end of the job: changes to requests, failures, and locations."""
        for change, n in self.changed.most_common():
            yield f"{change}, {count(n, 'output')}: {MEANING[Change(change)]}"
        if self.n_failed:
            reasons = ", ".join(f"{reason} {n}" for reason, n in self.failed.most_common())
            yield f"{count(self.n_failed, 'request')} without an output: {reasons}; for example"
        for reason, _ in self.failed.most_common(_MOST_EXAMPLES):
            yield f"  {self.examples[reason]}"
        if self.failed[Reason.GENERATION_FAILED]:
            yield "run it again to try those that failed once more; what is finished is kept"
        if self.failed[Reason.CANCELLED]:
            yield "the batch was cancelled; vitascope batch resume takes that back, then run it again"
        yield f"{count(self.n_outputs, 'output')} in {folder}; all requests, with reasons, in {uri}"

    def _count(self, row: Outcome, *, skipped: bool) -> None:
        if reason := row.reason:
            self.failed[reason] += 1
            self.examples.setdefault(reason, _example(row))
            return
        mode = row.mode or ""
        self.outputs[mode] += 1
        self.skipped += skipped
        self.changed.update(row.changes or ())
        if row.device_s is not None:
            video_s = row.n_frames / row.fps if row.fps and row.n_frames and row.n_frames > 1 else 0.0
            self.made[mode] = self.made.get(mode, Made()) + Made(1, video_s, row.device_s)

    def _write(self) -> None:
        self._writer.write_table(pa.Table.from_pylist([vars(row) for row in self._rows], MANIFEST))
        self._rows = []


def _example(row: Outcome) -> str:
    name = f" ({row.custom_id!r})" if row.custom_id else ""
    text = f"line {row.line}{name}: {row.reason}: {row.detail}"
    return short(text, _MOST_SHOWN)

"""The outcome of every request of a batch."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pyarrow as pa

from vitascope import storage
from vitascope.generate.changes import MEANING, Change
from vitascope.ledger import Reason, Rejected, Status
from vitascope.records import MANIFEST
from vitascope.stages.registry import Summary
from vitascope.wording import count, short

_ROWS_PER_TABLE = 10_000
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
    changes: tuple[str, ...] | None = None
    status: Status = Status.OK
    reason: Reason | None = None
    detail: str | None = None

    def refused(self, why: Rejected) -> "Outcome":
        """The same request without an output."""
        return replace(self, status=Status.DROPPED, reason=why.reason, detail=why.detail)


@dataclass
class Manifest:
    """Rows of records.MANIFEST, kept in tables until they are written, and their counts."""

    outputs: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    skipped: int = 0
    _rows: list[Outcome] = field(default_factory=list)
    _tables: list[pa.Table] = field(default_factory=list)

    def add(self, row: Outcome, *, skipped: bool) -> None:
        """Adds a row; `skipped` if its request was finished before this run."""
        if reason := row.reason:
            self.failed[reason] += 1
            self.examples.setdefault(reason, _example(row))
        else:
            self.outputs[row.mode or ""] += 1
            self.skipped += skipped
            self.changed.update(row.changes or ())
        self._rows.append(row)
        if len(self._rows) >= _ROWS_PER_TABLE:
            self._pack()

    def commit(self, uri: str) -> None:
        """Writes the rows in the order of the request file."""
        self._pack()
        storage.put_table(uri, pa.concat_tables(self._tables).sort_by("line"))

    def summary(self) -> Summary:
        """The counts; `succeeded` is false if a valid request failed, or if all requests did."""
        n_outputs, n_failed = sum(self.outputs.values()), sum(self.failed.values())
        return {
            "requests": n_outputs + n_failed,
            "outputs": n_outputs,
            "outputs_by_mode": dict(self.outputs.most_common()),
            "outputs_changed": dict(self.changed.most_common()),
            "requests_failed_by_reason": dict(self.failed.most_common()),
            "skipped_done": self.skipped,
            "succeeded": not self.failed[Reason.GENERATION_FAILED] and bool(n_outputs or not n_failed),
        }

    def account(self, folder: str, uri: str) -> Iterator[str]:
        """Sentences for the end of the job: changes to requests, failures, and locations."""
        for change, n in self.changed.most_common():
            yield f"{change}, {count(n, 'output')}: {MEANING[Change(change)]}"
        if n_failed := sum(self.failed.values()):
            reasons = ", ".join(f"{reason} {n}" for reason, n in self.failed.most_common())
            yield f"{count(n_failed, 'request')} without an output: {reasons}; for example"
        for reason, _ in self.failed.most_common(_MOST_EXAMPLES):
            yield f"  {self.examples[reason]}"
        if self.failed[Reason.GENERATION_FAILED]:
            yield "run it again to try those that failed once more; what is finished is kept"
        n_outputs = count(sum(self.outputs.values()), "output")
        yield f"{n_outputs} in {folder}; all requests, with reasons, in {uri}"

    def _pack(self) -> None:
        self._tables.append(pa.Table.from_pylist([vars(row) for row in self._rows], MANIFEST))
        self._rows = []


def _example(row: Outcome) -> str:
    name = f" ({row.custom_id!r})" if row.custom_id else ""
    text = f"line {row.line}{name}: {row.reason}: {row.detail}"
    return short(text, _MOST_SHOWN)

"""Who asked for what: a log in the store."""

import threading
import time
import uuid
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from types import TracebackType

from vitascope import storage

_MOST_WAITING = 10_000
"""Rows in memory; if the store takes none, whoever adds more gets its error."""


@dataclass(frozen=True)
class Asked:
    """A row of the log: someone asked for an output.

    Args:
        who: `key:<name>`, or `batch:<name>`.
        request: its digest, as in the manifest of the output's provenance.
        outcome: `ok`, or a `ledger.Reason`.
    """

    who: str
    custom_id: str
    prompt: str
    request: str
    outcome: str


class Audit:
    """Adds rows to `<folder>/<day>/<time>-<writer>.jsonl`; days are those of UTC.

    Every writer has files of its own, each written once. Rows are committed after `every_s` at the latest: a
    process that is killed loses those of its last seconds. Days older than `days` are deleted at the start,
    and then every day; with `days` 0 nothing is kept.
    """

    def __init__(self, folder: str, days: int, *, every_s: float = 5.0) -> None:
        self._folder, self._days, self._writer = folder, days, uuid.uuid4().hex[:12]
        self._rows: list[tuple[datetime, Asked]] = []
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._ended, self._cleared = threading.Event(), date.min
        self._thread = threading.Thread(target=self._loop, args=(every_s,), name="audit", daemon=True)
        if days:
            self._thread.start()

    def add(self, asked: Asked) -> None:
        """Adds a row. Raises the store's error if it has taken none for long."""
        if not self._days:
            return
        with self._lock:
            self._rows.append((datetime.now(UTC), asked))
            n_waiting = len(self._rows)
        if n_waiting >= _MOST_WAITING:
            self.flush()

    def flush(self) -> None:
        """Commits all rows, and deletes old days. Raises the store's error, and keeps the rows."""
        with self._writing:
            with self._lock:
                rows, self._rows = self._rows, []
            try:
                self._commit(rows)
            except BaseException:
                with self._lock:
                    self._rows = rows + self._rows
                raise
            self._forget(datetime.now(UTC).date())

    def close(self) -> None:
        """Commits what is left. Raises the store's error."""
        self._ended.set()
        if self._days:
            self._thread.join()
            self.flush()

    def __enter__(self) -> "Audit":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _loop(self, every_s: float) -> None:
        while not self._ended.wait(every_s):
            with suppress(Exception):  # it is tried again, and `add` and `close` raise it
                self.flush()

    def _commit(self, rows: list[tuple[datetime, Asked]]) -> None:
        days = defaultdict(list)
        for at, asked in rows:
            days[at.date()].append({"time": at.isoformat(timespec="milliseconds"), **asdict(asked)})
        for day, documents in days.items():
            name = f"{datetime.now(UTC):%H%M%S}-{self._writer}-{time.monotonic_ns()}.jsonl"
            storage.put(storage.join(self._folder, str(day), name), storage.json_lines(documents))

    def _forget(self, today: date) -> None:
        """Deletes the days that are older than wanted, once a day."""
        if self._cleared == today:
            return
        for place in storage.level(self._folder).folders:
            with suppress(ValueError, FileNotFoundError):  # no day; or another writer was quicker
                day = date.fromisoformat(place.rstrip("/").rpartition("/")[2])
                if day <= today - timedelta(days=self._days):
                    storage.delete(place)
        self._cleared = today

"""Files of requests, line by line."""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Protocol

from vitascope import storage
from vitascope.api import fields
from vitascope.api.failures import Refused, invalid
from vitascope.api.fields import MOST_JSON_BYTES, Document, Upload, object_of
from vitascope.api.jobs import Jobs
from vitascope.api.shapes import Batch, BatchError, BatchErrors, BatchStatus, Counts, Error, Images
from vitascope.api.store.keys import Key, Keys
from vitascope.api.store.objects import READERS, created_at, derived_id, new_id, several
from vitascope.api.store.records import BatchJob, BatchProgress, Job, Kind, Outcome
from vitascope.generate.models import DEFAULT
from vitascope.ledger import Reason
from vitascope.section import shown

ENDPOINTS = {"/v1/videos": Kind.VIDEO, "/v1/images/generations": Kind.IMAGE}
"""What the lines of a batch may ask for."""
_WINDOW = "24h"  # OpenAI's only one; here nothing expires
_MOST_METADATA, _MOST_KEY_CHARS, _MOST_VALUE_CHARS = 16, 64, 512
_SAVED_EVERY_S = 2.0
_READ_AT_ONCE = 64
_MOST_LINE_BYTES, _MOST_ID_CHARS = MOST_JSON_BYTES, 512
_CANCELLED = Error(message="the batch was cancelled before this was done", code="batch_cancelled")
_DELETED = Error(message="it was deleted before the batch ended", code="deleted")


class Making(Protocol):
    """The part of the runner that batches need."""

    def wake(self, owner: str, of: str) -> "asyncio.Task[None]":
        """Begins a job; the task ends when the job has ended, or cannot be worked on now."""

    async def stop(self, owner: str, of: str, outcome: Outcome) -> None:
        """Ends a job that is not finished with this outcome."""


@dataclass(frozen=True)
class Line:
    """A line of a batch's file: its number from 1, and its request or why it has none."""

    number: int
    custom_id: str | None
    body: Document
    error: Error | None = None


@dataclass
class _Run:
    """A batch in work."""

    record: BatchJob
    key: Key
    making: Making
    progress: BatchProgress
    saved_at: float = 0.0
    is_cancelled: bool = False
    in_flight: dict["asyncio.Task[bool]", Line] = field(default_factory=dict)

    def count(self, *, completed: bool) -> None:
        """Counts a line that has ended."""
        counts = self.progress.counts
        which = "completed" if completed else "failed"
        counts = counts.model_copy(update={which: getattr(counts, which) + 1})
        self.progress = self.progress.model_copy(update={"counts": counts})


@dataclass(frozen=True)
class Batches:
    """The batches of a service."""

    jobs: Jobs

    def create(self, key: Key, body: Document) -> BatchJob:
        """Commits a new batch.

        Raises:
            Refused: 400 naming the field, 404 if there is no such file.
        """
        known = {"input_file_id", "endpoint", "completion_window", "metadata"}
        if unknown := body.keys() - known:
            raise invalid(f"unknown field {shown(min(unknown))}", min(unknown)[:100], "unknown_parameter")
        endpoint, window = body.get("endpoint"), body.get("completion_window")
        if not isinstance(endpoint, str) or endpoint not in ENDPOINTS:
            raise invalid(f"endpoint is {' or '.join(ENDPOINTS)}, got {shown(endpoint)}", "endpoint")
        if window != _WINDOW:
            raise invalid(f"completion_window is {_WINDOW!r}, got {shown(window)}", "completion_window")
        file = self.jobs.files.find(key.name, str(body.get("input_file_id")))
        if file.purpose != "batch":
            raise invalid(f"the file's purpose is {file.purpose!r}; upload it as 'batch'", "input_file_id")
        record = BatchJob(
            id=new_id(Kind.BATCH),
            owner=key.name,
            endpoint=endpoint,
            input_file_id=file.id,
            completion_window=window,
            metadata=_metadata(body.get("metadata")),
        )
        self.jobs.objects.note(key.name, record.id, BatchProgress())
        self.jobs.objects.add(record)
        return record

    def find(self, owner: str, of: str) -> BatchJob:
        """The owner's batch. Raises Refused: 404."""
        return self.jobs.objects.find(owner, of, Kind.BATCH, BatchJob)

    def cancel(self, owner: str, of: str) -> BatchJob:
        """Commits that a batch is to end; the runner then ends it.

        Raises:
            Refused: 404; 409 if it has ended.
        """
        record = self.find(owner, of)
        if self.jobs.objects.outcome(record.owner, of, BatchProgress):
            raise Refused(409, f"{of} has ended, and cannot be cancelled", code="batch_ended")
        storage.create(self._cancelled(record), str(int(time.time())).encode())
        return record

    def shape(self, record: BatchJob) -> Batch:
        """A batch as clients see it."""
        objects, of = self.jobs.objects, record.id
        progress = objects.outcome(record.owner, of, BatchProgress)
        times: dict[str, int] = {}
        if progress is None:
            progress = objects.pending(record.owner, of, BatchProgress) or BatchProgress()
            if at := self._cancelled_at(record):
                progress, times = progress.model_copy(update={"status": "cancelling"}), {"cancelling_at": at}
        return Batch(
            **record.model_dump(exclude={"owner"}),
            **progress.model_dump(include={"status", "output_file_id", "error_file_id"}),
            **progress.times | times,
            created_at=created_at(of),
            model=self.jobs.names[0],
            errors=BatchErrors(data=progress.errors) if progress.errors else None,
            request_counts=progress.counts,
        )

    async def run(self, owner: str, of: str, making: Making) -> None:
        """Works off a batch, from its last saved progress; the ids of its jobs follow from its own."""
        objects = self.jobs.objects
        record = await asyncio.to_thread(objects.get, owner, of, BatchJob)
        if record is None or await asyncio.to_thread(objects.has_ended, owner, of):
            await asyncio.to_thread(objects.settle, owner, of)
            return
        try:
            run = await asyncio.to_thread(self._begun, record, making)
        except Refused as refused:
            errors = [BatchError(code=refused.code, message=refused.message, param=refused.param)]
            failed = BatchProgress(status="failed", errors=errors, times={"failed_at": int(time.time())})
            await asyncio.to_thread(objects.end, owner, of, failed)
            return
        await self._made(run)
        await asyncio.to_thread(self._finish, run)

    def _begun(self, record: BatchJob, making: Making) -> _Run:
        """Counts the lines. Raises Refused if there is nothing to do, or no right to do it."""
        key = Keys(self.jobs.objects.root).of_owner(record.owner)
        if key is None or key.revoked_at:
            raise Refused(401, f"the key {record.owner} was revoked", code="invalid_api_key")
        with storage.open_file(self._input(record)) as content:
            total = sum(1 for line in content if line.strip())
        if not total:
            raise invalid("the file has no requests; write one JSON object a line", "input_file_id")
        before = self.jobs.objects.pending(record.owner, record.id, BatchProgress) or BatchProgress()
        times = {"in_progress_at": int(time.time())} | before.times
        progress = BatchProgress(status="in_progress", counts=Counts(total=total), times=times)
        run = _Run(record, key, making, progress)
        self._save(run)
        return run

    async def _made(self, run: _Run) -> None:
        """Makes what the lines ask for, some at a time, until the end of the file or a cancellation."""
        most = max(1, self.jobs.models.each[DEFAULT].settings.max_in_flight // 2)  # others have room, too
        most = min(most, run.key.in_flight or most)
        with storage.open_file(self._input(run.record)) as content:
            lines = _lines(content, run.record.endpoint)
            while not run.is_cancelled and (line := await asyncio.to_thread(next, lines, None)):
                run.in_flight[asyncio.create_task(self._one(run, line))] = line
                while len(run.in_flight) >= most:
                    await self._wait(run)
        while run.in_flight:
            await self._wait(run)

    async def _wait(self, run: _Run) -> None:
        """Returns when lines have ended, or after some seconds; ends all if the batch was cancelled."""
        done, _ = await asyncio.wait(
            run.in_flight, timeout=_SAVED_EVERY_S, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            del run.in_flight[task]
            run.count(completed=task.result())
        if time.monotonic() - run.saved_at < _SAVED_EVERY_S:
            return
        await asyncio.to_thread(self._save, run)
        run.is_cancelled = bool(await asyncio.to_thread(self._cancelled_at, run.record))
        if run.is_cancelled:
            outcome = Outcome(at=int(time.time()), error=_CANCELLED)
            for of in [of for line in run.in_flight.values() for of in _ids(run.record, line)]:
                await run.making.stop(run.record.owner, of, outcome)

    async def _one(self, run: _Run, line: Line) -> bool:
        """Makes what a line asks for, unless that is done; whether all of it succeeded."""
        owner, ids = run.record.owner, _ids(run.record, line)
        try:
            await asyncio.to_thread(self._ordered, run, line)
        except Refused as refused:
            refusal = Outcome(at=int(time.time()), error=refused.error)
            await asyncio.to_thread(self.jobs.objects.end, owner, ids[0], refusal)
        outcomes = await asyncio.gather(*(self._ended(run, of) for of in ids))
        return all(outcome.uri for outcome in outcomes)

    def _ordered(self, run: _Run, line: Line) -> None:
        """Commits the jobs of a line, unless they exist."""
        owner, ids, objects = run.record.owner, _ids(run.record, line), self.jobs.objects
        if all(objects.has_ended(owner, of) or objects.exists(owner, of) for of in ids):
            return
        if line.error:
            raise Refused(400, line.error.message, code=line.error.code)
        make = self.jobs.create if _kind(run.record) is Kind.VIDEO else self.jobs.images
        make(run.key, line.body, ids[0], run.record.id)

    async def _ended(self, run: _Run, of: str) -> Outcome:
        """The outcome of a job; one that was deleted has none."""
        owner, objects = run.record.owner, self.jobs.objects
        while (outcome := await asyncio.to_thread(objects.outcome, owner, of, Outcome)) is None:
            if not await asyncio.to_thread(objects.exists, owner, of):
                return Outcome(at=int(time.time()), error=_DELETED)
            await asyncio.wait([run.making.wake(owner, of)], timeout=_SAVED_EVERY_S)
        return outcome

    def _finish(self, run: _Run) -> None:
        """Commits the results, in the order of the lines, and that the batch has ended."""
        record, now = run.record, int(time.time())
        run.progress = run.progress.model_copy(
            update={"status": "finalizing", "times": run.progress.times | {"finalizing_at": now}}
        )
        self._save(run)
        counts = Counts(total=run.progress.counts.total)
        with tempfile.TemporaryFile() as results, tempfile.TemporaryFile() as errors:
            for document, is_error in self._results(run):
                (errors if is_error else results).write(storage.json_lines([document]))
                which = "failed" if is_error else "completed"
                counts = counts.model_copy(update={which: getattr(counts, which) + 1})
            files = {"output_file_id": results, "error_file_id": errors}
            ids = {name: self._committed(record, name, content) for name, content in files.items()}
        status: BatchStatus = "cancelled" if (at := self._cancelled_at(record)) else "completed"
        times = (
            run.progress.times | {f"{status}_at": int(time.time())} | ({"cancelling_at": at} if at else {})
        )
        ended = BatchProgress(status=status, counts=counts, times=times, **ids)
        self.jobs.objects.end(record.owner, record.id, ended)

    def _results(self, run: _Run) -> Iterator[tuple[Document, bool]]:
        """The result of each line, and whether it is an error."""
        with storage.open_file(self._input(run.record)) as content:
            lines = _lines(content, run.record.endpoint)
            while some := list(islice(lines, _READ_AT_ONCE)):
                yield from READERS.map(lambda line: self._result(run.record, line), some)

    def _result(self, record: BatchJob, line: Line) -> tuple[Document, bool]:
        owner, ids = record.owner, _ids(record, line)
        outcomes = [self.jobs.objects.outcome(owner, of, Outcome) for of in ids]
        jobs = [self.jobs.objects.get(owner, of, Job) for of in ids]
        error = next((outcome.error for outcome in outcomes if outcome and outcome.error), None)
        if error is None and not all(jobs):
            error = _CANCELLED if not any(outcomes) else _DELETED
        elif error is None and not all(outcomes):
            error = _CANCELLED
        body = {"error": error.model_dump()} if error else self._body([job for job in jobs if job], line)
        code = (500 if error.code == Reason.GENERATION_FAILED else 400) if error else 200
        response = {"status_code": code, "request_id": ids[0], "body": body}
        of = derived_id(Kind.BATCH, record.id, line.number).replace("batch_", "batch_req_")
        return {"id": of, "custom_id": line.custom_id, "response": response, "error": None}, error is not None

    def _body(self, jobs: list[Job], line: Line) -> Document:
        """What the answer to a line's request has, at the end of the work."""
        if jobs[0].id.startswith(f"{Kind.VIDEO}_"):
            return self.jobs.shape(jobs[0]).model_dump(exclude={"url"})
        form = str(line.body.get("response_format", "b64_json"))
        size = f"{jobs[0].request.width}x{jobs[0].request.height}"
        data = [self.jobs.image(job, form) for job in jobs]
        return Images(created=created_at(jobs[0].id), data=data, size=size).model_dump(exclude_none=True)

    def _committed(self, record: BatchJob, name: str, content: IO[bytes]) -> str | None:
        """The id of a file of results; None if it would be empty."""
        if not content.tell():
            return None
        content.seek(0)
        of = derived_id(Kind.FILE, record.id, name)
        upload = Upload(f"{record.id}_{name.removesuffix('_file_id')}.jsonl", content)
        return self.jobs.files.add(record.owner, upload, "batch_output", of).id

    def _save(self, run: _Run) -> None:
        self.jobs.objects.note(run.record.owner, run.record.id, run.progress)
        run.saved_at = time.monotonic()

    def _input(self, record: BatchJob) -> str:
        return self.jobs.files.place(self.jobs.files.find(record.owner, record.input_file_id))

    def _cancelled_at(self, record: BatchJob) -> int | None:
        """When the batch was cancelled, if it was."""
        try:
            return int(storage.read_bytes(self._cancelled(record)))
        except FileNotFoundError:
            return None

    def _cancelled(self, record: BatchJob) -> str:
        return storage.join(self.jobs.objects.media(record.owner, record.id), "cancelled")


def _kind(record: BatchJob) -> Kind:
    return ENDPOINTS[record.endpoint]


def _ids(record: BatchJob, line: Line) -> list[str]:
    """The ids of what a line asks for."""
    kind, n = _kind(record), 1
    if kind is Kind.IMAGE:
        with suppress(Refused):  # the line is refused for it, once
            n = fields.n_of(line.body)
    return several(derived_id(kind, record.id, line.number), n)


def _lines(content: IO[bytes], endpoint: str) -> Iterator[Line]:
    """The lines of a file that are not blank."""
    seen: set[str] = set()
    number = 0
    while raw := content.readline(_MOST_LINE_BYTES + 1):
        number += 1
        if len(raw) > _MOST_LINE_BYTES:
            while raw and not raw.endswith(b"\n"):
                raw = content.readline(_MOST_LINE_BYTES)
            yield Line(number, None, {}, Error(message=f"a line has at most {_MOST_LINE_BYTES >> 20} MiB"))
        elif raw.strip():
            yield _line(number, raw, endpoint, seen)


def _line(number: int, raw: bytes, endpoint: str, seen: set[str]) -> Line:
    try:
        document = object_of(raw)
    except Refused as refused:
        return Line(number, None, {}, refused.error)
    custom_id, body = document.get("custom_id"), document.get("body")
    error = None
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _MOST_ID_CHARS:
        custom_id, error = None, f"custom_id is a text of up to {_MOST_ID_CHARS} characters"
    elif custom_id in seen:
        error = f"custom_id {shown(custom_id)} is on an earlier line, too; give each line its own"
    elif document.get("method") != "POST" or document.get("url") != endpoint:
        error = f"method is 'POST' and url is {endpoint!r}, as of the batch"
    elif not isinstance(body, dict):
        error = "body is the request, a JSON object"
    elif unknown := document.keys() - {"custom_id", "method", "url", "body"}:
        error = f"a line has custom_id, method, url and body, got {shown(min(unknown))}"
    if custom_id:
        seen.add(custom_id)
    if error:
        return Line(number, custom_id, {}, Error(message=error, code="invalid_request"))
    return Line(number, custom_id, dict(body or {}))


def _metadata(given: object) -> dict[str, str] | None:
    """The caller's own notes. Raises Refused: 400 if they are too many or no texts."""
    if given is None:
        return None
    if isinstance(given, dict) and len(given) <= _MOST_METADATA:
        texts = [(k, v) for k, v in given.items() if isinstance(v, str) and len(v) <= _MOST_VALUE_CHARS]
        if len(texts) == len(given) and all(len(k) <= _MOST_KEY_CHARS for k, _ in texts):
            return dict(texts)
    raise invalid(
        f"metadata has up to {_MOST_METADATA} texts of up to {_MOST_VALUE_CHARS} characters, under names of "
        f"up to {_MOST_KEY_CHARS}; got {shown(given)}",
        "metadata",
    )

"""The job: stream a request file through the app."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import RayServeException

from vitascope import checksum, storage
from vitascope.cluster.local import check_room, connect
from vitascope.config import Settings
from vitascope.errors import Missing, Mistake
from vitascope.generate import app
from vitascope.generate.request import Limits, Request, document_of, parse
from vitascope.generate.tracing import tracing
from vitascope.ledger import Reason, Rejected, Status
from vitascope.model.card import WEIGHTS, ModelCard, load_card
from vitascope.observe.metrics import Publisher
from vitascope.progress import track
from vitascope.records import MANIFEST, OK, dropped, stable_id, stable_int

# A request whose replica died is sent again this often; one that kills its replica each time is then given
# up.
_TRIES, _PAUSE_S = 3, 2.0
_ROWS_PER_TABLE = 10_000


@dataclass(frozen=True)
class Item:
    """A line of the request file, and the request on it or why there is none."""

    line: int
    text: bytes
    request: Request | Rejected


@dataclass(frozen=True)
class Batch:
    """What is generated from what, and where it goes."""

    run: str
    requests: str
    folder: str
    card: ModelCard
    model: dict[str, Any]
    limits: Limits

    @classmethod
    def of(cls, settings: Settings) -> "Batch":
        """The batch that the settings describe.

        Raises:
            ValueError: where no request file is named.
            FileNotFoundError: where the model or the request file is not there.
        """
        if settings.generate.requests is None:
            raise Mistake(
                "no request file; set generate.requests to a JSON-lines file, local, s3:// or gs://"
            )
        requests = storage.absolute(settings.generate.requests)
        if not storage.exists(requests):
            raise Missing(f"no request file at {requests}; set generate.requests")
        card, about = described(settings)
        limits = Limits(settings.generate, card.model.patch, requests.rpartition("/")[0])
        return cls(
            settings.run.folder,
            requests,
            settings.path("outputs", settings.generate.batch),
            card,
            about,
            limits,
        )

    def items(self) -> Iterator[Item]:
        """Every line that is not blank, checked. In memory are one line, and a number for each id."""
        seen: set[int] = set()
        with storage.open_file(self.requests) as lines:
            for number, text in enumerate(lines, start=1):
                if text.strip():
                    yield Item(number, text, _checked(text, self.limits, seen))

    def target(self, request: Request) -> app.Target:
        """Where the request's output goes."""
        return app.Target(storage.join(self.folder, request.name(self.model["identity"])), self.model)

    def finished(self) -> set[str]:
        """The targets' locations that have a sidecar: their requests are finished."""
        return {f.removesuffix(".json") for f in storage.list_files(self.folder) if f.endswith(".json")}


@dataclass
class Manifest:
    """Rows of what became of every request, held in tables until they are written; and their counts."""

    outputs: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _tables: list[pa.Table] = field(default_factory=list)

    def add(self, row: dict[str, Any], *, skipped: bool) -> None:
        """Takes in a row of records.MANIFEST; `skipped` if it was finished before this run."""
        self.skipped += skipped
        counter, key = (self.failed, row["reason"]) if row["reason"] else (self.outputs, row["mode"])
        counter[key] += 1
        self._rows.append(row)
        if len(self._rows) >= _ROWS_PER_TABLE:
            self._pack()

    def commit(self, uri: str) -> None:
        """Writes the rows in the order of the request file."""
        self._pack()
        storage.put_table(uri, pa.concat_tables(self._tables).sort_by("line"))

    def _pack(self) -> None:
        self._tables.append(pa.Table.from_pylist(self._rows, MANIFEST))
        self._rows = []


def run(settings: Settings) -> dict[str, Any]:
    """Generates what the request file asks for and returns the summary.

    Every request ends with exactly one output, or a manifest row with a reason. What an earlier run
    finished is left alone. Ray and the app start only where something is left to be generated.
    """
    started = time.monotonic()
    batch = Batch.of(settings)
    finished = batch.finished()
    total, pending = _survey(batch, finished)
    if pending:
        connect(settings.cluster)
        generate = settings.generate
        gpus = generate.denoise_replicas * generate.use_gpu
        check_room(settings.cluster, "generate's replicas", cpus=app.cpus_needed(generate), gpus=gpus)
        built = app.build(batch.model["folder"], batch.card, settings)
        serving = app.serving(built, *_app_name(batch, settings), tracing(generate))
    with serving if pending else nullcontext() as handle, track(total, "generate") as advance:
        manifest = asyncio.run(_stream(batch, handle, finished, advance, pending=pending))
    manifest.commit(storage.join(batch.folder, "manifest.parquet"))
    summary = {
        "requests": total,
        "outputs": sum(manifest.outputs.values()),
        "outputs_by_mode": dict(manifest.outputs.most_common()),
        "requests_failed_by_reason": dict(manifest.failed.most_common()),
        "skipped_done": manifest.skipped,
        "seconds": round(time.monotonic() - started, 3),
    }
    storage.put_json(settings.path("summaries", "generate.json"), summary)
    return summary


def _survey(batch: Batch, finished: set[str]) -> tuple[int, int]:
    """How many requests the file holds, and how many of them are to be generated."""
    total = pending = 0
    for item in batch.items():
        total += 1
        if isinstance(item.request, Request) and batch.target(item.request).location not in finished:
            pending += 1
    return total, pending


async def _stream(
    batch: Batch, handle: Any, finished: set[str], advance: Callable[..., None], *, pending: int
) -> Manifest:
    """Sends the requests with at most `max_in_flight` in flight, in the file's order; they end in any."""
    manifest, publisher = Manifest(), Publisher(run=batch.run)
    in_flight: set[asyncio.Task] = set()
    stage = publisher.stage("generate", pending) if handle is not None else nullcontext()

    async def one(item: Item) -> None:
        started = time.monotonic()
        done = isinstance(item.request, Request) and batch.target(item.request).location in finished
        row = await _row(batch, item, None if done else handle)
        manifest.add(row, skipped=done)
        if handle is not None and not done:
            taken_s = time.monotonic() - started
            publisher.add_request(row["reason"] or Status.OK, row.get("mode", ""), taken_s)
        if did and isinstance(item.request, Request) and not done:
            did(1)
        advance(1, note=_note(manifest))

    with stage as did:
        for item in batch.items():
            if len(in_flight) >= batch.limits.settings.max_in_flight:
                done, in_flight = await asyncio.wait(in_flight, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.gather(*done)  # raises what went wrong in them
            in_flight.add(asyncio.create_task(one(item)))
        await asyncio.gather(*in_flight)
    return manifest


async def _row(batch: Batch, item: Item, handle: Any) -> dict[str, Any]:
    """The manifest row of a request: refused, finished before (`handle` is None), or generated now."""
    request = item.request
    if isinstance(request, Rejected):
        return _refused(item, request)
    target = batch.target(request)
    if handle is None:
        result = await asyncio.to_thread(storage.read_json, target.location + ".json")
    else:
        result = await _generate(handle, request, target)
    size = request.size
    row = {"line": item.line, "custom_id": request.custom_id, "mode": request.kind, "fps": request.fps}
    row |= {"width": size.width, "height": size.height, "n_frames": size.n_frames}
    if isinstance(result, Rejected):
        return row | dropped(result.reason, result.detail)
    return row | OK | {"uri": result["uri"], "seconds": sum(result["seconds"].values())}


async def _generate(handle: Any, request: Request, target: app.Target) -> dict[str, Any] | Rejected:
    for tries_left in reversed(range(_TRIES)):
        try:
            return await handle.remote(request, target)
        except (RayError, RayServeException) as error:
            cause = getattr(error, "cause", error)
            if not (tries_left and isinstance(cause, RayActorError | RayServeException)):
                return Rejected(Reason.GENERATION_FAILED, f"{type(cause).__name__}: {cause}")
            await asyncio.sleep(_PAUSE_S)
    raise AssertionError("the last try returns")


def _checked(text: bytes, limits: Limits, seen: set[int]) -> Request | Rejected:
    """The request of a line, and its id into `seen`; of requests that share an id, the first is the one."""
    try:
        request = parse(text, limits)
    except Rejected as error:
        return error
    key = stable_int(request.custom_id)
    if key in seen:
        return Rejected(
            Reason.INVALID_REQUEST,
            f"custom_id {request.custom_id!r} stands on an earlier line too; give every request its own",
        )
    seen.add(key)
    return request


def _refused(item: Item, error: Rejected) -> dict[str, Any]:
    """The row of a line that is no request, with as much of it as can be told."""
    try:
        known = document_of(item.text)
    except Rejected:
        known = {}
    told = {name: known[name] for name in ("custom_id", "mode") if isinstance(known.get(name), str)}
    return {"line": item.line} | told | dropped(error.reason, error.detail)


def _note(manifest: Manifest) -> str:
    failed = sum(manifest.failed.values())
    return f"{failed} failed" if failed else ""


def described(settings: Settings) -> tuple[ModelCard, dict[str, Any]]:
    """The card of the model that the settings name, and what a sidecar says of it.

    Its identity tells it from another by card and checksum. FileNotFoundError where the model is not there.
    """
    folder = storage.absolute(settings.generate.model or settings.path("model"))
    card = load_card(folder)
    identity = stable_id(card.model_dump_json(), checksum.recorded(storage.join(folder, WEIGHTS)))
    return card, {
        "folder": folder,
        "identity": identity,
        "step": card.step,
        "latents": card.fingerprint,
    }


def _app_name(batch: Batch, settings: Settings) -> tuple[str, str]:
    """The batch's name, and that of its app: a job run again takes over the app that a killed one left.

    With another model or other settings it is another app, and the one left is in the way.
    """
    name = f"vitascope-{stable_id(batch.folder)}-"
    return name, name + stable_id(batch.model["identity"], settings.generate.model_dump_json())

"""The job: stream a request file through the app."""

import asyncio
import posixpath
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import RayServeException

from vitascope import checksum, storage
from vitascope.cluster.local import check_room, connect
from vitascope.config import Settings
from vitascope.errors import Failed, Missing, Mistake, in_a_line
from vitascope.generate import app, lines
from vitascope.generate.changes import Change
from vitascope.generate.lines import Line
from vitascope.generate.manifest import Manifest
from vitascope.generate.request import Limits, Request
from vitascope.generate.tracing import tracing
from vitascope.ledger import Reason, Rejected, Status
from vitascope.metrics import Publisher
from vitascope.model.card import WEIGHTS, ModelCard, load_card
from vitascope.model.check import check_model
from vitascope.progress import say, track
from vitascope.records import OK, dropped, stable_id

# How often a request is sent if its replica dies each time, and if it fails otherwise.
_TRIES_OF_DEAD, _TRIES, _PAUSE_S = 3, 2, 2.0
# Replicas that cannot start in this many checks in a row never will.
_LOOKS, _LOOK_S = 4, 10.0


@dataclass(frozen=True)
class Batch:
    """The inputs and outputs of a batch."""

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
            Mistake: no request file is named.
            Missing: the model or the request file does not exist.
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

    def lines(self) -> Iterator[Line]:
        """The lines of the request file."""
        return lines.read(self.requests, self.limits)

    def target(self, request: Request) -> app.Target:
        """The location of the request's output."""
        return app.Target(storage.join(self.folder, request.name(self.model["identity"])), self.model)

    def finished(self) -> set[str]:
        """The locations that have an output and its sidecar: their requests are finished."""
        names = [posixpath.splitext(file) for file in storage.list_files(self.folder)]
        media = {name for name, suffix in names if suffix in (".mp4", ".png")}
        return media & {name for name, suffix in names if suffix == ".json"}


def run(settings: Settings) -> dict[str, Any]:
    """Generates the outputs of the request file and returns the summary.

    Every request ends with exactly one output, or a manifest row with a reason. Outputs of an earlier run are
    left untouched. Ray and the app start only if requests are left. In the summary, `succeeded` is false if a
    valid request failed, or if no request has an output.
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
        stream = _stream(batch, handle, finished, advance, pending=pending)
        name = _app_name(batch, settings)[1] if pending else None
        manifest = asyncio.run(_unless_stuck(stream, name))
    location = storage.join(batch.folder, "manifest.parquet")
    manifest.commit(location)
    summary = manifest.summary() | {"seconds": round(time.monotonic() - started, 3)}
    storage.put_json(settings.path("summaries", "generate.json"), summary)
    for sentence in manifest.account(batch.folder, location):
        say("generate", sentence)
    return summary


def _survey(batch: Batch, finished: set[str]) -> tuple[int, int]:
    """The number of requests in the file, and how many of them are to be generated."""
    total = pending = 0
    for line in batch.lines():
        total += 1
        if isinstance(line.request, Request) and batch.target(line.request).location not in finished:
            pending += 1
    return total, pending


async def _stream(
    batch: Batch, handle: Any, finished: set[str], advance: Callable[..., None], *, pending: int
) -> Manifest:
    """Sends the requests in the file's order, at most `max_in_flight` at a time; they end in any order."""
    manifest, publisher, alone = Manifest(), Publisher(run=batch.run), asyncio.Lock()
    in_flight: set[asyncio.Task] = set()
    stage = publisher.stage("generate", pending) if handle is not None else nullcontext()

    async def one(line: Line) -> None:
        started = time.monotonic()
        done = isinstance(line.request, Request) and batch.target(line.request).location in finished
        row = await _row(batch, line, None if done else handle, alone)
        manifest.add(row, skipped=done)
        if handle is not None and not done:
            taken_s = time.monotonic() - started
            publisher.add_request(row["reason"] or Status.OK, row.get("mode", ""), taken_s)
        if did and isinstance(line.request, Request) and not done:
            did(1)
        advance(1, note=_note(manifest))

    with stage as did:
        for line in batch.lines():
            if len(in_flight) >= batch.limits.settings.max_in_flight:
                done, in_flight = await asyncio.wait(in_flight, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.gather(*done)  # raises their errors
            in_flight.add(asyncio.create_task(one(line)))
        await asyncio.gather(*in_flight)
    return manifest


async def _unless_stuck(work: Coroutine[Any, Any, Manifest], name: str | None) -> Manifest:
    """The result of `work`, which needs the app `name`.

    Raises:
        Failed: replicas of the app died and cannot restart, so that requests would wait for ever.
    """
    working, n_looks = asyncio.create_task(work), 0
    while not working.done():
        await asyncio.wait([working], timeout=_LOOK_S)
        why = await asyncio.to_thread(app.stuck, name) if name and not working.done() else None
        n_looks = n_looks + 1 if why else 0
        if n_looks == _LOOKS:
            working.cancel()
            raise Failed(
                f"generation cannot continue: {why}; finished outputs are kept, run it again to continue"
            )
    return await working


async def _row(batch: Batch, line: Line, handle: Any, alone: asyncio.Lock) -> dict[str, Any]:
    """The manifest row of a request: refused, finished before (`handle` is None), or generated now."""
    request = line.request
    if isinstance(request, Rejected):
        return line.refused_row(request)
    target = batch.target(request)
    if handle is None:
        result = await asyncio.to_thread(_sidecar, target.location + ".json")
    else:
        result = await _generate(handle, request, target, alone)
    size = request.size
    row = {"line": line.number, "custom_id": request.custom_id, "mode": request.kind, "fps": request.fps}
    row |= {"width": size.width, "height": size.height, "n_frames": size.n_frames}
    if isinstance(result, Rejected):
        return row | dropped(result.reason, result.detail)
    made = {"uri": result["uri"], "seconds": sum(result["seconds"].values())}
    return row | OK | made | {"changes": [str(change) for change in result.get("changes", ())]}


def _sidecar(location: str) -> dict[str, Any] | Rejected:
    """The sidecar of an output that was finished before."""
    try:
        document: dict[str, Any] = storage.read_json(location)
        float(sum(document["seconds"].values()))
        changed = [Change(change) for change in document.get("changes", ())]
        return document | {"uri": str(document["uri"]), "changes": changed}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        why = f"{location} is not as it was written ({in_a_line(error)}); delete it to generate this again"
        return Rejected(Reason.UNREADABLE, why)


async def _generate(
    handle: Any, request: Request, target: app.Target, alone: asyncio.Lock
) -> dict[str, Any] | Rejected:
    """The sidecar of the app's output, or why it has none.

    A request whose replica died is sent again, the last time without any other such request: one of them may
    kill replicas. A request that failed otherwise, perhaps transiently, is sent again once.
    """
    tries = {True: _TRIES_OF_DEAD, False: _TRIES}
    while True:
        try:
            async with alone if tries[True] == 1 else nullcontext():
                return await handle.remote(request, target)
        except (RayError, RayServeException) as error:
            cause = getattr(error, "cause", error)
            died = isinstance(cause, RayActorError | RayServeException)
            tries[died] -= 1
            if not tries[died]:
                return Rejected(Reason.GENERATION_FAILED, in_a_line(cause))
            await asyncio.sleep(_PAUSE_S)


def _note(manifest: Manifest) -> str:
    failed = sum(manifest.failed.values())
    return f"{failed} failed" if failed else ""


def described(settings: Settings) -> tuple[ModelCard, dict[str, Any]]:
    """The card of the model that the settings name, and its description in a sidecar.

    The identity is derived from card and checksum.

    Raises:
        Mistake: the model is missing, damaged, or inconsistent.
    """
    folder = storage.absolute(settings.generate.model or settings.path("model"))
    card = load_card(folder)
    check_model(folder, card)
    identity = stable_id(card.model_dump_json(), checksum.recorded(storage.join(folder, WEIGHTS)))
    return card, {
        "folder": folder,
        "identity": identity,
        "step": card.step,
        "latents": card.fingerprint,
    }


def _app_name(batch: Batch, settings: Settings) -> tuple[str, str]:
    """The batch's name, and that of its app: a repeated job takes over the app that a killed one left.

    Another model or other settings need another app, and the old one would be in the way.
    """
    name = f"vitascope-{stable_id(batch.folder)}-"
    return name, name + stable_id(batch.model["identity"], settings.generate.model_dump_json())

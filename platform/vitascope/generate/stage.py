"""The job: stream a request file through the app."""

import asyncio
import posixpath
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import RayServeException

from vitascope import storage
from vitascope.cluster.local import check_room, connect
from vitascope.config import Settings
from vitascope.errors import Failed, Missing, Mistake, in_a_line
from vitascope.generate.app import serving
from vitascope.generate.app.build import build
from vitascope.generate.batch import lines
from vitascope.generate.batch.lines import Line
from vitascope.generate.batch.manifest import Manifest, Outcome
from vitascope.generate.changes import Change
from vitascope.generate.opened import Opened, Target, opened
from vitascope.generate.parse import Limits
from vitascope.generate.request import Request
from vitascope.generate.tracing import tracing
from vitascope.ledger import Reason, Rejected, Status
from vitascope.metrics import Publisher
from vitascope.progress import say, track
from vitascope.prompts.audit import Asked, Audit
from vitascope.records import stable_id
from vitascope.stages import resources
from vitascope.stages.registry import Summary
from vitascope.stages.running import running

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
    model: Opened
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
        model = opened(settings)
        media = requests.rpartition("/")[0]
        limits = Limits(settings.generate, model.card.patching, media, model.sampling)
        outputs = settings.path("outputs", settings.generate.batch)
        return cls(settings.run.folder, requests, outputs, model, limits)

    def lines(self) -> Iterator[Line]:
        """The lines of the request file."""
        return lines.read(self.requests, self.limits)

    def target(self, request: Request) -> Target:
        """The location of the request's output."""
        return self.model.target(self.folder, request)

    def finished(self) -> set[str]:
        """The locations that have an output and its sidecar: their requests are finished."""
        names = [posixpath.splitext(file) for file in storage.list_files(self.folder)]
        media = {name for name, suffix in names if suffix in (".mp4", ".png")}
        return media & {name for name, suffix in names if suffix == ".json"}


def run(settings: Settings) -> Summary:
    """Generates the outputs of the request file and returns the summary.

    Every request ends with exactly one output, or a manifest row with a reason. Outputs of an earlier run are
    left untouched. Ray and the app start only if requests are left. In the summary, `succeeded` is false if a
    valid request failed, or if no request has an output.
    """
    with running(settings, "generate") as summary:
        summary |= _generated(settings)
    return summary


def _generated(settings: Settings) -> Summary:
    batch = Batch.of(settings)
    finished = batch.finished()
    total, pending = _survey(batch, finished)
    if pending:
        connect(settings.cluster)
        takes = resources.of_generation(settings)
        check_room(settings.cluster, f"generate's {takes.processes}", cpus=takes.cpus, gpus=takes.gpus)
        _say_size(batch.model, settings)
        built = build(batch.model, settings)
        served = serving.serving(built, *_app_name(batch, settings), tracing(settings.generate))
    with served if pending else nullcontext() as handle, track(total, "generate") as advance:
        name = _app_name(batch, settings)[1] if pending else None
        with Audit(settings.path("audit"), settings.prompts.audit_days) as audit:
            stream = _stream(batch, handle, finished, advance, pending=pending, audit=audit)
            manifest = asyncio.run(_unless_stuck(stream, name))
    location = storage.join(batch.folder, "manifest.parquet")
    manifest.commit(location)
    for sentence in manifest.account(batch.folder, location):
        say("generate", sentence)
    return manifest.summary()


def _say_size(model: Opened, settings: Settings) -> None:
    """Names the memory that two experts take: all noise levels are in work at once, so both stay in it."""
    if model.n_experts > 1:
        gb = model.n_parameters * (2 if settings.generate.use_gpu else 4) / 1e9
        say("generate", f"each denoise replica keeps {model.n_experts} networks in memory, {gb:.3g} GB")


def _survey(batch: Batch, finished: set[str]) -> tuple[int, int]:
    """The number of requests in the file, and how many of them are to be generated."""
    total = pending = 0
    for line in batch.lines():
        total += 1
        if isinstance(line.request, Request) and batch.target(line.request).location not in finished:
            pending += 1
    return total, pending


async def _stream(
    batch: Batch, handle: Any, finished: set[str], advance: Callable[..., None], *, pending: int, audit: Audit
) -> Manifest:
    """Sends the requests in the file's order, at most `max_in_flight` at a time; they end in any order."""
    manifest, publisher, alone = Manifest(), Publisher(run=batch.run), asyncio.Lock()
    in_flight: set[asyncio.Task] = set()
    stage = publisher.stage("generate", pending) if handle is not None else nullcontext()

    async def one(line: Line) -> None:
        started = time.monotonic()
        done = isinstance(line.request, Request) and batch.target(line.request).location in finished
        row = await _outcome(batch, line, None if done else handle, alone)
        manifest.add(row, skipped=done)
        if not done:
            audit.add(_asked(line, row, batch.limits.settings.batch))
        if handle is not None and not done:
            taken_s = time.monotonic() - started
            publisher.add_request(row.reason or Status.OK, row.mode or "", taken_s)
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


def _asked(line: Line, row: Outcome, batch: str) -> Asked:
    request, outcome = line.request, str(row.reason or Status.OK)
    asked = (request.prompt, request.digest) if isinstance(request, Request) else ("", "")
    return Asked(f"batch:{batch}", row.custom_id or "", *asked, outcome)


async def _unless_stuck(work: Coroutine[Any, Any, Manifest], name: str | None) -> Manifest:
    """The result of `work`, which needs the app `name`.

    Raises:
        Failed: replicas of the app died and cannot restart, so that requests would wait for ever.
    """
    working, n_looks = asyncio.create_task(work), 0
    while not working.done():
        await asyncio.wait([working], timeout=_LOOK_S)
        why = await asyncio.to_thread(serving.stuck, name) if name and not working.done() else None
        n_looks = n_looks + 1 if why else 0
        if n_looks == _LOOKS:
            working.cancel()
            raise Failed(
                f"generation cannot continue: {why}; finished outputs are kept, run it again to continue"
            )
    return await working


class _Made(NamedTuple):
    """What the manifest takes from a sidecar."""

    uri: str
    seconds: float
    changes: tuple[Change, ...]

    @classmethod
    def of(cls, sidecar: Mapping[str, Any]) -> "_Made":
        changes = tuple(Change(change) for change in sidecar.get("changes", ()))
        return cls(str(sidecar["uri"]), float(sum(sidecar["seconds"].values())), changes)


async def _outcome(batch: Batch, line: Line, handle: Any, alone: asyncio.Lock) -> Outcome:
    """The manifest row of a request: refused, finished before (`handle` is None), or generated now."""
    request = line.request
    if isinstance(request, Rejected):
        return line.refused(request)
    target = batch.target(request)
    if handle is None:
        result = await asyncio.to_thread(_finished, target.location + ".json")
    else:
        result = await _generate(handle, request, target, alone)
    size = request.size
    asked = (request.custom_id, request.kind, size.width, size.height, size.n_frames, request.fps)
    outcome = Outcome(line.number, *asked)
    if isinstance(result, Rejected):
        return outcome.refused(result)
    return replace(outcome, **result._asdict())


def _finished(location: str) -> _Made | Rejected:
    """The sidecar of an output that was finished before."""
    try:
        return _Made.of(storage.read_json(location))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        why = f"{location} is not as it was written ({in_a_line(error)}); delete it to generate this again"
        return Rejected(Reason.UNREADABLE, why)


async def _generate(handle: Any, request: Request, target: Target, alone: asyncio.Lock) -> _Made | Rejected:
    """The sidecar of the app's output, or why it has none.

    A request whose replica died is sent again, the last time without any other such request: one of them may
    kill replicas. A request that failed otherwise, perhaps transiently, is sent again once.
    """
    tries = {True: _TRIES_OF_DEAD, False: _TRIES}
    while True:
        try:
            async with alone if tries[True] == 1 else nullcontext():
                made = await handle.remote(request, target)
                return made if isinstance(made, Rejected) else _Made.of(made)
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


def _app_name(batch: Batch, settings: Settings) -> tuple[str, str]:
    """The batch's name, and that of its app: a repeated job takes over the app that a killed one left.

    Another model or other settings need another app, and the old one would be in the way.
    """
    name = f"vitascope-{stable_id(batch.folder)}-"
    sections = settings.generate, settings.prompts, settings.provenance
    model = (batch.model.maker.identity, *batch.model.adapted.values())
    return name, name + stable_id(*model, *(section.model_dump_json() for section in sections))

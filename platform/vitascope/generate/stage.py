"""The job: stream a request file through the app."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from vitascope import storage
from vitascope.cluster.local import check_room, connect
from vitascope.config import Settings
from vitascope.generate.app import serving
from vitascope.generate.app.build import build
from vitascope.generate.app.sending import Sender, unless_stuck
from vitascope.generate.batch import control
from vitascope.generate.batch.batch import Batch
from vitascope.generate.batch.control import Wish
from vitascope.generate.batch.figures import sentence
from vitascope.generate.batch.manifest import Manifest, Outcome
from vitascope.generate.batch.progress import Progress
from vitascope.generate.batch.streaming import Noted, Stream, Told
from vitascope.generate.models import Models
from vitascope.generate.request import Request
from vitascope.generate.tracing import tracing
from vitascope.ledger import Status
from vitascope.metrics import Publisher
from vitascope.progress import say, track
from vitascope.prompts.audit import Asked, Audit
from vitascope.records import stable_id
from vitascope.stages import resources
from vitascope.stages.registry import Summary
from vitascope.stages.running import running


def run(settings: Settings) -> Summary:
    """Generates the outputs of the request file and returns the summary.

    Every request ends with exactly one output, or a manifest row with a reason. Outputs of an earlier run are
    left untouched. Ray and the app start only if requests are left. In the summary, `succeeded` is false if a
    valid request failed or was cancelled, or if no request has an output.
    """
    with running(settings, "generate") as summary:
        summary |= _generated(settings)
    return summary


def _generated(settings: Settings) -> Summary:
    batch = Batch.of(settings)
    wish = control.wished(batch.folder)
    if wish is not Wish.RESUME:
        say("generate", f"a {wish} was asked for; vitascope batch resume takes that back")
    pending = wish is not Wish.CANCEL and any(map(batch.is_pending, batch.lines()))
    location = storage.join(batch.folder, "manifest.parquet")
    with Manifest() as manifest, _audited(settings) as asked:
        if pending:
            _through_the_app(batch, settings, manifest, asked)
        else:
            with _showing() as show:
                asyncio.run(Stream(batch, None, manifest, show, asked=asked).run())
        manifest.commit(location)
    summary = manifest.summary(settings.generate.device_hour_price)
    for text in (sentence(summary["denoising"]), *manifest.account(batch.folder, location)):
        if text:
            say("generate", text)
    return summary


def _through_the_app(batch: Batch, settings: Settings, manifest: Manifest, asked: Noted) -> None:
    connect(settings.cluster)
    takes = resources.of_generation(settings)
    check_room(settings.cluster, f"generate's {takes.processes}", cpus=takes.cpus, gpus=takes.gpus)
    _say_size(batch.models, settings)
    names = app_name(batch, settings)
    app = build(batch.models, settings)
    with serving.serving(app, *names, tracing(settings.generate)) as handle, _telling(batch.run) as told:
        send = Sender(handle, settings.generate.tries)
        asyncio.run(_streamed(partial(Stream, batch, send, manifest, told, asked=asked), names[1]))


async def _streamed(stream: Callable[[], Stream], name: str) -> None:
    """Runs a stream, made within the loop, through the app of this name."""
    await unless_stuck(stream().run(), name)


@contextmanager
def _audited(settings: Settings) -> Iterator[Noted]:
    """Notes in the audit log what the batch asked for."""
    who = f"batch:{settings.generate.batch}"
    with Audit(settings.path("audit"), settings.prompts.audit_days) as audit:

        def asked(row: Outcome, request: Request | None) -> None:
            what = (request.prompt, request.digest) if request else ("", "")
            audit.add(Asked(who, row.custom_id or "", *what, str(row.reason or Status.OK)))

        yield asked


@contextmanager
def _telling(run: str) -> Iterator[Told]:
    """Shows and publishes the progress of a stream that uses the app."""
    publisher = Publisher(run)
    with _showing() as show, publisher.stage("generate", 0) as did:

        def told(row: Outcome, seconds: float | None, progress: Progress) -> None:
            show(row, seconds, progress)
            if seconds is not None:
                publisher.add_request(row.reason or Status.OK, row.mode or "", seconds)
            publisher.set("stage_items", progress.total, stage="generate")
            did(1)

        yield told


@contextmanager
def _showing() -> Iterator[Told]:
    with track(None, "generate") as advance:

        def show(row: Outcome, seconds: float | None, progress: Progress) -> None:  # noqa: ARG001
            failed = sum(progress.failed.values())
            note = progress.note() + (f", {failed} failed" if failed else "")
            advance(1, note, total=progress.total if progress.exact else None)

        yield show


def _say_size(models: Models, settings: Settings) -> None:
    """Names the memory that two experts take: all noise levels are in work at once, so both stay in it."""
    for model in (model.opened for model in models.each.values()):
        if model.n_experts > 1:
            gb = model.n_parameters * (2 if settings.generate.use_gpu else 4) / 1e9
            say("generate", f"each denoise replica keeps {model.n_experts} networks in memory, {gb:.3g} GB")


def app_name(batch: Batch, settings: Settings) -> tuple[str, str]:
    """The batch's name, and that of its app: a repeated job takes over the app that a killed one left.

    Another model or other settings need another app, and the old one would be in the way.
    """
    name = f"vitascope-{stable_id(batch.folder)}-"
    sections = settings.generate, settings.prompts, settings.provenance
    how = (section.model_dump_json() for section in sections)
    return name, name + stable_id(*batch.models.identities, *how)

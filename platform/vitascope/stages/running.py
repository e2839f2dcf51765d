"""A running stage: its time, summary, progress and metrics."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from vitascope import storage
from vitascope.config import Settings
from vitascope.ledger import Status
from vitascope.metrics import Publisher
from vitascope.progress import track
from vitascope.stages.registry import STAGES, Summary


@contextmanager
def running(settings: Settings, stage: str) -> Iterator[Summary]:
    """Times a stage, and writes its summary, with `seconds`, when it ends without an error.

        with running(settings, "clips") as summary:
            summary |= {"videos_in": 3}
        return summary

    A stage without a file of its own (`Stage.has_summary`) is only timed.
    """
    started, summary = time.monotonic(), Summary()
    yield summary
    summary["seconds"] = round(time.monotonic() - started, 3)
    if STAGES[stage].has_summary:
        storage.put_json(summary_location(settings, stage), summary)


def summary_location(settings: Settings, stage: str) -> str:
    """The file with a stage's summary."""
    return settings.path("summaries", f"{stage}.json")


@contextmanager
def items(
    settings: Settings, label: str, total: int, *, done: int = 0, note_drops: bool = False
) -> Iterator[Callable[..., None]]:
    """Shows and publishes the progress of a stage, or a part of it, as `label`; yields the counting function.

    `count(outcomes, n=None)` takes the outcome of each item (ok, None, or the reason of a drop), and the
    number of items if the outcomes are of something else. `done`: items finished by an earlier run.
    `note_drops`: the number of dropped items is shown too.
    """
    publisher, n_dropped = Publisher(run=settings.run.folder), 0
    with track(total, label) as advance, publisher.stage(label, total, done) as publish:
        advance(done)

        def count(outcomes: Iterable[str | None], n: int | None = None) -> None:
            nonlocal n_dropped
            reasons = [str(outcome or Status.OK) for outcome in outcomes]
            n_dropped += len(reasons) - reasons.count(Status.OK)
            n = len(reasons) if n is None else n
            publisher.add_items(label, reasons)
            publish(n)
            advance(n, note=f"{n_dropped} dropped" if note_drops and n_dropped else "")

        yield count

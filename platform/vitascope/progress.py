"""Show the progress of long work."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_SAY_EVERY_S = 60.0


class Stopped(RuntimeError):
    """Work was asked to stop, and has stopped; run again, it continues."""


@contextmanager
def track(total: int | None, label: str) -> Iterator[Callable[..., None]]:
    """Shows a bar for `total` items (None if unknown) and yields the function that advances it.

        with track(len(videos), "clips") as advance:
            for video in videos:
                advance(1, note="12 dropped")

    `advance(n=1, note="", total=None)` counts `n` more items; `note` is shown next to the bar from then on.
    `total`, once it is known, is that of all items. If the output is not a terminal, a line every minute, and
    one at the end, says what was done and how long it took.
    Failed work gets no line at the end.
    """
    console = Console(file=sys.stdout, highlight=False)
    started, done, shown = time.monotonic(), 0, ""
    printed = started
    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=console, transient=True)
    task = bar.add_task(label, total=total, note="")

    def advance(n: int = 1, note: str = "", total: int | None = total) -> None:
        nonlocal done, shown, printed
        done, shown = done + n, note or shown
        bar.update(task, advance=n, note=shown, total=total)
        if not console.is_terminal and time.monotonic() - printed > _SAY_EVERY_S:
            printed = time.monotonic()
            console.print(_line(label, f"{done} of {total or '?'}", printed - started, shown))

    if console.is_terminal:
        with bar:
            yield advance
    else:
        yield advance
    console.print(_line(label, str(done), time.monotonic() - started, shown))


def say(label: str, text: str) -> None:
    """Prints a line under the label of a stage, like the lines of `track`."""
    print(f"{label:>10}  {text}", flush=True)


def say_dropped(label: str, left: str, by_reason: Mapping[str, int]) -> None:
    """Prints what is left and why the rest was dropped; nothing if nothing was dropped."""
    if by_reason:
        say(label, f"{left}: " + ", ".join(f"{reason} {n}" for reason, n in by_reason.items()))


def say_notes(label: str, notes: Iterable[str]) -> None:
    """Prints the choices that a stage made by itself, one a line."""
    for note in notes:
        say(label, f"note: {note}")


def _line(label: str, done: str, seconds: float, note: str) -> str:
    return f"{label:>10}  {done} in {seconds:.1f} s" + (f"  {note}" if note else "")

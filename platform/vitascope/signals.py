"""Ctrl-C, and requests to end."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
"""The exit status after Ctrl-C, as in shells."""

SENT_AGAIN_S = 0.05
"""Delay before a signal that arrived in a finalizer is sent again: long enough for the finalizer to end."""


@contextmanager
def handled() -> Iterator[None]:
    """Within this context Ctrl-C raises KeyboardInterrupt, and a second one ends the process.

    SIGTERM raises SystemExit(SIGTERM), as in Ray. Only the main thread gets signals. A signal that arrives
    while Python runs a finalizer, whose exceptions it ignores, is sent again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False

    def interrupt(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal came
        if came:
            end_at_once()
        came = True
        raise KeyboardInterrupt

    def end(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        sys.exit(signum)

    def ignored(unraisable: "sys.UnraisableHookArgs") -> None:
        nonlocal came
        if unraisable.exc_type not in (KeyboardInterrupt, SystemExit):
            hook_before(unraisable)
            return
        came = False
        number = signal.SIGINT if unraisable.exc_type is KeyboardInterrupt else signal.SIGTERM
        main_thread = threading.main_thread().ident
        threading.Timer(SENT_AGAIN_S, signal.pthread_kill, (main_thread, number)).start()

    hook_before, sys.unraisablehook = sys.unraisablehook, ignored
    ours = {signal.SIGINT: interrupt, signal.SIGTERM: end}
    before = {number: signal.signal(number, handler) for number, handler in ours.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook_before


def install_again() -> None:
    """Restores Python's SIGTERM handler in front of the one of Ray's C++ part, which prints a stack."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def end_at_once() -> None:
    """Ends this process without cleanup; a local Ray ends with it, including its work."""
    os._exit(INTERRUPTED)

"""Run risky decoding in a killable child.

Media libraries hang and crash on some files. Each thread keeps one child process that decodes for it; a
child that outlives its time limit is killed by the kernel (SIGALRM), one that crashes takes nothing along,
and the next call gets a new one. A call costs well under a millisecond plus the pickling of its result.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

CALLS_PER_CHILD = 500  # then a new one, since decord's memory grows with the files it has opened
_children = threading.local()
_Result = TypeVar("_Result")


class ChildDied(RuntimeError):
    """The child was killed at its time limit, or crashed; the text says which."""


def isolated(function: Callable[..., _Result], *, timeout_s: float, **arguments: Any) -> _Result:
    """`function(**arguments)`, computed in this thread's child process within `timeout_s` seconds.

    The function must be importable by name, and what goes in and out picklable. An exception it raises is
    raised here.

    Raises:
        ChildDied: it took too long or crashed the process.
    """
    child = getattr(_children, "child", None)
    if child is None or child.calls >= CALLS_PER_CHILD:
        child = _children.child = _Child()
    try:
        succeeded, result = child.call(function, arguments, timeout_s)
    except (EOFError, ConnectionError):
        _children.child = None
        raise ChildDied(_cause(child.process, timeout_s)) from None
    if not succeeded:
        raise result
    return result


def _cause(process: subprocess.Popen, timeout_s: float) -> str:
    code = process.wait()
    if code == -signal.SIGALRM:
        return f"took longer than {timeout_s:g} s"
    return f"crashed the decoder ({signal.Signals(-code).name if code < 0 else f'exit {code}'})"


class _Child:
    """A child process and the pipe to it. It ends by itself when this end of the pipe is gone."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        fd = theirs.fileno()
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from vitascope.clips.isolate import serve; serve({fd})"],
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        theirs.close()
        self.pipe = Connection(ours.detach())
        self.calls = 0
        try:
            self.pipe.recv()
        except EOFError:
            code = self.process.wait()
            raise RuntimeError(f"the decoding process ended at its start (exit {code})") from None

    def call(self, function: Callable, arguments: dict[str, Any], timeout_s: float) -> tuple[bool, Any]:
        self.calls += 1
        self.pipe.send((function, arguments, timeout_s))
        return self.pipe.recv()

    def __del__(self) -> None:
        if hasattr(self, "pipe"):
            self.pipe.close()
            self.process.wait()


def serve(fd: int) -> None:
    """The child's side: answers calls from the pipe at `fd` until it closes."""
    pipe = Connection(fd)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the default ends the process, even within C code
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    pipe.send("ready")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what codecs print about bad files is in the ledger
    while True:
        try:
            function, arguments, timeout_s = pipe.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, timeout_s)
        try:
            answer = (True, function(**arguments))
        except Exception as error:
            answer = (False, error)
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send(answer)

"""Run risky decoding in a killable child.

Media libraries hang and crash on some files. Each thread keeps one child process that decodes for it. The
kernel kills a child that uses up its time limit; a crash ends the child alone, and the next call gets a new
one. A call costs 0.06 ms; arrays come back through shared memory, 6 MB in 2 ms (through the pipe: 20).

The limit is of processor time (SIGPROF), of all threads of the child: that a child waits for a processor, as
niced ones do on a busy machine, says nothing about the file. A child that sleeps for ever ends after `WALL`
times as long by the clock (SIGALRM). Waiting for a store does not count. If the store is given up, the call
and its child end at once, before a library takes it for the end of the file.

multiprocessing and concurrent.futures have no such limits, and their children import the main module anew.
"""

import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vitascope.stores import patience

# A child is replaced after so many calls, or if it holds so much memory between two: decord's grows with the
# files it has opened.
CALLS_PER_CHILD = 500
IDLE_BYTES = 2**30
# Of the shared memory this much is kept: new pages take the system five times as long as the copy.
KEPT_BYTES = 64 << 20
# A child's memory limit: a file that claims a gigantic size ends in its MemoryError, not in the node's.
MOST_BYTES = 8 * 2**30
# A kill from outside (the system, short of memory; an operator) says nothing about the file.
KILLS_FORGIVEN = 2
# The limit by the clock, in limits of processor time: a worker at nice 19 gets a 70th of a busy core, but
# hundreds of frames decode in seconds of processor time.
WALL = 20
_children = threading.local()
_Result = TypeVar("_Result")


class ChildDied(RuntimeError):
    """The child was killed at its time limit, or crashed; the text says which."""


def isolated(function: Callable[..., _Result], *, timeout_s: float, **arguments: Any) -> _Result:
    """`function(**arguments)`, computed in this thread's child process within `timeout_s` of processor time.

    The function must be importable by name, arguments and result picklable. Its exceptions are raised here.

    Raises:
        ChildDied: it took too long or crashed the process.
        MemoryError: it needed more than `MOST_BYTES`.
        Unavailable: a store did not answer for as long as `patience` retries.
    """
    for kills in range(KILLS_FORGIVEN + 1):
        try:
            succeeded, result = _child().call(function, arguments, timeout_s)
        except _Ended as end:
            _children.child = None
            if end.code != -signal.SIGKILL or kills == KILLS_FORGIVEN:
                raise ChildDied(_cause(end.code, timeout_s)) from None
        else:
            break
    if isinstance(result, patience.Unavailable):
        _children.child = None  # it has ended itself
    if not succeeded:
        raise result
    return result


class _Ended(RuntimeError):
    """The child's process is gone, with this exit status."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the decoding process ended (exit {code})")
        self.code = code


def _child() -> "_Child":
    """This thread's child; a new one if it has none, or the old one is worn out."""
    child = getattr(_children, "child", None)
    if child is None or child.calls >= CALLS_PER_CHILD or child.resident_bytes() > IDLE_BYTES:
        child = _children.child = _Child()
    return child


def _cause(code: int, timeout_s: float) -> str:
    if code == -signal.SIGPROF:
        return f"took longer than {timeout_s:g} s of processor time"
    if code == -signal.SIGALRM:
        return f"took longer than {WALL * timeout_s:g} s, most of it waiting"
    return f"crashed the decoder ({signal.Signals(-code).name if code < 0 else f'exit {code}'})"


def _memory_file() -> Any:
    """An open file without a name, in memory if the system supports that."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("vitascope"), "r+b")
    return tempfile.TemporaryFile()


class _Child:
    """A child process and the pipe to it. The child ends when this end of the pipe is closed."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        fd = theirs.fileno()
        self.shared = _memory_file()
        program = f"from vitascope.media.isolate import serve; serve({fd}, {self.shared.fileno()})"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            pass_fds=[fd, self.shared.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        theirs.close()
        self.pipe = Connection(ours.detach())
        self.calls = 0
        try:
            self._receive()
        except _Ended as end:
            if end.code == -signal.SIGKILL:
                raise
            raise RuntimeError(f"the decoding process ended at its start (exit {end.code})") from None

    def call(self, function: Callable, arguments: Mapping[str, Any], timeout_s: float) -> tuple[bool, Any]:
        self.calls += 1
        try:
            self.pipe.send((function, arguments, timeout_s))
        except ConnectionError:
            raise _Ended(self.process.wait()) from None
        pickled, sizes = self._receive()
        buffers = [_read(self.shared.fileno(), at, size) for at, size in sizes]
        if os.fstat(self.shared.fileno()).st_size > KEPT_BYTES:
            os.ftruncate(self.shared.fileno(), KEPT_BYTES)
        return pickle.loads(pickled, buffers=buffers)

    def _receive(self) -> Any:
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionError):
            raise _Ended(self.process.wait()) from None

    def resident_bytes(self) -> int:
        """Its own memory, without what is shared; 0 if the system does not report it (not Linux)."""
        try:
            _, resident, shared, *_ = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        except OSError:
            return 0
        return (int(resident) - int(shared)) * resource.getpagesize()

    def __del__(self) -> None:
        if hasattr(self, "pipe"):
            self.pipe.close()
            self.process.wait()
            self.shared.close()


def serve(fd: int, shared: int) -> None:
    """The child's side: answers calls from the pipe at `fd` until it closes, arrays in the file `shared`."""
    pipe = Connection(fd)
    for limit in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(limit, signal.SIG_DFL)  # the default ends the process, even within C code
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM, signal.SIGPROF])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, resource.RLIM_INFINITY))
    patience.while_waiting = _Clock(pipe, shared).stopped
    pipe.send("ready")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what codecs print about bad files is in the ledger
    while True:
        try:
            function, arguments, timeout_s = pipe.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, timeout_s)
        signal.setitimer(signal.ITIMER_REAL, WALL * timeout_s)
        try:
            answer = (True, function(**arguments))
        except Exception as error:
            answer = (False, error)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send(_laid_out(answer, shared))


class _Clock:
    """The child's limit by the clock; the thread of the stores' clients stops it."""

    def __init__(self, pipe: Connection, shared: int) -> None:
        self._pipe, self._shared = pipe, shared
        self._n_waiting, self._left_s = 0, 0.0

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stops it while a store is waited for; if the store is given up, the call and the child end."""
        if self._n_waiting == 0:
            self._left_s, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        self._n_waiting += 1
        try:
            yield
        except patience.Unavailable as error:
            self._pipe.send(_laid_out((False, error), self._shared))
            os._exit(0)
        finally:
            self._n_waiting -= 1
            if self._n_waiting == 0:
                signal.setitimer(signal.ITIMER_REAL, self._left_s)


def _laid_out(answer: Any, shared: int) -> tuple[bytes, list[tuple[int, int]]]:
    """`answer` pickled without its arrays, and the begin and size of each array in the file `shared`."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(answer, protocol=5, buffer_callback=buffers.append)
    sizes, end = [], 0
    for buffer in buffers:
        content = buffer.raw()
        sizes.append((end, content.nbytes))
        while content:  # a call writes up to 2 GiB
            n_written = os.pwrite(shared, content, end)
            content, end = content[n_written:], end + n_written
    return pickled, sizes


def _read(shared: int, begin: int, size: int) -> np.ndarray:
    content = np.empty(size, np.uint8)
    left = content.data
    while left:
        left = left[os.preadv(shared, [left], begin + size - len(left)) :]
    return content

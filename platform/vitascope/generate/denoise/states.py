"""States of running requests: a killed replica costs passes, not requests.

A state is a safetensors file: what the steps have changed of a request's work, and how far it is. It lies at
`<folder of outputs>/.running/<name of the output>.state`, until the request has ended in whatever way.
"""

import dataclasses
import json
import logging
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from vitascope import storage
from vitascope.errors import in_a_line
from vitascope.feed.patches import Grid, unpatchify
from vitascope.generate.denoise.reuse import Recent
from vitascope.generate.denoise.sampler import Work
from vitascope.generate.denoise.solvers import Past

_LOG = logging.getLogger("ray.serve")  # the replica's log
_CHANGING = ("step", "tokens", "past", "recent", "device_s")
"""The fields of `Work` that a step changes: tensors, numbers, tuples and dataclasses of them."""
_KINDS: dict[str, type] = {"Past": Past, "Recent": Recent}
"""The dataclasses in these fields."""
_MOST_HEADER_BYTES = 1 << 20
_IDLE_S = 1.0  # a request that begins is due later


class Slot(NamedTuple):
    """The location of a request's state, and what identifies the request and its model."""

    uri: str
    identity: str


def slot(output: str, identity: str = "") -> Slot:
    """The slot of the request whose output is at the location `output`, without suffix."""
    folder, _, name = output.rpartition("/")
    return Slot(storage.join(folder, ".running", f"{name}.state"), identity)


@dataclass(frozen=True, eq=False)
class State:
    """What a request's saved state says: its work was before step `step` of `n_steps`.

    tokens: (n, D) float32, the best guess at the clean ones: what a solver with a past predicted last, else
    the current ones, which are noisy.
    """

    step: int
    n_steps: int
    grid: Grid
    tokens: Tensor

    def latent(self, patch: int) -> Tensor:
        """The tokens as a latent (T, h, w, C), for a preview."""
        return unpatchify(self.tokens, self.grid, patch)


def read(output: str) -> State | None:
    """The saved state of the request whose output will be at `output`; None without one, or if damaged."""
    found = _read(slot(output).uri)
    if found is None:
        return None
    fields, about = found
    past = fields["past"]
    tokens = past.clean[0] if isinstance(past, Past) and past.clean else fields["tokens"]
    return State(fields["step"], about["n_steps"], tuple(about["grid"]), tokens)


def progress(output: str) -> tuple[int, int] | None:
    """As `read`, but only the step and the number of steps: reads the beginning of the file."""
    uri = slot(output).uri
    try:
        n_bytes = int.from_bytes(storage.read_bytes(uri, 0, 8), "little")
        about = _about(storage.read_bytes(uri, 8, 8 + min(n_bytes, _MOST_HEADER_BYTES)))
        return int(about["changed"]["step"]), int(about["n_steps"])
    except FileNotFoundError:
        return None
    except Exception as error:
        _ignored(uri, in_a_line(error))
        return None


def resumed(work: Work, at: Slot) -> Work:
    """The work as it was saved at `at`; unchanged without a state of this request that is whole."""
    found = _read(at.uri)
    if found is None:
        return work
    fields, about = found
    expected = (at.identity, len(work.schedule.experts), work.tokens.shape, list(work.grid))
    fits = (about["identity"], about["n_steps"], fields["tokens"].shape, about["grid"]) == expected
    if not fits or not 0 <= fields["step"] < about["n_steps"]:
        _ignored(at.uri, "it is of another request or model")
        return work
    _LOG.info("A request continues at step %d of %d (%s).", fields["step"], about["n_steps"], at.uri)
    return dataclasses.replace(work, **_moved(fields, work.tokens.device))


def content(work: Work, identity: str) -> bytes:
    """The content of a state file."""
    tensors: dict[str, Tensor] = {}
    changed = {name: _flat(getattr(work, name), name, tensors) for name in _CHANGING}
    about = {
        "identity": identity,
        "n_steps": len(work.schedule.experts),
        "grid": list(work.grid),
        "changed": changed,
        "checksum": _checksum(tensors),
    }
    return safetensors.torch.save(tensors, {"about": json.dumps(about)})


def _read(uri: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The changed fields and the other facts of a state file; None without one, or if it is damaged."""
    try:
        whole = storage.read_bytes(uri)
        about = _about(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
        tensors = safetensors.torch.load(whole)
        if about["checksum"] != _checksum(tensors):
            raise ValueError("its checksum differs")
        return {name: _whole(about["changed"][name], tensors) for name in _CHANGING}, about
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever is wrong with it, the request can begin anew
        _ignored(uri, in_a_line(error))
        return None


def _about(header: bytes) -> dict[str, Any]:
    about: dict[str, Any] = json.loads(json.loads(header)["__metadata__"]["about"])
    return about


def _ignored(uri: str, why: str) -> None:
    _LOG.warning("The saved state %s is ignored: %s", uri, why)


def _flat(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON; its tensors go into `tensors` under names that begin with `name`."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, tuple):
        return [_flat(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
    if dataclasses.is_dataclass(value):
        parts = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        flat = {key: _flat(part, f"{name}.{key}", tensors) for key, part in parts.items()}
        return {"kind": type(value).__name__, "fields": flat}
    return value


def _whole(flat: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `_flat`."""
    if isinstance(flat, list):
        return tuple(_whole(item, tensors) for item in flat)
    if isinstance(flat, dict):
        if "tensor" in flat:
            return tensors[flat["tensor"]]
        return _KINDS[flat["kind"]](**{key: _whole(part, tensors) for key, part in flat["fields"].items()})
    return flat


def _moved(value: Any, device: Any) -> Any:
    """`value` with its tensors on `device`."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: _moved(getattr(value, f.name), device) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **parts)
    return value


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].flatten().view(torch.uint8).numpy().data, crc)
    return crc


class Saver:
    """Saves the states of running requests, and deletes those of requests that have ended.

    One thread does both, a state at a time, so that a pass waits for neither and memory is bounded by one
    state. If a write fails, a line in the log says so, and the next is tried when it is due.
    """

    def __init__(self, every_s: float) -> None:
        """A request is saved at most once in `every_s` seconds, for the first time after these."""
        self._every_s = every_s
        self._latest: dict[Slot, Work] = {}
        self._due: dict[Slot, float] = {}
        self._ended: list[Slot] = []
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="states", daemon=True)
        self._thread.start()

    def keep(self, at: Slot, work: Work) -> None:
        """Takes note of a request's newest work; returns at once."""
        with self._wake:
            self._latest[at] = work
            self._due.setdefault(at, time.monotonic() + self._every_s)

    def end(self, at: Slot, *, delete: bool) -> None:
        """The request has ended; deletes its state unless another process is to continue it."""
        with self._wake:
            self._latest.pop(at, None)
            self._due.pop(at, None)
            if delete:
                self._ended.append(at)
                self._wake.notify()

    def close(self) -> None:
        """Deletes what is to be deleted, and stops the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _loop(self) -> None:
        while (task := self._next()) is not None:
            try:
                task()
            except Exception as error:
                _LOG.warning("A saved state cannot be written or deleted: %s", in_a_line(error))

    def _next(self) -> Callable[[], None] | None:
        """Waits for the next thing to do; None when closed."""
        with self._wake:
            while True:
                if self._ended:
                    uri = self._ended.pop().uri
                    return lambda: storage.delete(uri)
                if self._closed:
                    return None
                now = time.monotonic()
                at = min(self._latest, key=self._due.__getitem__, default=None)
                if at is not None and self._due[at] <= now:
                    self._due[at] = now + self._every_s
                    work = self._latest.pop(at)  # one that does not advance is not saved again
                    return lambda: storage.put(at.uri, content(work, at.identity))
                self._wake.wait(min([_IDLE_S, *(self._due[each] - now for each in self._latest)]))

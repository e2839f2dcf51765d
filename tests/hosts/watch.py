"""Record which nodes a cluster has, over time.

As a script it asks a cluster's dashboard twice a second and writes a line of JSON for every answer. `Watch`
runs it on a host and reads what it wrote.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from ray.util.state import list_nodes

from hosts.namespaces import Command, Host, wait_until

INTERVAL_S = 0.5
LABEL = "vitascope-node"


@dataclass(frozen=True)
class Node:
    """A node as Ray's own list has it; times are in seconds since 1970, `end_s` is none while it lives."""

    node_id: str
    kind: str  # its label vitascope-node; "head"; "" for a worker without the label
    ip: str
    alive: bool
    start_s: float
    end_s: float | None
    why: str  # it ended


@dataclass(frozen=True)
class Sample:
    """All nodes that the cluster knew at a time, the dead ones too."""

    time_s: float
    nodes: tuple[Node, ...]

    @property
    def alive(self) -> list[Node]:
        return [node for node in self.nodes if node.alive]

    @property
    def workers(self) -> list[Node]:
        """Those alive that are no head."""
        return [node for node in self.alive if node.kind != "head"]


def lives(samples: Iterable[Sample]) -> list[Node]:
    """Every worker that ever was, in the order in which they came, each as it was seen last.

    A node that came and went between two samples is among them, for Ray remembers the dead.
    """
    last = {node.node_id: node for sample in samples for node in sample.nodes if node.kind != "head"}
    return sorted(last.values(), key=lambda node: node.start_s)


def most(samples: Iterable[Sample], kind: str | None = None) -> int:
    """The most workers (of `kind`) alive at the same time; one that goes just as another comes goes first."""
    ours = [node for node in lives(samples) if kind in (None, node.kind)]
    changes = [(node.start_s, 1) for node in ours] + [(node.end_s, -1) for node in ours if node.end_s]
    count = peak = 0
    for _, change in sorted(changes):
        count += change
        peak = max(peak, count)
    return peak


def read(lines: Iterable[bytes]) -> list[Sample]:
    """The samples in lines that the script wrote; a last line that is not whole yet is left out."""
    documents = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [Sample(d["time_s"], tuple(Node(**n) for n in d["nodes"])) for d in documents if "nodes" in d]


class Watch:
    """The recorder on `host` of the cluster whose dashboard is at `address`, http://host:port.

    Waiting for anything fails at once if `head`, the process that the cluster depends on, has ended.
    """

    def __init__(self, host: Host, address: str, path: Path, *, head: Command) -> None:
        path.touch()
        self.path, self._head = path, head
        self._samples: list[Sample] = []
        self._done = 0  # bytes of the file that are in the samples
        command = [sys.executable, "-m", "hosts.watch", address, str(path)]
        self._recorder = host.popen(command, PYTHONPATH=str(Path(__file__).parents[1]))

    @property
    def samples(self) -> list[Sample]:
        """What was recorded so far, oldest first."""
        with self.path.open("rb") as source:
            source.seek(self._done)
            lines = source.read().splitlines(keepends=True)
        self._samples += read(lines)
        self._done += sum(len(line) for line in lines if line.endswith(b"\n"))
        return list(self._samples)

    def now(self) -> Sample:
        """The cluster as it is, at most three seconds old.

        Raises:
            TimeoutError: when the cluster does not say so for half a minute.
        """
        self.wait_for(lambda _: True, 30, "an answer of the cluster's dashboard")
        return self.samples[-1]

    def wait_for(self, condition: Callable[[Sample], bool], timeout_s: float, what: str) -> float:
        """Waits until the cluster is as `condition` says; gives the seconds it took.

        Raises:
            TimeoutError: naming `what`, with the last sample, when that is not so within `timeout_s`.
            RuntimeError: when the head or the recorder has ended, with its output.
        """
        try:
            return wait_until(lambda: self._holds(condition), timeout_s, what)
        except TimeoutError as error:
            last = self.samples[-1:]
            raise TimeoutError(f"{error}; last seen: {last}; {self._recorder.said()}") from None

    def _holds(self, condition: Callable[[Sample], bool]) -> bool:
        for name, process in (("head", self._head), ("recorder", self._recorder)):
            if process.poll() is not None:
                raise RuntimeError(f"the {name} has ended: {process.said()}")
        samples = self.samples
        return bool(samples) and time.time() - samples[-1].time_s < 3 and condition(samples[-1])


def ask(address: str) -> dict[str, object]:
    """What the cluster's dashboard knows now, as a JSON document."""
    now = time.time()
    found = list_nodes(address, limit=10_000, timeout=5, detail=True)
    nodes = [
        Node(
            node_id=node.node_id,
            kind="head" if node.is_head_node else node.labels.get(LABEL, ""),
            ip=node.node_ip,
            alive=node.state == "ALIVE",
            start_s=(node.start_time_ms or 0) / 1000,
            end_s=node.end_time_ms / 1000 if node.end_time_ms else None,
            why=node.state_message or "",
        )
        for node in found
    ]
    return {"time_s": now, "nodes": [asdict(node) for node in nodes]}


def main(address: str, path: str) -> None:
    """Records until it is stopped; that the cluster does not answer is recorded too."""
    with Path(path).open("a", buffering=1) as sink:
        while True:
            try:
                document = ask(address)
            except Exception as error:
                document = {"time_s": time.time(), "error": repr(error)}
            sink.write(json.dumps(document) + "\n")
            time.sleep(INTERVAL_S)


if __name__ == "__main__":
    main(*sys.argv[1:])

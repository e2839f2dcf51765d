"""A cluster of several hosts on one machine, with a network that can be cut.

Every host is private (see `namespaces.Host`) and hangs on a switch by a cable of its own. The switch is a
host too, so the machine's own network is not touched. They share the disk, but not /tmp/ray and /dev/shm.

    with hosts(2, tmp_path) as net:
        net.start_head()
        for i in (1, 2):
            net.start_worker(i, {"vitascope-node": "decode"}, num_cpus=3)
        job = net.popen("head", ["python", "job.py"], RAY_ADDRESS=net.gcs_address)
        net.cut(1)
        net.wait_gone(1)
        net.heal(1)
        assert job.result(60, check=True).stdout == "done\\n"
"""

import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess

from hosts.namespaces import Command, Host, ray_environment, wait_until, write_token
from hosts.watch import Node, Sample, Watch

MIB = 1 << 20
NETWORK = "10.77.0"
START_TIMEOUT_S = 180  # 8 s on an idle machine of 2 cores
SETTLED_S = 10  # a node that was given up hears so earlier


def worker(i: int) -> str:
    """The host name of worker `i`, from 1."""
    return f"worker{i}"


def _ip(pid: int, *commands: str) -> None:
    """Runs these commands of `ip` in the network of process `pid`; process ids in them are the machine's."""
    enter = ["nsenter", "--target", str(pid), "--net", "ip", "-batch", "-"]
    done = subprocess.run(enter, input="\n".join(commands), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {commands} failed: {done.stderr}")


class Net:
    """A head and workers; workers are numbered from 1 and named worker1, worker2, …"""

    def __init__(
        self, n_workers: int, folder: Path, *, object_store_bytes: int, env: Mapping[str, str]
    ) -> None:
        self.names = ["head", *(worker(i + 1) for i in range(n_workers))]
        self.folder, self._object_store_bytes = folder, object_store_bytes
        self._addresses = {name: f"{NETWORK}.{i + 1}" for i, name in enumerate(self.names)}
        self._env = ray_environment(write_token(folder), env)
        self.gcs_address = f"{self._addresses['head']}:6379"
        self.address = f"http://{self._addresses['head']}:8265"
        self._hosts: dict[str, Host] = {}
        self._nodes: dict[str, tuple[Command, list[str]]] = {}  # what `ray start` runs as, and its command
        self._deadlines: list[threading.Timer] = []
        self._switch = self._boot("switch")
        _ip(self._switch.pid, "link add bridge type bridge", "link set bridge up")
        self._watch: Watch | None = None

    def _boot(self, name: str) -> Host:
        """Boots a host with an empty disk and memory of its own."""
        boots = len(list(self.folder.glob(f"{name}-*")))
        folder = self.folder / f"{name}-{boots + 1}"
        shm_bytes = self._object_store_bytes + 512 * MIB
        self._hosts[name] = Host(name, folder, env=self._env, addresses=self._addresses, shm_bytes=shm_bytes)
        return self._hosts[name]

    def _up(self, name: str) -> Host:
        """The host, booted and plugged in if it is not."""
        if name not in self.names:
            raise ValueError(f"there is no host {name!r}; there are {', '.join(self.names)}")
        if name in self._hosts and self._hosts[name].is_up:
            return self._hosts[name]
        host = self._boot(name)
        _ip(
            self._switch.pid,
            f"link add {name} type veth peer name eth0 netns {host.pid}",
            f"link set {name} master bridge up",
        )
        _ip(host.pid, f"address add {self._addresses[name]}/24 dev eth0", "link set eth0 up")
        return host

    @property
    def watch(self) -> Watch:
        """The record of the cluster's nodes, once the head was started."""
        if self._watch is None:
            raise ValueError("there is no head yet; call start_head() first")
        return self._watch

    def start_head(self, *, num_cpus: int = 0) -> float:
        """Starts the head with its dashboard; gives the seconds until both answer."""
        served = ["--head", "--port=6379", "--dashboard-host=0.0.0.0", "--dashboard-port=8265"]
        self._start("head", [*served, f"--num-cpus={num_cpus}"])
        head, host = self._nodes["head"][0], self._hosts["head"]
        self._watch = Watch(host, self.address, self.folder / "nodes.jsonl", head=head)
        return self.watch.wait_for(lambda sample: bool(sample.alive), START_TIMEOUT_S, "the head")

    def start_worker(self, i: int, labels: Mapping[str, str], num_cpus: int, *, wait: bool = True) -> float:
        """Starts a node on worker `i`, which is booted anew if it was killed.

        Gives the seconds until it is in the cluster; without `wait`, `wait_alive` says when it is.

        Raises:
            ValueError: when one exists.
        """
        if (had := self._nodes.get(worker(i))) and had[0].poll() is None:
            raise ValueError(
                f"{worker(i)} has a node already; kill({i}) ends it, wait_killed({i}) waits for that"
            )
        joined = [f"--address={self.gcs_address}", f"--num-cpus={num_cpus}"]
        self._start(worker(i), [*joined, f"--labels={','.join(f'{k}={v}' for k, v in labels.items())}"])
        return self.wait_alive(i) if wait else 0.0

    def _start(self, name: str, options: list[str]) -> None:
        host = self._up(name)
        limits = f"--object-store-memory={self._object_store_bytes}"
        placed = f"--node-ip-address={self._addresses[name]}"
        command = ["ray", "start", "--block", limits, placed, *options]
        self._nodes[name] = host.popen(command), command

    def run(
        self, host: str, command: Sequence[str], *, timeout_s: float = 300, check: bool = True, **env: str
    ) -> CompletedProcess[str]:
        """Runs `command` on a host, with the cluster's token; raises as `namespaces.Command.result` does."""
        return self._up(host).run(command, timeout_s=timeout_s, check=check, **env)

    def popen(self, host: str, command: Sequence[str], **env: str) -> Command:
        """Starts `command` on a host, with the cluster's token."""
        return self._up(host).popen(command, **env)

    def alive_nodes(self) -> list[Node]:
        """The nodes that the cluster counts as alive, the head too."""
        return self.watch.now().alive

    def node(self, i: int) -> Node | None:
        """The live node on worker `i`, if any."""
        return self._node(self.watch.now(), i)

    def _node(self, sample: Sample, i: int) -> Node | None:
        ip = self._addresses[worker(i)]
        return next((node for node in sample.alive if node.ip == ip), None)

    def wait_alive(self, i: int) -> float:
        """Waits until the cluster has a node on worker `i`; gives the seconds."""
        process, _ = self._nodes[worker(i)]

        def joined(sample: Sample) -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{worker(i)} did not join: {process.said()}")
            return self._node(sample, i) is not None

        return self.watch.wait_for(joined, START_TIMEOUT_S, f"{worker(i)} in the cluster")

    def wait_gone(self, i: int, timeout_s: float = 60) -> float:
        """Waits until the cluster counts worker `i` as dead; gives the seconds."""
        return self.watch.wait_for(lambda s: self._node(s, i) is None, timeout_s, f"{worker(i)} given up")

    def cut(self, i: int) -> None:
        """Cuts worker `i` off: from now on nothing reaches it and nothing comes from it."""
        _ip(self._switch.pid, f"link set {worker(i)} down")

    def heal(self, i: int) -> float:
        """Joins worker `i` to the network again; gives the seconds until the cluster has a node on it.

        A node that the cluster gave up ends itself as soon as it hears so. It is then started again, as the
        service manager of a real host would do. One that was cut off too shortly to be missed goes on, which
        takes 10 s to be sure of.
        """
        process, command = self._nodes[worker(i)]
        _ip(self._switch.pid, f"link set {worker(i)} up")
        healed = time.time()

        def settled() -> bool:
            last = self.watch.samples[-1]
            goes_on = last.time_s - healed > SETTLED_S and self._node(last, i) is not None
            return process.poll() is not None or goes_on

        waited = wait_until(settled, START_TIMEOUT_S, f"the cut-off node on {worker(i)} to end or to go on")
        if process.poll() is not None:
            self._nodes[worker(i)] = self._hosts[worker(i)].popen(command), command
        return waited + self.wait_alive(i)

    def kill(self, i: int) -> None:
        """Ends worker `i` without a word, as a power cut does; `start_worker` boots it again."""
        host = self._hosts[worker(i)]
        if host.is_up:
            _ip(self._switch.pid, f"link delete {worker(i)}")
            host.kill()

    def wait_killed(self, i: int, timeout_s: float = 120) -> float:
        """Waits until worker `i` has been killed, by `kill` or at its deadline; gives the seconds."""
        return wait_until(lambda: not self._hosts[worker(i)].is_up, timeout_s, f"the end of {worker(i)}")

    def drain(self, i: int, deadline_s: int) -> None:
        """Gives worker `i` notice, as a cloud does that takes a spot node back; kills it at the deadline.

        Returns when Ray has accepted the notice; what is not done after `deadline_s` more seconds is lost.

        Raises:
            ValueError: when the cluster has no node on it.
        """
        node = self.node(i)
        if node is None:
            raise ValueError(f"the cluster has no node on {worker(i)} that could be drained")
        reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "taken back"]
        notice = [f"--node-id={node.node_id}", *reason, f"--deadline-remaining-seconds={deadline_s}"]
        self.run("head", ["ray", "drain-node", f"--address={self.gcs_address}", *notice])
        deadline = threading.Timer(deadline_s, self.kill, [i])
        deadline.start()
        self._deadlines.append(deadline)

    def down(self) -> None:
        """Ends every host; nothing of them is left but the files in the folder."""
        for deadline in self._deadlines:
            deadline.cancel()
            deadline.join()
        for host in self._hosts.values():
            host.kill()


@contextmanager
def hosts(
    n_workers: int, folder: Path, *, object_store_bytes: int = 200 * MIB, env: Mapping[str, str] | None = None
) -> Iterator[Net]:
    """A network for a head and `n_workers` workers, none of them started; all is taken down at the end.

    Args:
        n_workers: how many there can be.
        folder: an empty folder; the logs of Ray and of every command stay there, by host and boot.
        object_store_bytes: of each node.
        env: more environment for Ray's processes and for all commands.
    """
    net = Net(n_workers, folder, object_store_bytes=object_store_bytes, env=env or {})
    try:
        yield net
    finally:
        net.down()

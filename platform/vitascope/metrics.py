"""Every live metric, declared once, published through Ray.

    publisher = Publisher(run="demo")
    publisher.publish({"step": 7, "loss": 0.61, "tokens_per_s": 8100.0})
    publisher.add_items("clips", ["ok", "ok", "unreadable"])

Ray exports them on every node for Prometheus, with the prefix `ray_vitascope_`, and for counters the suffix
`_total`. Means and rates come from gauges and counters: Ray's histograms know their sums only to the nearest
bucket. Ray forgets a gauge some 20 s after it was last set, so each is set repeatedly: it lives as long as
its process, a counter as long as its node. NaN never arrives: hence `train_not_finite`.
"""

import atexit
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Metric:
    """A metric: its name, its unit, and its labels in addition to `run`."""

    name: str
    kind: Literal["gauge", "counter"]
    unit: str
    help: str
    labels: tuple[str, ...] = ()


def _by_name(*metrics: Metric) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


METRICS = _by_name(
    Metric("train_step", "gauge", "steps", "Global step of training."),
    Metric("train_epoch", "gauge", "epochs", "Epoch of training."),
    Metric("train_loss", "gauge", "1", "Training loss of the last step: mean squared error of the velocity."),
    Metric("train_val_loss", "gauge", "1", "Loss on the held-out samples, with fixed noise."),
    Metric("train_grad_norm", "gauge", "1", "Norm of the gradient before clipping."),
    Metric("train_lr", "gauge", "1", "Learning rate."),
    Metric("train_tokens", "counter", "tokens", "Patches trained on by all ranks."),
    Metric("train_tokens_per_s", "gauge", "tokens/s", "Patches trained on per second by all ranks."),
    Metric("train_step_s", "gauge", "s", "Duration of the last step."),
    Metric("train_useful_token_share", "gauge", "1", "Real tokens divided by tokens computed."),
    Metric(
        "train_cost_spread", "gauge", "1", "Costliest rank of the step divided by the mean rank, minus one."
    ),
    Metric("train_data_wait_share", "gauge", "1", "Fraction of the step's time spent waiting for packs."),
    Metric(
        "train_flops_per_s",
        "gauge",
        "FLOP/s",
        "Floating-point operations of the model achieved by all ranks.",
    ),
    Metric("train_not_finite", "gauge", "1", "1 if loss or gradient of the last step is not finite."),
    Metric(
        "train_steps_skipped", "counter", "steps", "Steps skipped because loss or gradient was not finite."
    ),
    Metric("train_peak_flops_per_s", "gauge", "FLOP/s", "Peak of all ranks, if known."),
    Metric("train_memory_bytes", "gauge", "bytes", "Peak memory of a rank: GPU, or resident.", ("rank",)),
    Metric("train_world_size", "gauge", "ranks", "Ranks that train."),
    Metric(
        "train_starts", "counter", "starts", "Starts of the ranks: the first, and one after every failure."
    ),
    Metric(
        "train_checkpoint_time_s",
        "gauge",
        "s",
        "Unix time of the newest checkpoint; of the ranks' start before the first.",
    ),
    Metric("requests", "counter", "requests", "Generation requests answered.", ("outcome", "mode")),
    Metric("request_s", "counter", "s", "Time from sending requests to their answers.", ("outcome", "mode")),
    Metric("generate_waiting", "gauge", "requests", "Requests that wait for room in a pass."),
    Metric("generate_running", "gauge", "requests", "Requests that are in the passes."),
    Metric("generate_passes", "counter", "passes", "Forward passes."),
    Metric("generate_pass_s", "counter", "s", "Time spent in forward passes."),
    Metric("generate_pass_tokens", "counter", "tokens", "Patches in forward passes."),
    Metric("generate_pass_budget", "counter", "tokens", "Patches that the passes could have held."),
    Metric("items", "counter", "items", "Videos, clips and samples processed.", ("stage", "outcome")),
    Metric("stage_running", "gauge", "1", "1 while the stage runs, 0 after it.", ("stage",)),
    Metric("stage_items", "gauge", "items", "Items of the stage; steps for training.", ("stage",)),
    Metric("stage_items_done", "gauge", "items", "Finished items of the stage.", ("stage",)),
)
"""All of them. `outcome` is ok, or the ledger's reason why not."""


class _Keeper:
    """Repeats the gauges of this process every few seconds, from one thread."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._values: dict[tuple[str, ...], tuple[Any, float, dict[str, str]]] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def set(self, gauge: Any, value: float, labels: dict[str, str]) -> None:
        """Sets a gauge now, and from now on."""
        with self._lock:
            gauge.set(value, labels)
            self._values[(gauge.info["name"], *labels.values())] = (gauge, value, labels)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="gauges", daemon=True)
                self._thread.start()
                atexit.register(self.end)  # before Ray's own exit handler, registered earlier

    def end(self) -> None:
        """Stops repeating the gauges."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        import ray

        while not self._ended.wait(self._every_s):
            with self._lock:
                if not ray.is_initialized():  # the next cluster has other runs
                    self._values.clear()
                for gauge, value, labels in self._values.values():
                    gauge.set(value, labels)


_KEEPER = _Keeper(every_s=3.0)


class Publisher:
    """Publishes the metrics of one run from a process that is connected to Ray."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._open: dict[str, Any] = {}

    def publish(self, row: Mapping[str, object]) -> None:
        """Publishes a row of training's log: every key that is declared as `train_<key>` and has a value."""
        for key, value in row.items():
            metric = METRICS.get(f"train_{key}")
            if metric is not None and isinstance(value, int | float):
                (self.set if metric.kind == "gauge" else self.add)(metric.name, value)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Sets a gauge; KeyError for a name that is not declared."""
        _KEEPER.set(self._metric(name), value, {"run": self._run, **labels})

    def add(self, name: str, n: float = 1, **labels: str) -> None:
        """Adds to a counter; KeyError for a name that is not declared. Adding nothing changes nothing."""
        if n > 0:
            self._metric(name).inc(n, {"run": self._run, **labels})

    def add_items(self, stage: str, outcomes: Iterable[str]) -> None:
        """Counts a stage's processed items, given the outcome of each: ok, or why not."""
        for outcome, n in Counter(outcomes).items():
            self.add("items", n, stage=stage, outcome=outcome)

    def add_request(self, outcome: str, mode: str, seconds: float) -> None:
        """Counts a generation request that was answered: ok, or why not, and how long it took."""
        self.add("requests", outcome=outcome, mode=mode)
        self.add("request_s", seconds, outcome=outcome, mode=mode)

    @contextmanager
    def stage(self, stage: str, total: float, done: float = 0) -> Iterator[Callable[[float], None]]:
        """Publishes that a stage runs and its progress; yields the function that counts finished items."""
        self.set("stage_items", total, stage=stage)

        def advance(n: float) -> None:
            nonlocal done
            done += n
            self.set("stage_items_done", done, stage=stage)

        advance(0)
        self.set("stage_running", 1, stage=stage)
        try:
            yield advance
        finally:
            self.set("stage_running", 0, stage=stage)

    def _metric(self, name: str) -> Any:
        if name not in self._open:
            from ray.util import metrics  # here, so that the declarations can be read without Ray

            declared = METRICS[name]
            kinds = {"gauge": metrics.Gauge, "counter": metrics.Counter}
            text = f"{declared.help} Unit: {declared.unit}."
            self._open[name] = kinds[declared.kind](f"vitascope_{name}", text, ("run", *declared.labels))
        return self._open[name]

"""What is published can be scraped."""

import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from ray.util import metrics as ray_metrics

from scraping import scrape
from vitascope import metrics
from vitascope.metrics import METRICS, Publisher
from vitascope.train import step as steps


@pytest.mark.usefixtures("ray_cluster")
def test_published_values_reach_the_nodes_metrics_page() -> None:
    publisher = Publisher(run="scrape-me")
    publisher.publish({"step": 7, "loss": 0.25, "tokens": 100, "unknown": 1.0, "val_loss": None})
    publisher.publish({"tokens": 50})
    publisher.add_items("clips", ["ok", "ok", "ok"])
    publisher.add("items", 0, stage="clips", outcome="unreadable")
    expected = {
        ("train_loss",): 0.25,
        ("train_step",): 7,
        ("train_tokens_total",): 150,
        ("items_total", "ok", "clips"): 3,
    }
    assert scrape("scrape-me", expected) == expected


@pytest.mark.usefixtures("ray_cluster")
def test_a_loss_that_is_not_a_number_is_seen_though_ray_drops_it() -> None:
    publisher = Publisher(run="nan")
    publisher.publish({"step": 3, "loss": float("nan"), "grad_norm": float("inf"), "not_finite": 1.0})
    found = scrape("nan", {("train_not_finite",): 1, ("train_step",): 3})
    assert found[("train_not_finite",)] == 1
    assert ("train_loss",) not in found


@pytest.mark.usefixtures("ray_cluster")
def test_a_stage_says_how_far_it_is_and_when_it_has_ended() -> None:
    publisher = Publisher(run="stages")
    with publisher.stage("encode", 10, done=4) as advance:
        advance(1)
        advance(2)
        running = {
            ("stage_running", "encode"): 1,
            ("stage_items", "encode"): 10,
            ("stage_items_done", "encode"): 7,
        }
        assert scrape("stages", running) == running
    with pytest.raises(OSError, match="disk"), publisher.stage("probe", 3):
        raise OSError("disk")
    ended = running | {("stage_running", "encode"): 0, ("stage_running", "probe"): 0}
    ended |= {("stage_items", "probe"): 3, ("stage_items_done", "probe"): 0}
    assert scrape("stages", ended) == ended


@pytest.mark.nightly
@pytest.mark.usefixtures("ray_cluster")
def test_a_gauge_that_is_set_once_is_there_a_minute_later() -> None:
    """Ray itself forgets it after 20 s."""
    ray_metrics.Gauge("vitascope_forgotten", tag_keys=("run",)).set(1, {"run": "kept"})
    Publisher(run="kept").set("train_world_size", 64)
    both = {("train_world_size",): 64.0, ("forgotten",): 1.0}
    assert scrape("kept", both) == both
    time.sleep(60)
    assert scrape("kept", {("train_world_size",): 64.0}) == {("train_world_size",): 64.0}


def test_gauges_are_set_again_until_the_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    calls: list[tuple[str, float, dict[str, str]]] = []

    def gauge(name: str) -> Any:
        return SimpleNamespace(info={"name": name}, set=lambda value, tags: calls.append((name, value, tags)))

    keeper = metrics._Keeper(every_s=0.01)
    keeper.set(gauge("a"), 1, {"run": "x"})
    keeper.set(gauge("a"), 2, {"run": "x"})
    keeper.set(gauge("b"), 3, {"run": "x"})
    keeper.set(gauge("b"), 4, {"run": "y"})
    wait_until = time.monotonic() + 120
    while len(calls) < 40 and time.monotonic() < wait_until:
        time.sleep(0.01)
    keeper.end()
    n, newest = len(calls), calls[-12:]
    assert n >= 40
    assert {(name, value) for name, value, _ in newest} == {("a", 2), ("b", 3), ("b", 4)}
    time.sleep(0.05)
    assert len(calls) == n


@pytest.mark.parametrize(
    ("loss", "norm", "expected"),
    [(0.5, 2.0, 0), (float("nan"), 2.0, 1), (float("inf"), 2.0, 1), (0.5, float("nan"), 1)],
)
def test_a_step_says_whether_its_loss_and_gradient_are_finite(
    monkeypatch: pytest.MonkeyPatch, loss: float, norm: float, expected: float
) -> None:
    pack: Any = SimpleNamespace(to=lambda _: pack, sample_ids=torch.tensor([4]), noise_keys=torch.tensor([5]))
    step: Any = SimpleNamespace(n_tokens=1, packs=iter([pack]), position=SimpleNamespace(epoch=0))
    step.useful_token_share, step.cost_spread, step.flops = 1.0, 0.0, 1.0
    engine: Any = SimpleNamespace(passes=1, step_number=7, model=None, backward=lambda *_, **__: None)
    engine.adapts = False
    engine.step = lambda **_: (norm, 1e-4)
    monkeypatch.setattr(steps.flow, "loss", lambda *_: torch.tensor(loss))
    monkeypatch.setattr(steps, "sum_over_ranks", lambda values, _: values)
    ranks: Any = SimpleNamespace(device="cpu", size=1)
    assert steps.take_step(engine, ranks, step).row["not_finite"] == expected


def test_the_memory_of_a_rank_is_what_it_has_held_at_most() -> None:
    peak, now = steps.peak_memory_bytes(torch.device("cpu")), psutil.Process().memory_info().rss
    assert 0.9 * now < peak < psutil.virtual_memory().total


def test_a_name_that_is_not_declared_is_refused() -> None:
    with pytest.raises(KeyError):
        Publisher(run="x").set("train_los", 1.0)


def test_the_declarations_are_read_without_ray() -> None:
    code = "import sys; import vitascope.metrics; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_metric_says_what_it_is_and_in_which_unit() -> None:
    assert all(m.help.endswith(".") and m.unit for m in METRICS.values())

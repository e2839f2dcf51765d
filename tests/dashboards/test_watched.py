"""Every expression of every panel and alert on a real Prometheus; at night on one that watches a run."""

import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dashboards import drive
from dashboards.expressions import RULES, Expression, expressions
from dashboards.servers import Prometheus, cluster, prometheus
from vitascope import storage

TESTS = Path(__file__).resolve().parents[1]
GPU, FAULT = "needs a GPU", "needs a fault"
WITHOUT_DATA = {
    "ray_node_gpus_utilization": GPU,
    "ray_node_gram_used": GPU,
    "ray_node_gram_available": GPU,
    'ray_resources{Name="GPU"': GPU,
    "ray_vitascope_train_peak_flops_per_s": GPU,
    "ray_node_failure_total": FAULT,
    "ray_node_manager_unexpected_worker_failure_total": FAULT,
    "ray_memory_manager_worker_eviction_total": FAULT,
    'ray_vitascope_requests_total{outcome="generation_failed"': FAULT,
}
"""Beginnings of what a short, sound run on CPUs has no data of, and why."""

ENOUGH = ("train_peak_flops_per_s", 'outcome="generation_failed"', 'outcome!="ok"')
"""Panels whose expressions also hold something else, which has data."""

Values = Callable[[str], list[float]]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus with nothing to watch."""
    with prometheus(tmp_path_factory.mktemp("prometheus")) as running:
        yield running


def test_prometheus_understands_every_expression(empty: Prometheus) -> None:
    for expression in expressions():
        empty.get("query", query=expression.text)
    with pytest.raises(AssertionError, match="parse error"):
        empty.get("query", query="sum(rate(x[5m])")


def test_prometheus_loads_the_alerts(empty: Prometheus) -> None:
    loaded = [rule["name"] for group in empty.get("rules")["groups"] for rule in group["rules"]]
    assert sorted(loaded) == sorted(rule["alert"] for rule in RULES)


@pytest.fixture(scope="module")
def watched() -> Iterator[Values]:
    """All values of an expression since a Prometheus began to watch a run, each second, except NaN."""
    with (
        tempfile.TemporaryDirectory(prefix="vw", dir="/tmp", ignore_cleanup_errors=True) as name,
        cluster(Path(name)) as ray,
        prometheus(Path(name), ray.discovery) as running,
    ):
        started = time.time()
        path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
        environment = ray.environment | {"PYTHONPATH": path}
        subprocess.run([sys.executable, drive.__file__, name], env=environment, check=True)
        summary = storage.read_json(f"{name}/run/summaries/generate.json")
        assert summary["outputs"] == drive.N_OUTPUTS
        time.sleep(10)  # Ray's pages have news every 5 s, here
        ended = time.time()
        yield lambda text: [v for v in running.values(text, started, ended) if math.isfinite(v)]


def without_data(text: str) -> str | None:
    """Why an expression may have no data, if it may."""
    return next((why for start, why in WITHOUT_DATA.items() if start in text), None)


@pytest.mark.nightly
def test_every_panel_has_data_of_a_real_run(watched: Values) -> None:
    shown = [e for e in expressions() if " / " in e.place]
    silent = {e.place for e in shown if not watched(e.text)}
    assert sorted(e.place for e in shown if e.place in silent and not without_data(e.text)) == []
    assert len(shown) > 90
    wrongly = [e.place for e in shown if without_data(e.text) and e.place not in silent]
    assert all(any(part in e.text for part in ENOUGH) for e in shown if e.place in wrongly), wrongly


@pytest.mark.nightly
def test_everything_an_alert_looks_at_is_there(watched: Values) -> None:
    selectors = {s for rule in RULES for s in selectors_of(rule["expr"])}
    silent = {s for s in selectors if not watched(s)}
    assert silent == {s for s in selectors if without_data(s)}
    assert len(selectors) > 20


@pytest.mark.nightly
def test_a_sound_run_fires_no_alert(watched: Values) -> None:
    assert watched('ALERTS{alertstate="firing"}') == []


@pytest.mark.nightly
def test_what_is_shown_is_what_happened(watched: Values) -> None:
    def last(name: str) -> float:
        return watched(f"sum(ray_vitascope_{name})")[-1]

    assert last('items_total{stage="encode",outcome="ok"}') > 0
    assert max(watched('ray_vitascope_stage_items_done{stage="train"}')) == drive.STEPS
    assert max(watched("ray_vitascope_train_world_size")) == 2
    assert last("train_starts_total") == 1
    assert last('requests_total{outcome="ok"}') == drive.N_OUTPUTS
    assert set(watched("ray_vitascope_train_not_finite")) == {0}
    assert 0 < last("generate_pass_tokens_total") <= last("generate_pass_budget_total")
    assert last("generate_passes_total") >= 40
    assert 0 < last("generate_pass_s_total") < 300
    assert max(watched("ray_vitascope_train_memory_bytes")) > 1e8
    assert {0, 1} == set(watched('ray_vitascope_stage_running{stage="generate"}'))


def selectors_of(text: str) -> list[str]:
    """The series that an expression reads, each as an expression of its own."""
    names = Expression("", text).names
    return [m[0] for m in re.finditer(r"\b([a-z_]\w+)(\{[^}]*\})?", text) if m[1] in names]

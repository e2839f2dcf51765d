"""What is published can be scraped."""

import subprocess
import sys
import time
import urllib.request

import pytest
import ray

from vitascope.observe.metrics import METRICS, Publisher


def scrape(wanted: str) -> str:
    """The node's metrics page as soon as `wanted` is on it."""
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 60
    page = ""
    while wanted not in page and time.monotonic() < deadline:
        time.sleep(1)
        page = urllib.request.urlopen(url, timeout=10).read().decode()
    return page


@pytest.mark.usefixtures("ray_cluster")
def test_published_values_reach_the_nodes_metrics_page() -> None:
    publisher = Publisher(run="scrape-me")
    publisher.publish({"step": 7, "loss": 0.25, "tokens": 100, "unknown": 1.0, "val_loss": None})
    publisher.publish({"tokens": 50})
    publisher.add("items", 3, stage="clips", outcome="ok")
    publisher.add("items", 0, stage="clips", outcome="unreadable")
    page = scrape("ray_vitascope_items")
    lines = {line for line in page.splitlines() if 'run="scrape-me"' in line}
    values = {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}
    assert values["ray_vitascope_train_loss"] == 0.25
    assert values["ray_vitascope_train_step"] == 7
    assert values["ray_vitascope_train_tokens_total"] == 150
    assert values["ray_vitascope_items_total"] == 3
    assert not [line for line in lines if "unreadable" in line]


def test_a_name_that_is_not_declared_is_refused() -> None:
    with pytest.raises(KeyError):
        Publisher(run="x").set("train_los", 1.0)


def test_the_declarations_are_read_without_ray() -> None:
    code = "import sys; import vitascope.observe.metrics; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_metric_says_what_it_is_and_in_which_unit() -> None:
    assert all(m.help.endswith(".") and m.unit for m in METRICS.values())

"""What is published can be scraped."""

import subprocess
import sys

import pytest

from observe.scraping import scrape
from vitascope.observe.metrics import METRICS, Publisher


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


def test_a_name_that_is_not_declared_is_refused() -> None:
    with pytest.raises(KeyError):
        Publisher(run="x").set("train_los", 1.0)


def test_the_declarations_are_read_without_ray() -> None:
    code = "import sys; import vitascope.observe.metrics; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_metric_says_what_it_is_and_in_which_unit() -> None:
    assert all(m.help.endswith(".") and m.unit for m in METRICS.values())

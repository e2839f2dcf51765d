"""The cluster's metrics, on one page for Prometheus."""

import urllib.request
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from vitascope.api.store.objects import READERS

_OURS = ("ray_vitascope_", "ray_serve_")  # what Ray itself measures is on its own pages
_TIMEOUT_S = 5.0


def gathered(pages: Iterable[str]) -> bytes:
    """The metrics of Vitascope and Serve on the pages at these addresses, those of Ray's nodes, as one page.

    A node that does not answer, which may just have ended, is left out.
    """
    return merged(READERS.map(_text, pages))


def merged(texts: Iterable[str]) -> bytes:
    """One page of the metrics on several, each described once."""
    families: dict[str, Metric] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            if family.name.startswith(_OURS):
                families.setdefault(family.name, family)
                if families[family.name] is not family:
                    families[family.name].samples += family.samples
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(list(families.values())))
    return generate_latest(registry)


class _Given(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def _text(address: str) -> str:
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=_TIMEOUT_S) as page:
            return str(page.read().decode())
    except OSError:
        return ""

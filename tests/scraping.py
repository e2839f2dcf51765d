"""The values that Prometheus would read."""

import re
import time
import urllib.request

import ray

Values = dict[tuple[str, ...], float]
"""By a metric's name and the values of its labels except `run`, in the order of the labels' names."""


def scrape(run: str, expected: Values) -> Values:
    """A run's values on the node's metrics page, once the expected are among them, or some minutes on."""
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 240
    found: Values = {}
    while not expected.items() <= found.items() and time.monotonic() < deadline:
        time.sleep(1)
        page = urllib.request.urlopen(url, timeout=60).read().decode()
        found = {_key(line): float(line.rpartition(" ")[2]) for line in _lines(page, run)}
    return found


def _lines(page: str, run: str) -> list[str]:
    return [
        line for line in page.splitlines() if line.startswith("ray_vitascope_") and f'run="{run}"' in line
    ]


def _key(line: str) -> tuple[str, ...]:
    labels = re.findall(r'(mode|outcome|stage)="([^"]*)"', line)
    return (line.partition("{")[0].removeprefix("ray_vitascope_"), *(value for _, value in sorted(labels)))

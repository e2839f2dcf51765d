"""What Prometheus would read."""

import re
import time
import urllib.request

import ray


def scrape(run: str, wanted: str) -> dict[tuple[str, ...], float]:
    """The values of a run on the node's metrics page, once `wanted` is among them: by name and label values.

    Label values are those beside `run` that are Vitascope's own, in the order of the labels' names.
    """
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 60
    found: dict[tuple[str, ...], float] = {}
    while not any(key[0] == wanted for key in found) and time.monotonic() < deadline:
        time.sleep(1)
        page = urllib.request.urlopen(url, timeout=10).read().decode()
        found = {_key(line): float(line.rpartition(" ")[2]) for line in _lines(page, run)}
    return found


def _lines(page: str, run: str) -> list[str]:
    return [
        line for line in page.splitlines() if line.startswith("ray_vitascope_") and f'run="{run}"' in line
    ]


def _key(line: str) -> tuple[str, ...]:
    labels = re.findall(r'(mode|outcome|stage)="([^"]*)"', line)
    return (line.partition("{")[0].removeprefix("ray_vitascope_"), *(value for _, value in sorted(labels)))

"""Every PromQL expression of the dashboards and the alert rules."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from dashboards.servers import DASHBOARDS

BOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_bytes()) for path in sorted((DASHBOARDS / "json").glob("*.json"))
}
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DASHBOARDS / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
VARIABLES = {
    "__rate_interval": "40s",
    "__range": "15m",
    "SessionName": ".*",
    "run": ".*",
    "price_node_hour": "2.5",
    "price_gpu_hour": "4.0",
    "peak_tflops": "0.5",
}
"""Values of Grafana's variables when an expression is tried."""

LABELS = {"ray_train_run_id", "ray_train_worker_world_rank"}
"""Labels of Ray's that look like metrics; `ray_train_controller_state` is both."""


@dataclass(frozen=True)
class Expression:
    """An expression, and its location: `uid of a dashboard / title of a panel / legend`, or an alert."""

    place: str
    text: str

    @property
    def names(self) -> set[str]:
        """The metrics it reads."""
        bare = re.sub(r'"[^"]*"', "", self.text)
        return set(re.findall(r"\b(?:ray|autoscaler)_\w+|\bup(?=\{)", bare)) - LABELS


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every panel but the rows' headings, with its dashboard's uid."""
    for uid, board in BOARDS.items():
        yield from ((uid, panel) for panel in board["panels"] if panel["type"] != "row")


def expressions() -> list[Expression]:
    """All of them, as Prometheus takes them."""
    found = [
        Expression(f"{uid} / {panel['title']} / {target['legendFormat']}", substituted(target["expr"]))
        for uid, panel in panels()
        for target in panel["targets"]
    ]
    return found + [Expression(rule["alert"], rule["expr"]) for rule in RULES]


def substituted(text: str) -> str:
    """`text` with a value in the place of every variable; KeyError for one that no dashboard has."""
    return re.sub(r"\$\{?(\w+)\}?", lambda match: VARIABLES[match[1]], text)

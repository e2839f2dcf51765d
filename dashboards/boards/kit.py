"""The building blocks of the dashboards."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from grafana_foundation_sdk.builders import bargauge, common, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    TooltipDisplayMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    GridPos,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from vitascope.metrics import METRICS

WIDTH = 24  # columns of Grafana's grid
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
ALL = VariableOption(text=["All"], value=["$__all"])
RATE = "[$__rate_interval]"


@dataclass(frozen=True)
class Panel:
    """A panel; `queries` gives a PromQL expression for each legend.

    levels: a number's limits from good to doubtful and from doubtful to bad; descending if high is good.
    number: the panel's id, if Ray's pages request a certain one.
    """

    title: str
    unit: str
    description: str
    queries: dict[str, str]
    kind: Literal["lines", "number", "bars"] = "lines"
    levels: tuple[float, float] | None = None
    width: int = 8
    height: int = 7
    top: float | None = None
    number: int | None = None


@dataclass(frozen=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: list[Panel]


@dataclass(frozen=True)
class Board:
    """A dashboard. variables: names of text boxes, with their default text and label."""

    uid: str
    title: str
    description: str
    rows: list[Row]
    variables: dict[str, tuple[str, str]] = field(default_factory=dict)
    of_runs: bool = True


def ours(name: str, labels: str = "") -> str:
    """The series of a declared metric in the selected runs; KeyError if it is not declared."""
    suffix = "_total" if METRICS[name].kind == "counter" else ""
    return f'ray_vitascope_{name}{suffix}{{{_and(labels)}run=~"$run",SessionName=~"$SessionName"}}'


def rays(name: str, labels: str = "") -> str:
    """The series of one of Ray's metrics in the selected clusters."""
    return f'{name}{{{_and(labels)}SessionName=~"$SessionName"}}'


def rate(name: str, by: str = "run", labels: str = "") -> str:
    """The increase per second of one of our counters."""
    return f"sum by ({by}) (rate({ours(name, labels)}{RATE}))"


def gauge(name: str, by: str = "run", labels: str = "") -> str:
    """One of our gauges; when a process replaces another, both exist for some seconds."""
    return f"max by ({by}) ({ours(name, labels)})"


def _and(labels: str) -> str:
    return f"{labels}," if labels else ""


def render(board: Board) -> str:
    """The dashboard as Grafana's JSON."""
    built = (
        builders.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["vitascope"])
        .refresh("10s")
        .time("now-1h", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(builders.DashboardLink("Vitascope").tags(["vitascope"]).as_dropdown(True).keep_time(True))
    )
    for variable in _variables(board):
        built.with_variable(variable)
    place = _Place(taken={p.number for row in board.rows for p in row.panels if p.number})
    for row in board.rows:
        heading = builders.Row(row.title).id(place.next_id()).grid_pos(place.heading())
        built.with_row(heading)
        for panel in row.panels:
            built.with_panel(_panel(panel, panel.number or place.next_id(), place.of(panel)))
    document: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(built.build()))
    for listed in document["templating"]["list"]:  # Grafana's types allow these only for intervals
        for key in ("auto", "auto_count", "auto_min"):
            listed.pop(key, None)
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


class _Place:
    """Numbers panels, and places them side by side while they fit."""

    def __init__(self, taken: set[int]) -> None:
        self._taken, self._id = taken, 0
        self._x = self._y = self._height = 0

    def next_id(self) -> int:
        self._id += 1
        while self._id in self._taken:
            self._id += 1
        return self._id

    def heading(self) -> GridPos:
        position = GridPos(h=1, w=WIDTH, x=0, y=self._y + self._height)
        self._x, self._y, self._height = 0, position.y + 1, 0
        return position

    def of(self, panel: Panel) -> GridPos:
        if self._x + panel.width > WIDTH:
            self._x, self._y, self._height = 0, self._y + self._height, 0
        position = GridPos(h=panel.height, w=panel.width, x=self._x, y=self._y)
        self._x, self._height = self._x + panel.width, max(self._height, panel.height)
        return position


def _panel(panel: Panel, number: int, place: GridPos) -> Any:
    made = _KINDS[panel.kind]()
    made.title(panel.title).unit(panel.unit).description(panel.description).datasource(SOURCE)
    made.id(number).grid_pos(place)
    if panel.top is not None:
        made.min(0).max(panel.top)
    if panel.levels:
        made.thresholds(_thresholds(*panel.levels))
    for ref, (legend, expression) in zip("ABCDEFGH", panel.queries.items(), strict=False):
        query = Dataquery().expr(expression).legend_format(legend).ref_id(ref).datasource(SOURCE)
        made.with_target(query.range() if panel.kind == "lines" else query.instant())
    return made


def _lines() -> timeseries.Panel:
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    return (
        timeseries.Panel()
        .legend(legend.show_legend(True))
        .tooltip(tooltip)
        .fill_opacity(8)
        .span_nulls(60_000)
    )


def _number() -> stat.Panel:
    newest = common.ReduceDataOptions().calcs(["lastNotNull"])
    return stat.Panel().reduce_options(newest).graph_mode(BigValueGraphMode.NONE)


def _bars() -> bargauge.Panel:
    newest = common.ReduceDataOptions().calcs(["lastNotNull"])
    return bargauge.Panel().reduce_options(newest).orientation(VizOrientation.HORIZONTAL)


_KINDS = {"lines": _lines, "number": _number, "bars": _bars}


def _thresholds(doubtful: float, bad: float) -> builders.ThresholdsConfig:
    colors = ["green", "orange", "red"] if doubtful < bad else ["red", "orange", "green"]
    values = [None, *sorted((doubtful, bad))]
    steps = [Threshold(value=v, color=c) for v, c in zip(values, colors, strict=True)]
    return builders.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _variables(board: Board) -> list[Any]:
    """The source, Ray's session (Ray's own pages set both), the run, and the text boxes."""
    made: list[Any] = [
        builders.DatasourceVariable("datasource").label("Source").type("prometheus"),
        _choice("SessionName", "Ray session", "label_values(ray_node_mem_total, SessionName)"),
    ]
    if board.of_runs:
        series = '{__name__=~"ray_vitascope_.+",SessionName=~"$SessionName"}'
        made.append(_choice("run", "Run", f"label_values({series}, run)"))
    for name, (value, label) in board.variables.items():
        made.append(
            builders.TextBoxVariable(name)
            .label(label)
            .default_value(value)
            .current(VariableOption(text=value, value=value))
        )
    return made


def _choice(name: str, label: str, query: str) -> builders.QueryVariable:
    return (
        builders.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"query": query, "refId": f"{name}Variable"})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(ALL)
    )

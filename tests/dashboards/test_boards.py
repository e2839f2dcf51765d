"""The dashboards are what their code says, complete, and made of metrics that exist."""

import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
import ray

from dashboards.expressions import BOARDS, VARIABLES, expressions, panels
from dashboards.servers import DASHBOARDS
from vitascope.metrics import METRICS

KEYS = {"annotations", "description", "editable", "fiscalYearStartMonth", "graphTooltip", "links", "panels"}
KEYS |= {"refresh", "schemaVersion", "tags", "templating", "time", "timezone", "title", "uid"}
PANEL_KEYS = {"datasource", "description", "fieldConfig", "gridPos", "id", "options", "repeatDirection"}
PANEL_KEYS |= {"targets", "title", "transparent", "type"}
PREFIX = "ray_vitascope_"


def test_the_json_is_what_the_code_makes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, DASHBOARDS / "build.py", tmp_path], check=True)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_text() for path in (DASHBOARDS / "json").iterdir()}, (
        "run `python dashboards/build.py`"
    )


@pytest.mark.parametrize("uid", BOARDS)
def test_keys_are_known_and_panels_apart(uid: str) -> None:
    board = BOARDS[uid]
    assert (board.keys(), board["uid"]) == (KEYS, uid)
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    for one, other in combinations((panel["gridPos"] for panel in board["panels"]), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


def test_every_panel_says_what_it_shows_and_what_is_good_or_bad() -> None:
    for uid, panel in panels():
        place = f"{uid} / {panel['title']}"
        assert panel.keys() == PANEL_KEYS, place
        assert panel["title"], place
        assert panel["fieldConfig"]["defaults"]["unit"], place
        assert re.search(r"\b(Good|Bad)\b", panel["description"]), place
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24, place
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {source["uid"] for source in sources} == {"${datasource}"}, place


def test_titles_are_told_apart_within_a_dashboard() -> None:
    titles = [(uid, panel["title"]) for uid, panel in panels()]
    assert len(set(titles)) == len(titles)


def test_every_metric_is_looked_at_and_every_one_looked_at_is_declared() -> None:
    declared = {f"{PREFIX}{m.name}{'_total' if m.kind == 'counter' else ''}" for m in METRICS.values()}
    used = {name for expression in expressions() for name in expression.names if name.startswith(PREFIX)}
    assert used == declared


def test_every_label_of_our_metrics_that_is_asked_for_is_declared() -> None:
    everywhere, n_selectors = {"run", "SessionName"}, 0
    for expression in expressions():
        for name, selector in re.findall(rf"{PREFIX}(\w+?)(?:_total)?{{([^}}]*)}}", expression.text):
            asked = set(re.findall(r"(\w+)(?:=~|!~|!=|=)", selector))
            assert asked <= everywhere | set(METRICS[name].labels), expression
            n_selectors += 1
    assert n_selectors > len(METRICS)


@pytest.mark.parametrize("uid", BOARDS)
def test_every_variable_is_used_and_every_one_used_is_there(uid: str) -> None:
    declared = {variable["name"] for variable in BOARDS[uid]["templating"]["list"]}
    targets = [target for owner, panel in panels() if owner == uid for target in panel["targets"]]
    used = {name for t in targets for name in re.findall(r"\$\{?(\w+)", t["expr"])}
    assert {name for name in used if not name.startswith("__")} | {"datasource"} == declared
    assert declared - {"datasource"} <= VARIABLES.keys()


def test_rays_own_pages_find_what_they_embed() -> None:
    """Ray's dashboard shows two panels by number, and sets session and source (of whole dashboards too)."""
    client = Path(ray.__file__).parent / "dashboard" / "client" / "build" / "static" / "js"
    (script,) = client.glob("main.*.js")
    text = script.read_text()
    shown = re.findall(r'default-dashboard\?orgId=.{0,80}?panelId=(\d+).{0,400}?title:"([^"]+)"', text)
    assert {title: int(number) for number, title in shown} == {"Node Count": 24, "Cluster Utilization": 41}
    titles = {panel["id"]: panel["title"] for panel in BOARDS["vitascope-overview"]["panels"]}
    assert (titles[24], titles[41]) == ("Nodes", "Cluster utilization")
    assert 'set("var-SessionName"' in text
    assert 'set("var-datasource"' in text


@pytest.mark.parametrize(("name", "uid"), [("DEFAULT", "vitascope-overview"), ("DATA", "vitascope-data")])
def test_rays_pages_take_ours_where_they_are_told_to(
    monkeypatch: pytest.MonkeyPatch, name: str, uid: str
) -> None:
    from ray.dashboard.modules.metrics import grafana_dashboard_factory as factory

    monkeypatch.setenv(f"RAY_GRAFANA_{name}_DASHBOARD_UID", uid)
    assert getattr(factory, f"generate_{name.lower()}_grafana_dashboard")()[1] == uid
    assert uid in BOARDS

"""The alert rules under promtool: each fires when it should, and says what to do."""

import re
from typing import Any

import pytest
import yaml

from dashboards.expressions import BOARDS, RULES, panels
from dashboards.servers import DASHBOARDS, promtool

TESTS = yaml.safe_load((DASHBOARDS / "alerts_test.yaml").read_text())["tests"]
NAMES = [rule["alert"] for rule in RULES]


def test_promtool_accepts_rules_and_configuration() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "rules", DASHBOARDS / "alerts.yaml")
    assert "1 rule files found" in promtool("check", "config", DASHBOARDS / "prometheus.yml")


def test_promtools_tests_of_the_rules_pass() -> None:
    assert "SUCCESS" in promtool("test", "rules", DASHBOARDS / "alerts_test.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_is_tested_firing_and_not_firing(name: str) -> None:
    (cases,) = [test["promql_expr_test"] for test in TESTS if test["name"] == name]
    asked = f'ALERTS{{alertname="{name}",alertstate="firing"}}'
    assert {case["expr"] for case in cases} == {asked}
    assert any(case["exp_samples"] for case in cases)
    assert any(not case["exp_samples"] for case in cases)


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_each_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert re.match(r"(Look|Do): ", rule["annotations"]["runbook"])
    assert len(rule["annotations"]["runbook"].splitlines()) >= 2


def test_runbooks_name_panels_and_alerts_that_exist() -> None:
    titles = {(uid.removeprefix("vitascope-"), panel["title"]) for uid, panel in panels()}
    named = 0
    for rule in RULES:
        text = " ".join(rule["annotations"]["runbook"].split())
        for board, quoted in re.findall(r'(\w+) dashboard, ((?:"[^"]+"(?:, | and )?)+)', text):
            for title in re.findall(r'"([^"]+)"', quoted):
                assert (board, title) in titles, rule["alert"]
                named += 1
        for also in re.findall(r"\b(?:see|As for) ([A-Z]\w+[a-z][A-Z]\w+)", text):
            assert also in NAMES, rule["alert"]
    assert named > len(RULES)
    assert len(BOARDS) == 5

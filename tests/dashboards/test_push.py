"""Pushing dashboards, against a stub of Grafana: no Grafana server was available."""

import copy
import json
import time
from collections.abc import Iterator

import pytest

from dashboards.grafana_stub import TOKEN, GrafanaStub, running
from vitascope.deploy import grafana
from vitascope.deploy.grafana import credentials, push
from vitascope.files import packaged

PROMETHEUS = "http://prometheus:9090"
DOCUMENTS = {d["uid"]: d for d in (json.loads(p.read_bytes()) for p in packaged("dashboards").glob("*.json"))}
N_PANELS = sum(len(document["panels"]) for document in DOCUMENTS.values())


@pytest.fixture
def stub() -> Iterator[GrafanaStub]:
    stub = GrafanaStub()
    with running(stub.answer) as stub.url:
        yield stub


def test_an_empty_server_gets_folder_source_and_every_dashboard(stub: GrafanaStub) -> None:
    lines = push(stub.url, TOKEN, datasource_url=PROMETHEUS)
    assert lines[:2] == [f"+ data source Prometheus: {PROMETHEUS}", "+ folder Vitascope"]
    assert len(lines) == 2 + len(DOCUMENTS) + N_PANELS
    assert stub.dashboards.keys() == DOCUMENTS.keys()
    assert stub.folders[0]["title"] == "Vitascope"
    assert {d["meta"]["folderUid"] for d in stub.dashboards.values()} == {stub.folders[0]["uid"]}
    assert stub.sources["Prometheus"]["url"] == PROMETHEUS
    for uid, document in DOCUMENTS.items():
        assert stub.dashboards[uid]["dashboard"]["panels"] == document["panels"]


def test_pushed_again_nothing_is_said_and_nothing_written(stub: GrafanaStub) -> None:
    push(stub.url, TOKEN, datasource_url=PROMETHEUS)
    written = list(stub.written)
    assert push(stub.url, ("user", "secret"), datasource_url=PROMETHEUS) == []
    assert stub.written == written
    assert {d["dashboard"]["version"] for d in stub.dashboards.values()} == {1}


def test_the_diff_is_what_the_push_then_does(stub: GrafanaStub) -> None:
    said = push(stub.url, TOKEN, dry_run=True)
    assert stub.written == []
    assert push(stub.url, TOKEN) == said
    assert stub.sources == {}  # not requested


def test_a_changed_panel_is_named_with_its_queries_and_put_right(stub: GrafanaStub) -> None:
    push(stub.url, TOKEN)
    panels = stub.dashboards["vitascope-training"]["dashboard"]["panels"]
    before = copy.deepcopy(panels)
    loss = next(p for p in panels if p["title"] == "Loss")
    expression, loss["targets"][0]["expr"] = loss["targets"][0]["expr"], "vector(0)"
    panels.append({"id": 999, "title": "Mine", "type": "text"})
    panels.remove(next(p for p in panels if p["title"] == "Epoch"))
    assert push(stub.url, TOKEN) == [
        "- Vitascope: training / Mine",
        "~ Vitascope: training / Loss: targets",
        "    - vector(0)",
        f"    + {expression}",
        "+ Vitascope: training / Epoch",
    ]
    assert stub.dashboards["vitascope-training"]["dashboard"]["panels"] == before
    assert [path for method, path in stub.written[-1:]] == ["/api/dashboards/db"]
    assert push(stub.url, TOKEN) == []


def test_what_is_there_is_used_and_what_is_elsewhere_is_moved(stub: GrafanaStub) -> None:
    stub.folders = [{"id": 1, "uid": "old", "title": "Old"}, {"id": 2, "uid": "ours", "title": "Vitascope"}]
    stub.sources["Prometheus"] = {"uid": "abc", "name": "Prometheus", "type": "prometheus", "url": "http://x"}
    push(stub.url, TOKEN, folder="Old")
    lines = push(stub.url, TOKEN, datasource_url=PROMETHEUS)
    assert lines[0] == f"~ data source Prometheus: http://x -> {PROMETHEUS}"
    assert "~ Vitascope: training: into the folder" in lines
    assert len(lines) == 1 + len(DOCUMENTS)
    assert {d["meta"]["folderUid"] for d in stub.dashboards.values()} == {"ours"}
    assert stub.sources["Prometheus"]["url"] == PROMETHEUS
    assert len(stub.folders) == 2


@pytest.mark.parametrize(("kind", "read_only"), [("loki", False), ("prometheus", True)])
def test_a_source_that_is_not_ours_to_change_is_left(stub: GrafanaStub, kind: str, read_only: bool) -> None:
    stub.sources["Prometheus"] = {"uid": "a", "type": kind, "url": "http://x", "readOnly": read_only}
    with pytest.raises(ValueError, match="change or rename it there"):
        push(stub.url, TOKEN, datasource_url=PROMETHEUS)
    assert stub.written == []


def test_wrong_credentials_are_refused_and_not_shown(stub: GrafanaStub) -> None:
    with pytest.raises(PermissionError, match="401: Unauthorized; check the token") as refused:
        push(stub.url, "a-wrong-token")
    assert "a-wrong-token" not in str(refused.value)
    assert refused.value.__cause__ is None
    with pytest.raises(PermissionError, match="check the password"):
        push(stub.url, ("user", "wrong"))
    stub.may_edit = False
    with pytest.raises(PermissionError, match=r"403.*may edit dashboards"):
        push(stub.url, TOKEN)
    assert stub.dashboards == {}


@pytest.mark.parametrize("auth", ["tok\nen", "tökén", ("user", "pass\r")])
def test_credentials_that_cannot_be_sent_are_not_shown(stub: GrafanaStub, auth: grafana.Auth) -> None:
    with pytest.raises(ValueError, match="cannot be sent") as refused:
        push(stub.url, auth)
    assert "tok" not in str(refused.value)
    assert "pass\r" not in str(refused.value)


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (200, b"<html>a page</html>"),
        (404, b"<html>no message here</html>"),
        (404, {"detail": "?"}),
        (200, []),
    ],
)
def test_another_server_is_told_from_grafana(status: int, document: object) -> None:
    with running(lambda *_: (status, document)) as url, pytest.raises(ValueError, match="is not Grafana"):
        push(url, TOKEN)


def test_a_refusal_of_the_server_is_passed_on_without_the_token(stub: GrafanaStub) -> None:
    def answer(method: str, path: str, body: object, authorization: str) -> tuple[int, object]:
        if method == "POST":
            return 500, {"message": f"database is locked, header {authorization}"}
        return stub.answer(method, path, body, authorization)

    with running(answer) as url, pytest.raises(ValueError, match=r"500.*database is locked") as refused:
        push(url, TOKEN)
    assert TOKEN not in str(refused.value)


def test_a_server_that_is_not_there_or_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(lambda *_: (200, {})) as url:
        pass
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1 cannot be reached"):
        push(url, TOKEN)
    monkeypatch.setattr(grafana, "TIMEOUT_S", 0.2)
    with (
        running(lambda *_: time.sleep(1) or (200, {})) as slow,
        pytest.raises(ConnectionError, match=r"did not answer within 0\.2 s"),
    ):
        push(slow, TOKEN)


@pytest.mark.parametrize(
    "url",
    [
        "grafana",
        "ftp://grafana",
        "http://",
        "http://user:secret@localhost",
        "http://localhost:port",
        "http://localhost:3000?api_key=secret",
        "http://[::",
    ],
)
def test_an_address_that_is_none_is_refused_and_its_secrets_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match="a Grafana address is") as refused:
        push(url, TOKEN)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://user:secret@prometheus:9090", "http://prometheus?token=secret"])
def test_an_address_of_prometheus_with_credentials_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match="the address of Prometheus holds") as refused:
        push("http://localhost", TOKEN, datasource_url=url)
    assert "secret" not in str(refused.value)


def test_credentials_do_not_cross_the_network_in_clear_unless_allowed() -> None:
    with pytest.raises(ValueError, match="in clear; use https://"):
        push("http://grafana.invalid", TOKEN)
    with pytest.raises(ConnectionError, match=r"grafana\.invalid cannot be reached"):
        push("http://grafana.invalid", TOKEN, allow_http=True)


def test_a_server_under_a_path_is_reached(stub: GrafanaStub) -> None:
    def answer(method: str, path: str, body: object, authorization: str) -> tuple[int, object]:
        assert path.startswith("/grafana/api/")
        return stub.answer(method, path.removeprefix("/grafana"), body, authorization)

    with running(answer) as url:
        push(f"{url}/grafana/", TOKEN)
    assert stub.dashboards.keys() == DOCUMENTS.keys()


def test_credentials_come_from_the_environment() -> None:
    both = {"GRAFANA_USER": "user", "GRAFANA_PASSWORD": "secret"}
    assert credentials(both) == ("user", "secret")
    assert credentials(both | {"GRAFANA_TOKEN": " t\n"}) == "t"
    with pytest.raises(ValueError, match="set GRAFANA_TOKEN"):
        credentials({"GRAFANA_USER": "user"})

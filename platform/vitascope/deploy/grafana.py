"""Bring the dashboards into a Grafana server."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult, urlsplit

import requests
from grafana_api.grafana_api import GrafanaClientError, GrafanaException
from grafana_api.grafana_face import GrafanaFace

from vitascope.credentials import in_uri
from vitascope.errors import Forbidden, Mistake
from vitascope.files import packaged
from vitascope.wording import short

DATASOURCE = "Prometheus"
"""The name that Ray's pages look for too (RAY_PROMETHEUS_NAME)."""

TIMEOUT_S = 15.0
_LOCAL = ("localhost", "127.0.0.1", "::1")

Auth = str | tuple[str, str]
"""A token, or user and password."""

_Change = tuple[list[str], Callable[[], Any]]
"""What is to be said of a change, and what makes it."""


def credentials(environment: Mapping[str, str]) -> Auth:
    """GRAFANA_TOKEN, or else GRAFANA_USER and GRAFANA_PASSWORD; ValueError if neither is there."""
    if token := environment.get("GRAFANA_TOKEN", "").strip():
        return token
    user, password = environment.get("GRAFANA_USER"), environment.get("GRAFANA_PASSWORD")
    if user and password:
        return user, password
    raise Mistake("no credentials for Grafana; set GRAFANA_TOKEN, or GRAFANA_USER and GRAFANA_PASSWORD")


def push(
    url: str,
    auth: Auth,
    *,
    folder: str = "Vitascope",
    datasource_url: str | None = None,
    dry_run: bool = False,
    allow_http: bool = False,
) -> list[str]:
    """Makes the folder, the data source and the dashboards of a Grafana server what they are here.

    Returns what was changed, a line each, panel by panel; with `dry_run` what would be, and changes nothing.
    If all is as it should be, there is nothing to say. Other dashboards are left alone.

    Args:
        datasource_url: where Grafana reaches Prometheus; None leaves its data source as it is.
        allow_http: send the credentials in clear to another machine.

    Raises:
        Mistake: the address is none of a Grafana server, or it refuses what is sent.
        PermissionError: it does not accept the credentials, or they may not do this.
        ConnectionError: it does not answer.
    """
    if datasource_url and (what := in_uri(datasource_url)):
        raise Mistake(f"the address of Prometheus holds {what}, and Grafana would show it; leave it out")
    address = _address(url, allow_http)
    with _explained(str(address.hostname), auth):
        grafana = _connect(address, auth)
        changes = _changes(grafana, folder, datasource_url)
        if not dry_run:
            for _, make in changes:
                make()
    return [line for lines, _ in changes for line in lines]


def _address(url: str, allow_http: bool) -> SplitResult:
    try:
        address, _ = urlsplit(url), urlsplit(url).port
    except ValueError:
        address = SplitResult("", "", "", "", "")
    named = address.scheme in ("http", "https") and address.hostname and address.username is None
    if not named or address.query:
        raise Mistake(
            "a Grafana address is http(s)://host[:port][/path], and credentials are no part of it; "
            "set GRAFANA_TOKEN, or GRAFANA_USER and GRAFANA_PASSWORD"
        )
    if address.scheme == "http" and address.hostname not in _LOCAL and not allow_http:
        raise Mistake(
            f"http://{address.hostname} would send the credentials in clear; use https://, forward its port "
            "to this machine and use http://localhost, or allow it"
        )
    return address


def _connect(url: SplitResult, auth: Auth) -> GrafanaFace:
    host, prefix = str(url.hostname), url.path.strip("/")
    if not all(part.isascii() and part.isprintable() for part in ([auth] if isinstance(auth, str) else auth)):
        raise Mistake("the credentials for Grafana hold characters that cannot be sent; copy them again")
    grafana = GrafanaFace(
        auth,
        host=f"[{host}]" if ":" in host else host,
        port=url.port,
        protocol=url.scheme,
        url_path_prefix=f"{prefix}/" if prefix else "",
        timeout=TIMEOUT_S,
    )
    try:
        health = grafana.api.GET("/health")
    except (requests.JSONDecodeError, TypeError):  # a page; the client trips over those with an error status
        health = {}
    except GrafanaClientError as error:
        if error.status_code != 404:
            raise
        health = {}
    if "database" not in health:
        raise Mistake(f"what answers at {host} is not Grafana; check the address, its port and its path")
    return grafana


@contextmanager
def _explained(host: str, auth: Auth) -> Iterator[None]:
    """Turns what the client raises into what a person can act on, without the credentials."""
    try:
        yield
    except GrafanaException as error:
        said = f"{host} answers {error.status_code}: {short(_without(auth, str(error.message)), 300)}"
        if error.status_code in (401, 403):
            what = "password" if isinstance(auth, tuple) else "token"
            raise Forbidden(f"{said}; check the {what}, and that it may edit dashboards") from None
        raise Mistake(said) from None
    except requests.Timeout:
        raise ConnectionError(f"{host} did not answer within {TIMEOUT_S:g} s; is it up?") from None
    except requests.RequestException as error:
        name = type(error).__name__
        raise ConnectionError(f"{host} cannot be reached ({name}); check the address and the port") from None


def _without(auth: Auth, text: str) -> str:
    return text.replace(auth if isinstance(auth, str) else auth[1], "…")


def _found(look_up: Callable[[str], Any], name: str) -> dict[str, Any] | None:
    """What Grafana has under a name; None if it has nothing."""
    try:
        found: dict[str, Any] = look_up(name)
    except GrafanaClientError as error:
        if error.status_code != 404:
            raise
        return None
    return found


def _changes(grafana: GrafanaFace, folder: str, datasource_url: str | None) -> list[_Change]:
    documents = [json.loads(path.read_bytes()) for path in sorted(packaged("dashboards").glob("*.json"))]
    source = _source(grafana, datasource_url) if datasource_url else []
    uid, place = _folder(grafana, folder)
    return [*source, *place, *(c for document in documents for c in _dashboard(grafana, document, uid))]


def _source(grafana: GrafanaFace, url: str) -> list[_Change]:
    """The data source, by its name."""
    wanted = {"name": DATASOURCE, "type": "prometheus", "access": "proxy", "url": url}
    more = {"isDefault": False, "jsonData": {"timeInterval": "10s", "httpMethod": "POST"}}
    old = _found(grafana.datasource.get_datasource_by_name, DATASOURCE)
    if old is None:
        return [
            (
                [f"+ data source {DATASOURCE}: {url}"],
                lambda: grafana.datasource.create_datasource(wanted | more),
            )
        ]
    if _holds(old, wanted):
        return []
    if old["type"] != "prometheus" or old.get("readOnly"):
        raise Mistake(
            f"the data source {DATASOURCE!r} is of type {old['type']} at {old['url']}, and "
            f"{'a file of the server says so' if old.get('readOnly') else 'no Prometheus'}; "
            "change or rename it there, or leave the data source out"
        )
    line = f"~ data source {DATASOURCE}: {old['url']} -> {url}"
    return [([line], lambda: grafana.api.PUT(f"/datasources/uid/{old['uid']}", json=old | wanted))]


def _folder(grafana: GrafanaFace, title: str) -> tuple[str, list[_Change]]:
    """The folder's uid, and the change if it is not there."""
    for folder in grafana.folder.get_all_folders():
        if folder["title"] == title:
            return folder["uid"], []
    uid = "".join(c if c.isalnum() else "-" for c in title.lower())[:40]
    return uid, [([f"+ folder {title}"], lambda: grafana.folder.create_folder(title, uid))]


def _dashboard(grafana: GrafanaFace, wanted: dict[str, Any], folder: str) -> list[_Change]:
    """A dashboard, by its uid."""
    old = _found(grafana.dashboard.get_dashboard, wanted["uid"])
    lines = _difference(old["dashboard"] if old else None, wanted)
    if old and old["meta"].get("folderUid") != folder:
        lines.append(f"~ {wanted['title']}: into the folder")
    body = {"dashboard": wanted | {"id": None}, "folderUid": folder, "overwrite": True}
    return [(lines, lambda: grafana.dashboard.update_dashboard(body))] if lines else []


def _difference(old: dict[str, Any] | None, new: dict[str, Any]) -> list[str]:
    """What makes `new` of `old`, panel by panel; Grafana may have added to what it was given."""
    title = new["title"]
    if old is None:
        return [f"+ {title}", *(f"+ {title} / {panel['title']}" for panel in new["panels"])]
    before, after = ({panel["id"]: panel for panel in d.get("panels", [])} for d in (old, new))
    lines = [f"- {title} / {before[i].get('title')}" for i in sorted(before.keys() - after.keys())]
    for i, panel in after.items():
        if i not in before:
            lines.append(f"+ {title} / {panel['title']}")
        elif not _holds(before[i], panel):
            lines += _panel_difference(f"{title} / {panel['title']}", before[i], panel)
    rest = [key for key in new if key != "panels" and not _holds(old.get(key), new[key])]
    return [*lines, *([f"~ {title}: {', '.join(rest)}"] if rest else [])]


def _panel_difference(title: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    changed = [key for key in new if not _holds(old.get(key), new[key])]
    queries = [[t.get("expr") for t in panel.get("targets", [])] for panel in (old, new)]
    return [
        f"~ {title}: {', '.join(changed)}",
        *(f"    - {q}" for q in queries[0] if q not in queries[1]),
        *(f"    + {q}" for q in queries[1] if q not in queries[0]),
    ]


def _holds(old: Any, new: Any) -> bool:
    """Whether `old` is `new`, but for keys that it has beyond."""
    if isinstance(new, dict):
        return isinstance(old, dict) and all(k in old and _holds(old[k], v) for k, v in new.items())
    if isinstance(new, list):
        return isinstance(old, list) and len(old) == len(new) and all(map(_holds, old, new))
    return bool(old == new)

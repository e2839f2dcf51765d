"""Bring the dashboards into a Grafana server."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias
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
Document: TypeAlias = dict[str, Any]
"""A JSON object in Grafana's schema: a dashboard, a panel, a data source."""


class _Change(NamedTuple):
    lines: list[str]  # the description
    make: Callable[[], object]


def credentials(environment: Mapping[str, str]) -> Auth:
    """GRAFANA_TOKEN, or else GRAFANA_USER and GRAFANA_PASSWORD.

    Raises:
        Mistake: neither is set.
    """
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
    """Makes the folder, the data source and the dashboards of a Grafana server equal to the packaged ones.

    Returns the changes, a line each, panel by panel; none if all is up to date. With `dry_run` nothing is
    changed. Other dashboards are left alone.

    Args:
        datasource_url: the address at which Grafana reaches Prometheus; None leaves it unchanged.
        allow_http: send the credentials in clear to another machine.

    Raises:
        Mistake: the address is not that of a Grafana server, or the server refuses the request.
        PermissionError: it does not accept the credentials, or they may not do this.
        ConnectionError: it does not answer.
    """
    if datasource_url and (what := in_uri(datasource_url)):
        raise Mistake(f"the address of Prometheus holds {what}, and Grafana would show it; leave it out")
    address = _address(url, allow_http)
    with _explained(str(address.hostname), auth):
        changes = _changes(_connect(address, auth), folder, datasource_url)
        if not dry_run:
            for change in changes:
                change.make()
    return [line for change in changes for line in change.lines]


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
        health = _looked_up(grafana.api.GET, "/health")
    except (requests.JSONDecodeError, TypeError):  # a page; the client trips over those with an error status
        health = None
    if "database" not in (health or {}):
        raise Mistake(f"the server at {host} is not Grafana; check the address, its port and its path")
    return grafana


@contextmanager
def _explained(host: str, auth: Auth) -> Iterator[None]:
    """Turns the client's errors into sentences that a person can act on, without the credentials."""
    secret = auth if isinstance(auth, str) else auth[1]
    try:
        yield
    except GrafanaException as error:
        message = short(str(error.message).replace(secret, "…"), 300)
        answer = f"{host} answers {error.status_code}: {message}"
        if error.status_code in (401, 403):
            kind = "token" if isinstance(auth, str) else "password"
            raise Forbidden(f"{answer}; check the {kind}, and that it may edit dashboards") from None
        raise Mistake(answer) from None
    except requests.Timeout:
        raise ConnectionError(f"{host} did not answer within {TIMEOUT_S:g} s; is it up?") from None
    except requests.RequestException as error:
        name = type(error).__name__
        raise ConnectionError(f"{host} cannot be reached ({name}); check the address and the port") from None


def _looked_up(look_up: Callable[[str], Document], name: str) -> Document | None:
    """Grafana's document of this name; None if it has none."""
    try:
        return look_up(name)
    except GrafanaClientError as error:
        if error.status_code != 404:
            raise
        return None


def _changes(grafana: GrafanaFace, folder: str, datasource_url: str | None) -> list[_Change]:
    changes = _source(grafana, datasource_url) if datasource_url else []
    uid = next((old["uid"] for old in grafana.folder.get_all_folders() if old["title"] == folder), None)
    if uid is None:
        uid = new = "".join(c if c.isalnum() else "-" for c in folder.lower())[:40]
        changes.append(_Change([f"+ folder {folder}"], lambda: grafana.folder.create_folder(folder, new)))
    documents = [json.loads(path.read_bytes()) for path in sorted(packaged("dashboards").glob("*.json"))]
    return changes + [change for document in documents for change in _dashboard(grafana, document, uid)]


def _source(grafana: GrafanaFace, url: str) -> list[_Change]:
    """The data source, by its name."""
    wanted = {"name": DATASOURCE, "type": "prometheus", "access": "proxy", "url": url}
    more = {"isDefault": False, "jsonData": {"timeInterval": "10s", "httpMethod": "POST"}}
    old = _looked_up(grafana.datasource.get_datasource_by_name, DATASOURCE)
    if old is None:
        line = f"+ data source {DATASOURCE}: {url}"
        return [_Change([line], lambda: grafana.datasource.create_datasource(wanted | more))]
    if _holds(old, wanted):
        return []
    if old["type"] != "prometheus" or old.get("readOnly"):
        reason = "set by a file of the server" if old.get("readOnly") else "not a Prometheus"
        raise Mistake(
            f"the data source {DATASOURCE!r} is of type {old['type']} at {old['url']} and {reason}; "
            "change or rename it there, or leave the data source out"
        )
    line = f"~ data source {DATASOURCE}: {old['url']} -> {url}"
    return [_Change([line], lambda: grafana.api.PUT(f"/datasources/uid/{old['uid']}", json=old | wanted))]


def _dashboard(grafana: GrafanaFace, wanted: Document, folder: str) -> list[_Change]:
    """A dashboard, by its uid."""
    old = _looked_up(grafana.dashboard.get_dashboard, wanted["uid"])
    lines = _difference(old["dashboard"] if old else None, wanted)
    if old and old["meta"].get("folderUid") != folder:
        lines.append(f"~ {wanted['title']}: into the folder")
    body = {"dashboard": wanted | {"id": None}, "folderUid": folder, "overwrite": True}
    return [_Change(lines, lambda: grafana.dashboard.update_dashboard(body))] if lines else []


def _difference(old: Document | None, new: Document) -> list[str]:
    """The changes that turn `old` into `new`, panel by panel."""
    title = new["title"]
    if old is None:
        return [f"+ {title}", *(f"+ {title} / {panel['title']}" for panel in new["panels"])]
    before, after = ({panel["id"]: panel for panel in d.get("panels", [])} for d in (old, new))
    lines = [f"- {title} / {before[i].get('title')}" for i in sorted(before.keys() - after.keys())]
    for i, panel in after.items():
        name = f"{title} / {panel['title']}"
        lines += _panel_difference(name, before[i], panel) if i in before else [f"+ {name}"]
    rest = [key for key in _changed(old, new) if key != "panels"]
    return [*lines, *([f"~ {title}: {', '.join(rest)}"] if rest else [])]


def _panel_difference(name: str, old: Document, new: Document) -> list[str]:
    if not (changed := _changed(old, new)):
        return []
    before, after = ([t.get("expr") for t in panel.get("targets", [])] for panel in (old, new))
    return [
        f"~ {name}: {', '.join(changed)}",
        *(f"    - {query}" for query in before if query not in after),
        *(f"    + {query}" for query in after if query not in before),
    ]


def _changed(old: Document, new: Document) -> list[str]:
    """The keys of `new` with other values in `old`."""
    return [key for key in new if not _holds(old.get(key), new[key])]


def _holds(old: Any, new: Any) -> bool:
    """Whether `old` is `new`, except for keys that Grafana may have added."""
    if isinstance(new, dict):
        return isinstance(old, dict) and all(k in old and _holds(old[k], v) for k, v in new.items())
    if isinstance(new, list):
        return isinstance(old, list) and len(old) == len(new) and all(map(_holds, old, new))
    return bool(old == new)

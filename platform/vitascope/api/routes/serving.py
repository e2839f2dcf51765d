"""What every address has: the key, the body of a request."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from fastapi import Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPBearer
from starlette.datastructures import FormData, UploadFile

from vitascope.api.failures import Refused, invalid
from vitascope.api.fields import MOST_JSON_BYTES, Document, Upload, object_of
from vitascope.api.jobs import Jobs
from vitascope.api.shapes import ErrorAnswer, Page, T
from vitascope.api.store.keys import Door, Key
from vitascope.api.store.objects import Asked
from vitascope.generate.request import Request as VideoRequest
from vitascope.section import shown

_MOST_FIELDS = 100
_FIELD = re.compile(r"([^\[\]]+)(\[\])?(?:\[([^\[\]]+)\])?")


class Runner(Protocol):
    """What the service asks of the runner."""

    async def wake(self, owner: str, of: str) -> None:
        """Something is pending."""

    async def cancel(self, owner: str, of: str) -> None:
        """Something pending was deleted; returns once its work has ended and its files are gone."""

    async def preview(self, request: VideoRequest, location: str) -> bytes | None:
        """A jpeg of the beginning of a running request's output; None if nothing is known of it yet."""

    async def admits(self, name: str, per_minute: int) -> bool:
        """Whether a key may ask once more within this minute."""


@dataclass(frozen=True)
class Service:
    """What the addresses need.

    metrics: the page for Prometheus.
    """

    jobs: Jobs
    door: Door
    runner: Runner
    metrics: Callable[[], bytes]


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(_service)]
_BEARER = HTTPBearer(auto_error=False, description="A key of `vitascope keys add`, or the cluster's token.")


async def admitted(
    request: Request, service: ServiceOf, _: Annotated[object, Depends(_BEARER)] = None
) -> Key:
    """The key of the request.

    Raises:
        Refused: 401; 429 if it has asked too often.
    """
    key = await run_in_threadpool(service.door.who, request.headers.get("authorization", ""))
    most = key.requests_per_minute
    if most and not await service.runner.admits(key.name, most):
        raise Refused(429, f"this key may ask {most} times a minute; wait", code="rate_limit_exceeded")
    return key


KeyOf = Annotated[Key, Depends(admitted)]


def _asked(
    after: Annotated[str | None, Query(description="The id after which the page begins.")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Objects of a page, at most.")] = 20,
    order: Annotated[Literal["asc", "desc"], Query(description="Oldest or newest first.")] = "desc",
) -> Asked:
    return Asked(limit, after, order)


AskedOf = Annotated[Asked, Depends(_asked)]


def page_of(data: list[T], more: bool) -> Page[T]:
    """A page of objects that have ids."""
    ids = [one.id for one in data]
    return Page(data=data, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=more)


async def _owner(
    request: Request,
    service: ServiceOf,
    *,
    owner: str | None = None,
    until: int | None = None,
    signature: str | None = None,
    credentials: Annotated[object, Depends(_BEARER)] = None,
) -> str:
    """Whose files the request may read: the key's, or those of a signed address."""
    if owner is None or until is None or signature is None:
        return (await admitted(request, service, credentials)).name
    if service.jobs.links.owner(request.url.path, owner, until, signature) is None:
        raise Refused(401, "the address is no longer valid; ask for the object again", code="expired_link")
    return owner


OwnerOf = Annotated[str, Depends(_owner)]

_AT_WORK: set[asyncio.Task[None]] = set()


def awake(service: Service, owner: str, of: str) -> None:
    """Tells the runner that something is pending, without waiting: it also looks by itself."""

    async def tell() -> None:
        with suppress(Exception):  # it starts again, and then looks through all
            await service.runner.wake(owner, of)

    task = asyncio.create_task(tell())
    _AT_WORK.add(task)
    task.add_done_callback(_AT_WORK.discard)


def body_of(title: str, fields: Mapping[str, Any], *required: str) -> dict[str, Any]:
    """OpenAPI's description of a body with these fields: JSON, or a form; a form alone if one is a file."""
    schema = {
        "title": title,
        "type": "object",
        "properties": fields,
        "required": list(required),
        "additionalProperties": False,
    }
    kinds = ("multipart/form-data",) if "file" in required else ("application/json", "multipart/form-data")
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema} for kind in kinds}}}


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "The request has to be changed."},
    401: {"model": ErrorAnswer, "description": "No valid key."},
    404: {"model": ErrorAnswer, "description": "No such object."},
    413: {"model": ErrorAnswer, "description": "The body is too large."},
    429: {"model": ErrorAnswer, "description": "A limit of the key is reached."},
    503: {"model": ErrorAnswer, "description": "The store does not answer."},
}
"""What any address may answer instead."""


async def _body(request: Request) -> AsyncIterator[Document]:
    """The fields of a request's body, JSON or a form; files of a form are open until the answer is sent."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with request.form(
            max_files=_MOST_FIELDS, max_fields=_MOST_FIELDS, max_part_size=MOST_JSON_BYTES
        ) as form:
            yield _of_form(form)
    elif kind == "application/json":
        yield object_of(await _read(request))
    else:
        raise Refused(415, f"the body is JSON or multipart/form-data, got {shown(kind)}")


BodyOf = Annotated[Document, Depends(_body)]


async def _read(request: Request) -> bytes:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MOST_JSON_BYTES:
            raise Refused(
                413, f"JSON has at most {MOST_JSON_BYTES >> 20} MiB; send files in a form, or as /v1/files"
            )
    return bytes(content)


def _of_form(form: FormData) -> Document:
    """Fields of a form: OpenAI's clients write `a[b]` for an object's field, and `a[]` for a list's values.

    Of a list of objects they write all values of a field `a[][b]` before those of the next one.
    """
    document: Document = {}
    columns: dict[str, dict[str, list[Any]]] = {}
    for name, value in form.multi_items():
        content = Upload(value.filename or name, value.file) if isinstance(value, UploadFile) else value
        found = _FIELD.fullmatch(name)
        field, in_list, key = found.groups() if found else (name, None, None)
        kind = list if in_list else dict if key else None
        before = document.get(field)
        twice = kind is dict and isinstance(before, dict) and key in before
        mixed = in_list and (key is None) == (field in columns)
        if field in document and (kind is None or not isinstance(before, kind) or twice or mixed):
            raise invalid(f"{shown(field)} is given twice", field[:100])
        if in_list and key:
            document[field] = []
            columns.setdefault(field, {}).setdefault(key, []).append(content)
        elif in_list:
            document.setdefault(field, []).append(content)
        elif key:
            document.setdefault(field, {})[key] = content
        else:
            document[field] = content
    return document | {field: _objects(field, values) for field, values in columns.items()}


def _objects(field: str, columns: Mapping[str, list[Any]]) -> list[Document]:
    counts = {key: len(values) for key, values in columns.items()}
    if len(set(counts.values())) > 1:
        raise invalid(
            f"in a form, each object of {field} has the same fields, got {shown(counts)}; send JSON instead",
            field[:100],
        )
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

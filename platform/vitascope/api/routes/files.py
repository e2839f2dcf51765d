"""Files."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from vitascope.api.failures import invalid
from vitascope.api.fields import Upload
from vitascope.api.routes import content
from vitascope.api.routes.serving import ERRORS, AskedOf, BodyOf, KeyOf, ServiceOf, body_of, page_of
from vitascope.api.shapes import Deleted, File, Page
from vitascope.api.store.records import Kind, StoredFile
from vitascope.api.store.uploads import PURPOSES, check_purpose, shape
from vitascope.section import shown

_FIELDS = {"file": {"type": "string", "format": "binary"}, "purpose": {"enum": list(PURPOSES)}}
router = APIRouter(prefix="/v1/files", tags=["files"], responses=ERRORS)


@router.post("", openapi_extra=body_of("Upload", _FIELDS, "file", "purpose"))
async def create(service: ServiceOf, key: KeyOf, body: BodyOf) -> File:
    """Keeps a file: requests of a batch, or media for requests."""
    upload, purpose = body.pop("file", None), check_purpose(body.pop("purpose", None))
    for name in body:
        raise invalid(f"a file has the fields file and purpose, got {shown(name)}", name[:100])
    if not isinstance(upload, Upload):
        raise invalid("file is a file in a form (multipart/form-data), and is missing", "file")
    return shape(await run_in_threadpool(service.jobs.files.add, key.name, upload, purpose))


@router.get("")
def page(
    service: ServiceOf, key: KeyOf, asked: AskedOf, purpose: Annotated[str | None, Query()] = None
) -> Page[File]:
    """Files by time."""

    def is_asked_for(file: StoredFile) -> bool:
        return purpose in (None, file.purpose)

    found, more = service.jobs.objects.page(key.name, Kind.FILE, StoredFile, asked, keep=is_asked_for)
    return page_of([shape(file) for file in found], more)


@router.get("/{file_id}")
def retrieve(service: ServiceOf, key: KeyOf, file_id: str) -> File:
    """What is known of a file."""
    return shape(service.jobs.files.find(key.name, file_id))


@router.delete("/{file_id}")
def delete(service: ServiceOf, key: KeyOf, file_id: str) -> Deleted:
    """Deletes a file; a video that needs it and is not begun yet will fail."""
    service.jobs.files.delete(key.name, file_id)
    return Deleted(id=file_id, object="file")


@router.get("/{file_id}/content", response_class=Response, responses=content.responses(content.BINARY))
def download(request: Request, service: ServiceOf, key: KeyOf, file_id: str) -> Response:
    """The content of a file."""
    file = service.jobs.files.find(key.name, file_id)
    place = service.jobs.files.place(file)
    return content.answer(request, place, content.BINARY, file.filename, tag=file_id)

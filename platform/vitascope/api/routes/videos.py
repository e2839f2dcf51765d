"""Videos."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from vitascope.api import fields, previews
from vitascope.api.routes import content
from vitascope.api.routes.serving import (
    ERRORS,
    AskedOf,
    BodyOf,
    KeyOf,
    OwnerOf,
    Service,
    ServiceOf,
    awake,
    body_of,
    page_of,
)
from vitascope.api.shapes import Deleted, Page, Video
from vitascope.api.store.objects import READERS
from vitascope.api.store.records import Job, Kind

_OF_SOURCE = fields.described(fields.OF_SOURCE)
_CONTENT = content.responses(*previews.TYPES.values()) | {204: {"description": "No preview is known yet."}}
router = APIRouter(prefix="/v1/videos", tags=["videos"], responses=ERRORS)


async def _begun(service: Service, job: Job) -> Video:
    video = await run_in_threadpool(service.jobs.shape, job)
    awake(service, job.owner, job.id)
    return video


@router.post("", openapi_extra=body_of("VideoOrder", fields.described(fields.OF_VIDEO), "prompt"))
async def create(service: ServiceOf, key: KeyOf, body: BodyOf) -> Video:
    """Begins a video. Next to OpenAI's fields, the body may have all those of a request."""
    return await _begun(service, await run_in_threadpool(service.jobs.create, key, body))


@router.post("/edits", openapi_extra=body_of("Edit", _OF_SOURCE, "prompt", "video"))
async def edit(service: ServiceOf, key: KeyOf, body: BodyOf) -> Video:
    """Begins a video that is made from another one, which `video` names or is."""
    return await _begun(service, await run_in_threadpool(service.jobs.edit, key, body))


@router.post("/extensions", openapi_extra=body_of("Extension", _OF_SOURCE, "prompt", "video", "seconds"))
async def extend(service: ServiceOf, key: KeyOf, body: BodyOf) -> Video:
    """Begins a video that starts with the end of another one, and goes on for `seconds`."""
    return await _begun(service, await run_in_threadpool(service.jobs.extend, key, body))


@router.post("/{video_id}/remix", openapi_extra=body_of("Remix", fields.described(fields.OF_REMIX), "prompt"))
async def remix(service: ServiceOf, key: KeyOf, video_id: str, body: BodyOf) -> Video:
    """Begins the same video with another prompt, or other fields; what is left out stays, also the seed."""
    return await _begun(service, await run_in_threadpool(service.jobs.remix, key, video_id, body))


@router.get("")
def page(service: ServiceOf, key: KeyOf, asked: AskedOf) -> Page[Video]:
    """Videos by time."""
    jobs, more = service.jobs.objects.page(key.name, Kind.VIDEO, Job, asked)
    return page_of(list(READERS.map(service.jobs.shape, jobs)), more)


@router.get("/{video_id}")
def retrieve(service: ServiceOf, key: KeyOf, video_id: str) -> Video:
    """How far a video is."""
    return service.jobs.shape(service.jobs.objects.find(key.name, video_id, Kind.VIDEO, Job))


@router.delete("/{video_id}")
async def delete(service: ServiceOf, key: KeyOf, video_id: str) -> Deleted:
    """Deletes a video; one that is being made leaves the model within one pass."""
    job = await run_in_threadpool(service.jobs.forget, key.name, video_id, Kind.VIDEO)
    await service.runner.cancel(job.owner, job.id)
    return Deleted(id=video_id, object="video.deleted")


@router.get("/{video_id}/content", response_class=Response, responses=_CONTENT)
async def download(
    request: Request,
    service: ServiceOf,
    *,
    owner: OwnerOf,
    video_id: str,
    variant: Annotated[Literal["video", "thumbnail", "spritesheet", "preview"], Query()] = "video",
) -> Response:
    """The file of a finished video, or a picture of it; with a key, or the video's `url`.

    `preview` is for a video that is being made: its first frame, as far as it is known; 204 if it is not.
    """
    if variant == "preview":
        return await _preview(service, owner, video_id)
    return await run_in_threadpool(_finished, request, service, (owner, video_id), variant)


async def _preview(service: Service, owner: str, video_id: str) -> Response:
    job, location = await run_in_threadpool(service.jobs.running, owner, video_id)
    picture = await service.runner.preview(job.request, location) if location else None
    if picture is None:
        return Response(status_code=204)
    return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "no-store"})


def _finished(request: Request, service: Service, of: tuple[str, str], variant: str) -> Response:
    owner, video_id = of
    job, uri = service.jobs.finished(owner, video_id, Kind.VIDEO)
    if variant != "video":
        uri = previews.preview(job, uri, variant)
    suffix = uri.rpartition(".")[2]
    return content.answer(request, uri, previews.TYPES[variant], f"{video_id}.{suffix}")

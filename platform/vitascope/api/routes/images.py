"""Pictures."""

import asyncio
import time

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from vitascope.api import fields
from vitascope.api.failures import Refused, invalid, missing
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
from vitascope.api.shapes import Deleted, Image, Images, Page
from vitascope.api.store.objects import created_at
from vitascope.api.store.records import Job, Kind, Outcome
from vitascope.ledger import Reason

router = APIRouter(prefix="/v1/images", tags=["images"], responses=ERRORS)
_WAIT_S, _FIRST_LOOK_S, _LOOK_S = 540, 0.05, 1.0  # OpenAI's client waits for 600 s


_FIELDS = fields.described(fields.OF_IMAGE)


@router.post("/edits", openapi_extra=body_of("PictureEdit", _FIELDS, "prompt", "image"))
@router.post("/generations", openapi_extra=body_of("Pictures", _FIELDS, "prompt"))
async def create(request: Request, service: ServiceOf, key: KeyOf, body: BodyOf) -> Images:
    """Makes pictures, from `image` if there is one, and answers with them once they are finished."""
    if request.url.path.endswith("/edits") and body.get("image") is None:
        raise invalid("image is the picture to edit, and is missing", "image")
    jobs, form = await run_in_threadpool(service.jobs.images, key, body)
    for job in jobs:
        awake(service, job.owner, job.id)
    await asyncio.gather(*(_made(service, job) for job in jobs))
    base = str(request.base_url).rstrip("/")
    images = [await run_in_threadpool(service.jobs.image, job, form, base) for job in jobs]
    size = f"{jobs[0].request.width}x{jobs[0].request.height}"
    return Images(created=created_at(jobs[0].id), data=images, size=size)


async def _made(service: Service, job: Job) -> None:
    """Returns once the picture is finished; it is made also if nobody waits any longer.

    Raises:
        Refused: it failed, was deleted, or takes too long.
    """
    pause_s, deadline = _FIRST_LOOK_S, time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        if outcome := await run_in_threadpool(service.jobs.outcome, job):
            return _checked(outcome)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LOOK_S)
        if pause_s == _LOOK_S and not await run_in_threadpool(service.jobs.objects.exists, job.owner, job.id):
            raise missing("image", job.id)
    raise Refused(504, f"{job.id} is not finished yet; look for it among /v1/images", code="not_ready")


def _checked(outcome: Outcome) -> None:
    if error := outcome.error:
        status = 500 if error.code == Reason.GENERATION_FAILED else 400
        raise Refused(status, error.message, code=error.code)


@router.get("")
def page(request: Request, service: ServiceOf, key: KeyOf, asked: AskedOf) -> Page[Image]:
    """Finished pictures by time, with their addresses."""
    jobs, base = service.jobs, str(request.base_url).rstrip("/")
    found, more = jobs.objects.page(key.name, Kind.IMAGE, Job, asked, keep=jobs.is_made)
    return page_of([jobs.image(job, "url", base) for job in found], more)


@router.delete("/{image_id}")
async def delete(service: ServiceOf, key: KeyOf, image_id: str) -> Deleted:
    """Deletes a picture, also one that is being made."""
    job = await run_in_threadpool(service.jobs.forget, key.name, image_id, Kind.IMAGE)
    await service.runner.cancel(job.owner, job.id)
    return Deleted(id=image_id, object="image.deleted")


@router.get("/{image_id}/content", response_class=Response, responses=content.responses("image/png"))
def download(request: Request, service: ServiceOf, owner: OwnerOf, image_id: str) -> Response:
    """The file of a picture; with a key, or at its `url`."""
    _, uri = service.jobs.finished(owner, image_id, Kind.IMAGE)
    return content.answer(request, uri, "image/png", f"{image_id}.png")

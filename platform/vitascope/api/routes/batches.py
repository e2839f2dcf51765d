"""Batches."""

from typing import Any

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool

from vitascope.api.batches import ENDPOINTS, Batches
from vitascope.api.routes.serving import ERRORS, AskedOf, BodyOf, KeyOf, ServiceOf, awake, body_of, page_of
from vitascope.api.shapes import Batch, ErrorAnswer, Page
from vitascope.api.store.objects import READERS
from vitascope.api.store.records import BatchJob, Kind

_FIELDS = {
    "input_file_id": {"type": "string"},
    "endpoint": {"enum": list(ENDPOINTS)},
    "completion_window": {"enum": ["24h"]},
    "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
}
router = APIRouter(prefix="/v1/batches", tags=["batches"], responses=ERRORS)
_ENDED: dict[int | str, dict[str, Any]] = {409: {"model": ErrorAnswer, "description": "The batch has ended."}}


@router.post("", openapi_extra=body_of("Batch", _FIELDS, *list(_FIELDS)[:3]))
async def create(service: ServiceOf, key: KeyOf, body: BodyOf) -> Batch:
    """Begins what the lines of a file ask for: `{"custom_id", "method": "POST", "url", "body"}`."""
    batches = Batches(service.jobs)
    record = await run_in_threadpool(batches.create, key, body)
    batch = await run_in_threadpool(batches.shape, record)
    awake(service, record.owner, record.id)
    return batch


@router.get("")
def page(service: ServiceOf, key: KeyOf, asked: AskedOf) -> Page[Batch]:
    """Batches by time."""
    found, more = service.jobs.objects.page(key.name, Kind.BATCH, BatchJob, asked)
    return page_of(list(READERS.map(Batches(service.jobs).shape, found)), more)


@router.get("/{batch_id}")
def retrieve(service: ServiceOf, key: KeyOf, batch_id: str) -> Batch:
    """How far a batch is."""
    batches = Batches(service.jobs)
    return batches.shape(batches.find(key.name, batch_id))


@router.post("/{batch_id}/cancel", responses=_ENDED)
async def cancel(service: ServiceOf, key: KeyOf, batch_id: str) -> Batch:
    """Ends a batch; what is finished by then is in its files of results, the rest in that of errors."""
    batches = Batches(service.jobs)
    record = await run_in_threadpool(batches.cancel, key.name, batch_id)
    awake(service, record.owner, record.id)
    return await run_in_threadpool(batches.shape, record)

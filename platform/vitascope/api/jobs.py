"""Creates, shows and deletes videos and pictures."""

import base64
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from vitascope import storage
from vitascope.api import fields
from vitascope.api.failures import Refused, invalid, of_rejected
from vitascope.api.fields import Document
from vitascope.api.settings import ServeSettings
from vitascope.api.shapes import Image, Status, Video
from vitascope.api.store.keys import Allowance, Key
from vitascope.api.store.links import Links
from vitascope.api.store.objects import Objects, created_at, kind_of, new_id, several
from vitascope.api.store.records import Job, Kind, Outcome, Progress
from vitascope.api.store.uploads import Files, Locator
from vitascope.generate.chunks import chunks_of
from vitascope.generate.denoise import states
from vitascope.generate.finished import n_kept
from vitascope.generate.models import DEFAULT, Models, Newest
from vitascope.generate.opened import Target
from vitascope.generate.parse import parse
from vitascope.generate.request import Mode, Request
from vitascope.ledger import Rejected
from vitascope.media.probe import probe
from vitascope.records import stable_int
from vitascope.section import shown

_MOST_USER_CHARS = 512
_HIDDEN = {"custom_id", "prompt", "width", "height", "seconds"}  # of a request's settings: shown elsewhere


@dataclass(frozen=True)
class Order:
    """Who asks for a job, and what is known of it apart from its request.

    model: its name. of: the job's id, if it has one already.
    """

    key: Key
    model: str
    kind: Kind = Kind.VIDEO
    of: str | None = None
    remixed_from: str | None = None
    user: str | None = None
    batch: str | None = None


@dataclass(frozen=True)
class Jobs:
    """The videos and pictures of a service."""

    objects: Objects
    newest: Newest
    settings: ServeSettings
    links: Links

    @property
    def models(self) -> Models:
        """Those that new jobs are for."""
        return self.newest.models

    @property
    def names(self) -> list[str]:
        """Those of the models, as clients know them; the default's come first."""
        return [*self.settings.models, *(name for name in self.models.each if name != DEFAULT)]

    @property
    def files(self) -> Files:
        """The files that they refer to."""
        return Files(self.objects)

    def create(
        self, key: Key, body: Mapping[str, Any], of: str | None = None, batch: str | None = None
    ) -> Job:
        """Commits a new video. `body`: OpenAI's fields, and those of a request.

        Args:
            of: its id, in the batch of the id `batch`; by default a new one.

        Raises:
            Refused: 400 naming the field, 404 for what it refers to, 429 beyond the key's limits.
        """
        order = replace(self._order(key, body), of=of, batch=batch)
        return self.commit(order, fields.of_video(body, self.settings))

    def images(
        self, key: Key, body: Mapping[str, Any], of: str | None = None, batch: str | None = None
    ) -> tuple[list[Job], str]:
        """Commits new pictures, made from `image` if there is one; and says how they are to be returned.

        Args:
            of: the id of the first, from which those of the others follow.

        Raises:
            Refused: as `create`.
        """
        order = replace(self._order(key, body), kind=Kind.IMAGE, batch=batch)
        document, n, form = fields.of_image(body, self.settings)
        locate, jobs = Locator(self.files, key.name), list[Job]()
        try:
            document, given = fields.with_media(document, locate)
            for i, each in enumerate(several(of or new_id(Kind.IMAGE), n)):
                seeds = {"seed": document["seed"] + i} if "seed" in document else {}
                jobs.append(self.commit(replace(order, of=each), document | seeds, given))
        except BaseException:
            for job in jobs:
                self.objects.forget(job.owner, job.id)
                self.objects.clean(job.owner, job.id)
            locate.forget()
            raise
        return jobs, form

    def remix(self, key: Key, source: str, body: Mapping[str, Any]) -> Job:
        """Commits the same video with another prompt: what else the body leaves out, also the seed, stays.

        Raises:
            Refused: as `create`.
        """
        job = self.objects.find(key.name, source, Kind.VIDEO, Job)
        document = job.request.model_dump(mode="json", exclude={"custom_id"}) | fields.of_remix(body)
        own = job.model if job.model in self.names else job.request.model  # the default may have another name
        model = {"model": body.get("model") or own}
        order = replace(self._order(key, {**body, **model}), remixed_from=source)
        return self.commit(order, document, job.given)

    def edit(self, key: Key, body: Mapping[str, Any]) -> Job:
        """Commits a video that is made from another one.

        Raises:
            Refused: as `create`.
        """
        return self._made_from(key, body, Mode.VIDEO_TO_VIDEO)

    def extend(self, key: Key, body: Mapping[str, Any]) -> Job:
        """Commits a video that begins with the end of another one and goes on for `seconds`.

        Raises:
            Refused: as `create`.
        """
        new = fields.seconds_of(body.get("seconds"))
        return self._made_from(key, {**body, "seconds": None}, Mode.EXTEND_FORWARD, new)

    def _order(self, key: Key, body: Mapping[str, Any]) -> Order:
        user = body.get("user")
        if user is not None and not (isinstance(user, str) and len(user) <= _MOST_USER_CHARS):
            raise invalid(f"user is a text of up to {_MOST_USER_CHARS} characters, got {shown(user)}", "user")
        return Order(key, fields.check_model(body.get("model"), self.names), user=user)

    def _made_from(self, key: Key, body: Mapping[str, Any], mode: Mode, new: float | None = None) -> Job:
        """Commits a video that is made from another one, and is `new` seconds longer.

        A file in the body is kept, unless the job is refused.
        """
        locate = Locator(self.files, key.name)
        try:
            document = self._after(locate, body, mode)
            if new is not None:
                document["seconds"] = new + min(
                    new, document["seconds"]
                )  # as much is given, if there is as much
            return self.commit(self._order(key, body), document)
        except BaseException:
            locate.forget()
            raise

    def _after(self, locate: Locator, body: Mapping[str, Any], mode: Mode) -> Document:
        """The fields of a video that is made from the one that the body names, in its size."""
        given = fields.of_source(body, mode)
        location, name = locate("video", given.pop("video"))
        if kind_of(name) not in (Kind.VIDEO, Kind.FILE):
            raise invalid(
                f"video is an upload, or the id of a file or a finished video, got {shown(name)}", "video"
            )
        return self._facts(locate.owner, location, name) | given | {"video": name}

    def _facts(self, owner: str, location: str, name: str) -> Document:
        if kind_of(name) is Kind.VIDEO:
            source = self.objects.find(owner, name, Kind.VIDEO, Job).request
            about = source.model_dump(include={"width", "height", "seconds", "fps"})
            return dict(about)
        try:
            facts = probe(location)
        except Rejected as rejected:
            raise of_rejected(rejected, "video") from None
        sides = {"width": facts.width // 2 * 2, "height": facts.height // 2 * 2}
        return sides | {"seconds": facts.duration_s, "fps": min(max(facts.fps or 8.0, 1.0), 120.0)}

    def commit(self, order: Order, document: Document, given: Mapping[str, Any] | None = None) -> Job:
        """Commits a job of these fields; `given` names the media that are located already.

        Files in the fields are kept as the owner's, unless the job is refused.
        """
        locate = Locator(self.files, order.key.name)
        try:
            if given is None:
                document, given = fields.with_media(document, locate)
            return self._committed(order, document, given)
        except BaseException:
            locate.forget()
            raise

    def _committed(self, order: Order, document: Document, given: Mapping[str, Any]) -> Job:
        owner, of = order.key.name, order.of or new_id(order.kind)
        model = None if order.model in self.settings.models else order.model
        seed = stable_int("seed", of) >> 10  # browsers read numbers of 53 bits
        document = {"seed": seed, **document, "custom_id": of, "model": model}
        request = self._checked(owner, document, order.key)
        if order.kind is Kind.VIDEO and request.size.n_frames == 1:
            raise invalid("a video has at least two frames; raise seconds, or ask for a picture", "seconds")
        job = Job(
            id=of,
            owner=owner,
            model=order.model,
            request=request,
            given=dict(given),
            remixed_from=order.remixed_from,
            user=order.user,
            batch=order.batch,
        )
        self._reserve(job, order.key.in_flight)
        self.objects.add(job)
        return job

    def _reserve(self, job: Job, most: int | None) -> None:
        """Notes that the job is pending, if the key may have another one; those of a batch take turns."""
        self.objects.note(job.owner, job.id, Progress())
        if most and not job.batch and len(self.objects.all_pending(job.owner)) > most:
            self.objects.settle(job.owner, job.id)
            raise Refused(
                429, f"this key may have {most} requests in flight; wait for one", code="too_many_in_flight"
            )

    def _checked(self, owner: str, document: Document, key: Allowance) -> Request:
        limits = self.models.limits(self.objects.visible(owner))
        try:
            request = parse(json.dumps(document, default=str), limits)  # a file in a field for texts
        except Rejected as rejected:
            raise of_rejected(rejected) from None
        size = request.size
        if key.max_pixels and size.height * size.width > key.max_pixels:
            raise invalid(
                f"this key may ask for {key.max_pixels} pixels a frame, got {size.width}x{size.height}",
                "size",
            )
        if key.max_frames and size.n_frames > key.max_frames:
            raise invalid(f"this key may ask for {key.max_frames} frames, got {size.n_frames}", "seconds")
        return request

    def target(self, job: Job) -> Target:
        """The output of a job, in a folder of its own; raises Rejected as `Models.target`."""
        return self.models.target(self.objects.media(job.owner, job.id), job.request)

    def shape(self, job: Job) -> Video:
        """A video as clients see it."""
        status, progress, outcome = self._state(job)
        request = job.request
        path = f"/v1/videos/{job.id}/content"
        settings = request.model_dump(mode="json", exclude=_HIDDEN) | job.given
        return Video(
            id=job.id,
            model=job.model,
            status=status,
            progress=progress,
            created_at=created_at(job.id),
            completed_at=outcome.at if outcome and outcome.uri else None,
            error=outcome.error if outcome else None,
            prompt=request.prompt,
            seconds=f"{request.seconds:g}",
            size=f"{request.width}x{request.height}",
            remixed_from_video_id=job.remixed_from,
            settings={key: value for key, value in settings.items() if value is not None},
            url=self.links.signed(path, job.owner) if status == "completed" else None,
        )

    def _state(self, job: Job) -> tuple[Status, int, Outcome | None]:
        """Status, progress in percent, and the outcome, if the job has ended."""
        progress = None
        if (outcome := self.outcome(job)) is None:
            progress = self.objects.pending(job.owner, job.id, Progress)
            outcome = self.outcome(job) if progress is None else None  # it ended in between
        if outcome is None:
            if not (progress and progress.started_at):
                return "queued", 0, None
            return "in_progress", self._percent(job), None
        return ("completed", 100, outcome) if outcome.uri else ("failed", 0, outcome)

    def running(self, owner: str, of: str) -> tuple[Job, str | None]:
        """A video, and the location of its output while it is being made.

        Raises:
            Refused: 404.
        """
        job = self.objects.find(owner, of, Kind.VIDEO, Job)
        with suppress(Rejected):
            if self._state(job)[0] == "in_progress":
                return job, self.target(job).location
        return job, None

    def _percent(self, job: Job) -> int:
        """How far the denoising of a running job is, as its saved state says; below 100."""
        try:
            target, patching = self.target(job), self.models.of(job.request).card.patching
        except Rejected:  # the runner ends it
            return 0
        step, n_steps = states.progress(target.location) or (0, 1)
        n_chunks = len(chunks_of(job.request, patching))
        n_done = n_kept(target.location) if n_chunks > 1 else 0
        return min(99, int(100 * (n_done + step / n_steps) / n_chunks))

    def outcome(self, job: Job) -> Outcome | None:
        """How a job ended; None if it has not."""
        return self.objects.outcome(job.owner, job.id, Outcome)

    def is_made(self, job: Job) -> bool:
        """Whether the job has ended with a file."""
        outcome = self.outcome(job)
        return outcome is not None and outcome.uri is not None

    def image(self, job: Job, form: str, base: str = "") -> Image:
        """A finished picture as clients see it: its content, or its address at the service's, `base`."""
        if form == "url":
            path = f"/v1/images/{job.id}/content"
            return Image(id=job.id, url=base + self.links.signed(path, job.owner))
        _, uri = self.finished(job.owner, job.id, Kind.IMAGE)
        return Image(id=job.id, b64_json=base64.b64encode(storage.read_bytes(uri)).decode())

    def finished(self, owner: str, of: str, kind: Kind) -> tuple[Job, str]:
        """A job and the location of the file that it made.

        Raises:
            Refused: 404 if there is no such job, 400 if it is not completed.
        """
        job = self.objects.find(owner, of, kind, Job)
        outcome = self.outcome(job)
        if outcome is None or outcome.uri is None:
            status = "failed" if outcome else "not finished yet"
            raise invalid(
                f"{of} is {status}; only what is completed has a content", f"{kind}_id", "not_ready"
            )
        return job, outcome.uri

    def forget(self, owner: str, of: str, kind: Kind) -> Job:
        """Deletes a job, so that it is found no more; the runner ends it, and removes what it made.

        Raises:
            Refused: 404.
        """
        job = self.objects.find(owner, of, kind, Job)
        self.objects.note(job.owner, of, Progress())  # so that it is cleaned up whatever fails now
        self.objects.forget(job.owner, of)
        return job

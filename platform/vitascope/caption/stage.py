"""The stage, on Ray Data."""

import os
from collections.abc import Iterator
from typing import Any, Protocol

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from vitascope import storage
from vitascope.caption import answers
from vitascope.caption.answers import Asked
from vitascope.caption.frames import pictures
from vitascope.caption.settings import CaptionSettings
from vitascope.clips import table
from vitascope.clips.table import Row
from vitascope.cluster.local import address_of, check_room, connect
from vitascope.cluster.placement import place
from vitascope.config import Settings
from vitascope.errors import Mistake
from vitascope.ledger import Reason, Rejected, Status, dropped_by_reason
from vitascope.media.clip import COLUMNS, Clip
from vitascope.stages.registry import Summary
from vitascope.stages.running import items, running

_CLIP = ["clip_id", *COLUMNS]
_COLUMNS = [*_CLIP, "caption", "status", "reason"]
_SEEN = pa.schema(
    [
        pa.field("clip_id", pa.string()),
        pa.field("fields", pa.list_(pa.string())),
        pa.field("pictures", pa.list_(pa.binary())),  # JPEG files; null if the clip does not decode
        pa.field("reason", pa.string()),  # ledger.Reason if it does not decode
        pa.field("detail", pa.string()),
    ]
)


class Captioner(Protocol):
    """A model that describes pictures."""

    def ask(self, questions: list[tuple[list[bytes], str]]) -> list[str | Rejected]:
        """The caption for each (JPEG files, prompt), or why there is none.

        Raises:
            answers.Unusable: the model in the settings cannot be used.
            ConnectionError: it cannot be reached.
        """
        ...


def make_captioner(settings: CaptionSettings) -> Captioner:
    """The captioner of `settings.source`."""
    if settings.source == "folder":
        from vitascope.caption.local import LocalModel  # imported here, as that takes seconds

        return LocalModel(settings)
    from vitascope.caption.endpoint import Endpoint

    return Endpoint(settings)


def run(settings: Settings) -> Summary:
    """Asks for the captions that no committed part has, commits them by parts, returns the summary.

    Raises:
        Mistake: the stage is off, or the model cannot be used.
        ConnectionError: nothing answers at the endpoint.
    """
    with running(settings, "caption") as summary:
        summary |= _captioned(settings)
    return summary


def _captioned(settings: Settings) -> Summary:
    caption = settings.caption
    if caption.source == "off":
        raise Mistake('caption.source is off; set it to "folder" or "endpoint", or leave this stage out')
    if (
        caption.source == "folder"
        and not address_of(settings.cluster)
        and not os.path.isdir(str(caption.folder))
    ):
        raise answers.Unusable(f"caption.folder {caption.folder} is no folder on this machine; set it")
    folder = settings.path("captions")
    clips = answers.wanted(storage.rows(settings.path("clips"), _COLUMNS), caption)
    todo = answers.still_to_ask(clips, table.answers(folder, caption), list(caption.prompts))
    todo = [({key: clip[key] for key in _CLIP}, fields) for clip, fields in todo]
    n_existing = len(storage.list_files(folder))
    if todo:
        connect(settings.cluster)
        _ask(settings, answers.plan(todo, caption, n_existing), sum(len(fields) for _, fields in todo))
    asked = {clip["clip_id"] for clip in clips}
    rows = [row for row in table.answers(folder, caption) if row["clip_id"] in asked]
    return {
        "clips_asked": len(asked),
        "captions": sum(row["status"] == Status.OK for row in rows),
        "dropped_by_reason": dropped_by_reason(rows),
        "asked_now": sum(len(fields) for _, fields in todo),
    }


def _ask(settings: Settings, parts: list[Row], n_questions: int) -> None:
    """Runs the parts on Ray and follows their progress."""
    with items(settings, "caption", n_questions, note_drops=True) as count:
        for done in _execute(settings, parts):
            if done["mistake"]:
                raise answers.Unusable(done["mistake"])
            if done["away"]:
                raise ConnectionError(done["away"])
            count(done["outcomes"])


def _execute(settings: Settings, parts: list[Row]) -> Iterator[Row]:
    """Runs the parts: pictures in tasks, questions in actors that hold the model, or in tasks for an
    endpoint.

    Actors with a model on CPUs decode the clips too: when a node is lost, Ray decodes its clips again, and
    actors waiting for that could hold all CPUs.
    """
    caption = settings.caption
    rows = place(ray.data.from_items(parts, override_num_blocks=len(parts)), settings, "caption")
    how: Row = {"settings": caption, "timeout_s": settings.clips.decode_timeout_s}
    given = how | {"folder": settings.path("captions")}
    at_once = min(caption.workers, len(parts))
    if caption.source == "endpoint":
        # Half a CPU for tasks that wait for the network; also, Ray Data fuses steps with equal resources.
        check_room(settings.cluster, "seeing and asking", cpus=1.5)
        rows = rows.map(_with_pictures, fn_kwargs=how, num_cpus=1)
        answered = rows.map(_ask_part, fn_kwargs=given, compute=TaskPoolStrategy(at_once), num_cpus=0.5)
    else:
        takes: Row = {"num_cpus": caption.worker_cpus, "num_gpus": 1 if caption.use_gpu else 0}
        needs = {"cpus": takes["num_cpus"] + caption.use_gpu, "gpus": takes["num_gpus"]}
        check_room(settings.cluster, "captioning (caption.worker_cpus)", **needs)
        if caption.use_gpu:
            rows = rows.map(_with_pictures, fn_kwargs=how, num_cpus=1)
        actors = ActorPoolStrategy(min_size=1, max_size=at_once)
        answered = rows.map(_Worker, fn_constructor_kwargs=given, compute=actors, **takes)
    yield from answered.iter_rows()


def _with_pictures(part: Row, *, settings: CaptionSettings, timeout_s: float) -> Row:
    """The part with pictures of its clips: one row, which Ray Data cannot split, with an Arrow stream."""
    rows = []
    for clip in part["clips"]:
        row = {"clip_id": clip["clip_id"], "fields": list(clip["fields"])}
        try:
            rows.append(row | {"pictures": pictures(Clip.of_row(clip), settings, timeout_s=timeout_s)})
        except Rejected as rejected:
            rows.append(row | {"reason": str(rejected.reason), "detail": rejected.detail})
    return {"file": part["file"], "pictures": storage.stream_bytes(pa.Table.from_pylist(rows, schema=_SEEN))}


class _Worker:
    """Asks for the captions of a part, after decoding its pictures if necessary, and commits them."""

    def __init__(self, settings: CaptionSettings, folder: str, timeout_s: float) -> None:
        self._settings, self._folder, self._timeout_s = settings, folder, timeout_s
        self._captioner = make_captioner(settings)

    def __call__(self, part: Row) -> Row:
        """The outcome of each question; or, with nothing committed, why none can be asked."""
        uri = storage.join(self._folder, part["file"])
        try:
            if not storage.exists(uri):  # otherwise an earlier worker committed it and was lost
                if "pictures" not in part:
                    part = _with_pictures(part, settings=self._settings, timeout_s=self._timeout_s)
                clips = storage.read_stream(part["pictures"]).to_pylist()
                rows = answers.table(self._outcomes(clips), self._settings)
                storage.create(uri, storage.parquet_bytes(rows))
        except answers.Unusable as mistake:
            return {"mistake": str(mistake), "away": "", "outcomes": []}
        except ConnectionError as away:
            return {"mistake": "", "away": str(away), "outcomes": []}
        reasons = storage.read_table(uri, ["reason"])["reason"].to_pylist()
        return {"mistake": "", "away": "", "outcomes": [reason or str(Status.OK) for reason in reasons]}

    def _outcomes(self, clips: list[Row]) -> dict[Asked, str | Rejected]:
        """The outcome of every field of every clip."""
        outcomes: dict[Asked, str | Rejected] = {}
        questions = {}
        for clip in clips:
            for field in clip["fields"]:
                asked = clip["clip_id"], field
                if clip["pictures"]:
                    questions[asked] = (clip["pictures"], self._settings.prompts[field])
                else:
                    outcomes[asked] = Rejected(Reason(clip["reason"]), clip["detail"])
        return outcomes | dict(zip(questions, self._captioner.ask(list(questions.values())), strict=True))


def _ask_part(part: Row, **given: Any) -> Row:
    return _Worker(**given)(part)

"""The stage, on Ray Data."""

import dataclasses
import posixpath
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import ray.data

from vitascope import progress, records, storage
from vitascope.clips import captions, cut
from vitascope.clips.decode import check_clip
from vitascope.clips.probe import probe
from vitascope.clips.settings import ClipsSettings
from vitascope.cluster import local
from vitascope.cluster.placement import place
from vitascope.config import Settings
from vitascope.ledger import Reason, Rejected, Status, dropped_by_reason
from vitascope.observe.metrics import Publisher

VIDEOS_PER_TASK = 8
CLIPS_PER_TASK = 16  # neighbours, so that a task opens few sources

_WORK = pa.schema(
    [
        pa.field("uri", pa.string()),
        pa.field("name", pa.string()),
        pa.field("sidecar", pa.string()),
        pa.field("caption", pa.string()),  # from the captions table
        pa.field("unreadable", pa.string()),  # why the file cannot even be named
    ]
)
_PROBED = records.VIDEOS.append(pa.field("caption", pa.string())).append(pa.field("no_caption", pa.string()))
_NOT_UTF8 = "its name is not UTF-8; rename the file, or the folder it is in"
_Row = dict[str, Any]


def run(settings: Settings) -> dict[str, Any]:
    """Lists, probes, cuts and verifies; commits the videos and the clips table; returns the summary.

    Raises:
        ValueError: there is no input, or the captions table is unusable.
    """
    started = time.monotonic()
    work = work_list(settings.clips)
    local.connect(settings.cluster)
    videos = _on_ray(work, _probe_batch, settings, per_task=VIDEOS_PER_TASK, label="probe")
    videos.sort(key=lambda row: row["name"])
    clips = [clip for video in videos if video["status"] == Status.OK for clip in _cut(video, settings.clips)]
    clips = _verified(clips, settings)
    summary = _summary(videos, clips) | {"seconds": round(time.monotonic() - started, 3)}
    storage.put_table(
        settings.path("videos", "videos.parquet"),
        pa.Table.from_pylist(videos, schema=_PROBED).select(records.VIDEOS.names),
    )
    storage.put_table(
        settings.path("clips", "clips.parquet"), pa.Table.from_pylist(clips, schema=records.CLIPS)
    )
    storage.put_json(settings.path("summaries", "clips.json"), summary)
    return summary


def work_list(settings: ClipsSettings) -> pa.Table:
    """Every input file with what captions it: a sidecar beside it, or else its row of the captions table.

    A local name that is not UTF-8 is shown with backslashes (`caf\\xe9.mp4`), and its file is unreadable.
    """
    if not settings.input:
        raise ValueError("clips.input is not set; set clips.input to a folder or a bucket's prefix of videos")
    root = storage.absolute(settings.input)
    table_uri = storage.absolute(settings.captions) if settings.captions else None
    names = {_name(uri, root): uri for uri in storage.list_files(root) if uri != table_uri}
    beside = captions.sidecars(names)
    inputs = sorted(set(names) - set(beside.values()))
    if not inputs:
        raise ValueError(f"no media files under {root}; set clips.input to a folder or prefix that has some")
    by_name = captions.read_table(table_uri) if table_uri else {}
    rows = [_work(names[n], n, names.get(beside.get(n, "")), by_name.get(n)) for n in inputs]
    return pa.Table.from_pylist(rows, schema=_WORK)


def _work(uri: str, name: str, sidecar: str | None, caption: str | None) -> _Row:
    if (shown := _utf8(uri)) != uri:
        return {"uri": shown, "name": _utf8(name), "unreadable": _NOT_UTF8}
    return {"uri": uri, "name": name, "sidecar": sidecar, "caption": caption}


def _utf8(name: str) -> str:
    """`name` with a backslash escape for every byte that is not UTF-8, a lone surrogate in Python."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _name(uri: str, root: str) -> str:
    return uri[len(root.rstrip("/")) :].lstrip("/") or posixpath.basename(uri)


def _on_ray(work: pa.Table, function: Callable, settings: Settings, *, per_task: int, label: str) -> list:
    """The rows of `function` over blocks of `work`; in no certain order."""
    if not len(work):
        return []
    blocks = [work.slice(start, per_task) for start in range(0, len(work), per_task)]
    done = place(ray.data.from_arrow(blocks), settings, "clips").map_batches(
        function, batch_size=None, batch_format="pyarrow", fn_kwargs={"settings": settings.clips}, num_cpus=1
    )
    rows: list[_Row] = []
    n_dropped, publisher = 0, Publisher(run=settings.run.folder)
    batch: Any
    with progress.track(len(work), label) as advance, publisher.stage(label, len(work)) as did:
        for batch in done.iter_batches(batch_size=None, batch_format="pyarrow"):
            rows += batch.to_pylist()
            outcomes = [reason or Status.OK for reason in batch["reason"].to_pylist()]
            publisher.add_items(label, outcomes)
            n_dropped += len(outcomes) - outcomes.count(Status.OK)
            did(len(batch))
            advance(len(batch), note=f"{n_dropped} dropped" if n_dropped else "")
    return rows


def _probe_batch(work: pa.Table, settings: ClipsSettings) -> pa.Table:
    return pa.Table.from_pylist([_probed(row, settings) for row in work.to_pylist()], schema=_PROBED)


def _probed(work: _Row, settings: ClipsSettings) -> _Row:
    """A videos row, with the caption or why there is none beside it."""
    size_bytes: int | None = None
    facts: _Row = {}
    outcome: _Row = records.OK
    try:
        if work["unreadable"]:
            raise Rejected(Reason.UNREADABLE, work["unreadable"])
        size_bytes = storage.size_bytes(work["uri"])
        facts = probe(work["uri"], timeout_s=settings.decode_timeout_s)
        if min(facts["width"], facts["height"]) < settings.min_side_px:
            size = f"{facts['width']}x{facts['height']}"
            raise Rejected(Reason.TOO_SMALL, f"{size}, clips.min_side_px is {settings.min_side_px}")
    except Rejected as rejected:
        outcome = dict(records.dropped(rejected.reason, rejected.detail))
    except OSError as error:
        outcome = dict(records.dropped(Reason.UNREADABLE, f"{type(error).__name__}: {error}"))
    video_id = records.stable_id(work["name"], size_bytes)
    origin = {"video_id": video_id, "uri": work["uri"], "name": work["name"], "size_bytes": size_bytes}
    return origin | facts | _caption(work) | outcome


def _caption(work: _Row) -> _Row:
    try:
        caption = captions.read_sidecar(work["sidecar"]) if work["sidecar"] else work["caption"]
    except Rejected as rejected:
        return {"caption": None, "no_caption": rejected.detail}
    return {
        "caption": caption,
        "no_caption": None if caption else "no sidecar and no row of a captions table",
    }


def _cut(video: _Row, settings: ClipsSettings) -> list[_Row]:
    """The clips rows of a video, not yet decoded; split is filled in at the end."""
    shared = ["video_id", "uri", "name", "kind", "width", "height", "rotation_deg", "decoder", "caption"]
    outcome = records.OK if video["caption"] else records.dropped(Reason.NO_CAPTION, video["no_caption"])
    rows = []
    for span in cut.spans(video["duration_s"], settings.fps, settings.durations_s, settings.every_s):
        own: _Row = dataclasses.asdict(span) | {"fps": settings.fps, "split": "train"}
        own["clip_id"] = records.stable_id(video["video_id"], span.start_s, span.n_frames, settings.fps)
        rows.append({key: video[key] for key in shared} | own | outcome)
    return rows


def _verified(clips: list[_Row], settings: Settings) -> list[_Row]:
    """The clips, each decoded once to be sure of it, with hash, outcome and split; by name and time."""
    unseen = pa.Table.from_pylist([c for c in clips if c["status"] == Status.OK], schema=records.CLIPS)
    seen = _on_ray(unseen, _check_batch, settings, per_task=CLIPS_PER_TASK, label="decode")
    seen += [c for c in clips if c["status"] != Status.OK]
    usable = {c["name"] for c in seen if c["status"] == Status.OK}
    names = {c["name"] for c in seen}
    split = cut.splits(names, usable, settings.clips.val_share, settings.clips.val_names)
    rows = [clip | {"split": split[clip["name"]]} for clip in seen]
    return sorted(rows, key=lambda clip: (clip["name"], clip["start_s"]))


def _check_batch(clips: pa.Table, settings: ClipsSettings) -> pa.Table:
    return pa.Table.from_pylist([_checked(row, settings) for row in clips.to_pylist()], schema=records.CLIPS)


def _checked(clip: _Row, settings: ClipsSettings) -> _Row:
    what = {key: clip[key] for key in ("uri", "start_s", "fps", "n_frames", "rotation_deg", "decoder")}
    try:
        phash, decoder = check_clip(**what, timeout_s=settings.decode_timeout_s)
    except Rejected as rejected:
        return clip | records.dropped(rejected.reason, rejected.detail)
    return clip | {"phash": phash, "decoder": decoder}


def _summary(videos: list[_Row], clips: list[_Row]) -> _Row:
    return {
        "videos_in": len(videos),
        "videos_ok": sum(row["status"] == Status.OK for row in videos),
        "clips": len(clips),
        "clips_ok": sum(row["status"] == Status.OK for row in clips),
        "dropped_by_reason": dropped_by_reason(videos + clips),
    }

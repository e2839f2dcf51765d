"""The stage, on Ray Data."""

import dataclasses
import posixpath
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from vitascope import progress, records, storage
from vitascope.clips import captions, catalog, cut, dedup
from vitascope.clips.catalog import Item
from vitascope.clips.derive import clips_of
from vitascope.clips.features import SIDE_PX
from vitascope.clips.hashing import BOXES
from vitascope.clips.scan import scan
from vitascope.clips.settings import ClipsSettings
from vitascope.cluster import local
from vitascope.cluster.placement import place
from vitascope.config import Settings
from vitascope.ledger import Reason, Rejected, Status, dropped_by_reason
from vitascope.observe.metrics import Publisher

_CAPTIONS = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("again", pa.bool_(), nullable=False),
        pa.field("texts", pa.map_(pa.string(), pa.string())),
        pa.field("detail", pa.string()),
    ]
)
_CUT = pa.schema(
    [
        *records.CLIPS,
        pa.field("content", pa.string()),
        pa.field("copy_hashes", pa.list_(pa.int64())),
        pa.field("textures", pa.list_(pa.float32())),
    ]
)
"""Clips, with what their twins are found by."""

_NOT_UTF8 = "its name is not UTF-8; rename the file, or the folder it is in"
_Row = dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """What is under the input: media, sidecars that caption them, and what cannot even be named."""

    media: list[Item]
    sidecars: list[Item]  # named as what they caption
    unreadable: list[_Row]  # rows of records.VIDEOS


def run(settings: Settings) -> dict[str, Any]:
    """Scans what is new, cuts and judges all; commits the videos and the clips table; returns the summary.

    Raises:
        ValueError: there is no input, or the captions table is unusable.
    """
    started = time.monotonic()
    inputs = list_inputs(settings.clips)
    local.connect(settings.cluster)
    folder = storage.absolute(settings.clips.catalog or settings.path("catalog"))
    looks = storage.join(folder, records.stable_id("scan", settings.clips.fps, SIDE_PX))
    texts = storage.join(folder, records.stable_id("captions", *settings.clips.caption_fields))
    places, n_scanned = _looked_at(inputs.media, looks, scan_part, settings)
    captioned, n_read = _looked_at(inputs.sidecars, texts, read_captions, settings)
    work = _cut_work(inputs, places, captioned, settings.clips)
    videos, clips = _cut(work, settings)
    videos = pa.concat_tables([videos, pa.Table.from_pylist(inputs.unreadable, schema=records.VIDEOS)])
    videos = videos.sort_by("name")
    clips = _settled(clips.sort_by([("name", "ascending"), ("start_s", "ascending")]), settings.clips)
    summary = _summary(videos, clips) | {
        "scanned": n_scanned,
        "captions_read": n_read,
        "seconds": round(time.monotonic() - started, 3),
    }
    storage.put_table(settings.path("videos", "videos.parquet"), videos)
    storage.put_table(settings.path("clips", "clips.parquet"), clips)
    storage.put_json(settings.path("summaries", "clips.json"), summary)
    return summary


def list_inputs(settings: ClipsSettings) -> Inputs:
    """Every input file with its version, and what captions it.

    A local name that is not UTF-8 is shown with backslashes (`caf\\xe9.mp4`), and its file is unreadable.
    """
    if not settings.input:
        raise ValueError("clips.input is not set; set clips.input to a folder or a bucket's prefix of videos")
    root = storage.absolute(settings.input)
    table = storage.absolute(settings.captions) if settings.captions else None
    listed = [file for file in storage.listing(root) if file.uri != table]
    items = {
        name: Item(f.uri, name, f.version, f.size_bytes) for f in listed for name in [_name(f.uri, root)]
    }
    beside = captions.beside(items)
    taken = {sidecar for mine in beside.values() for sidecar in mine}
    media = [item for name, item in sorted(items.items()) if name not in taken]
    if not media:
        raise ValueError(f"no media files under {root}; set clips.input to a folder or prefix that has some")
    named = [item for item in media if _utf8(item.uri) == item.uri]
    return Inputs(
        named,
        [_sidecars(item, [items[n] for n in beside[item.name]]) for item in named if item.name in beside],
        [_unreadable(item) for item in media if _utf8(item.uri) != item.uri],
    )


def _sidecars(item: Item, beside: Sequence[Item]) -> Item:
    version = " ".join(sidecar.version for sidecar in beside)
    n_bytes = sum(sidecar.size_bytes for sidecar in beside)
    return Item(item.uri, item.name, version, n_bytes, tuple(sidecar.uri for sidecar in beside))


def _unreadable(item: Item) -> _Row:
    shown = {"uri": _utf8(item.uri), "name": _utf8(item.name), "size_bytes": item.size_bytes}
    video_id = records.stable_id(shown["name"], item.size_bytes)
    return {"video_id": video_id} | shown | records.dropped(Reason.UNREADABLE, _NOT_UTF8)


def _utf8(name: str) -> str:
    """`name` with a backslash escape for every byte that is not UTF-8, a lone surrogate in Python."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _name(uri: str, root: str) -> str:
    return uri[len(root.rstrip("/")) :].lstrip("/") or posixpath.basename(uri)


def _looked_at(
    items: list[Item], folder: str, look: Callable[..., dict], settings: Settings
) -> tuple[dict[str, str], int]:
    """The catalog's part about each item, by name, once all are looked at; and how many had to be."""
    places, doubtful = catalog.known(folder)
    todo = [item for item in items if item.key not in places or item.key in doubtful]
    parts = catalog.parts(todo)
    work = [{"items": [dataclasses.asdict(item) for item in part]} for part in parts]
    publisher = Publisher(run=settings.run.folder)
    label = look.__name__.partition("_")[0]
    with progress.track(len(todo), label) as advance, publisher.stage(label, len(todo)) as did:
        for done in _on_ray(work, look, settings, folder=folder):
            outcomes = list(done["outcomes"])
            publisher.add_items(label, outcomes)
            did(len(outcomes))
            advance(len(outcomes))
    places |= {item.key: catalog.part_uri(folder, part) for part in parts for item in part}
    return {item.name: places[item.key] for item in items}, len(todo)


def _on_ray(work: list[_Row], function: Callable, settings: Settings, **more: Any) -> Iterator[_Row]:
    """What `function` makes of each row of `work`, as it is made."""
    if work:
        rows = ray.data.from_items(work, override_num_blocks=len(work))
        arguments = {"settings": settings.clips} | more
        yield from place(rows, settings, "clips").map(function, fn_kwargs=arguments, num_cpus=1).iter_rows()


def scan_part(work: _Row, *, settings: ClipsSettings, folder: str) -> _Row:
    """Scans the files of a part and commits it; gives what became of each."""
    return _committed(work, folder, records.CATALOG, lambda item: scan(item, settings))


def read_captions(work: _Row, *, settings: ClipsSettings, folder: str) -> _Row:
    """Reads the sidecars of a part and commits it; gives what became of each."""
    return _committed(work, folder, _CAPTIONS, lambda item: _texts(item, settings))


def _committed(work: _Row, folder: str, schema: pa.Schema, look: Callable[[Item], _Row]) -> _Row:
    items = [Item(**fields | {"beside": tuple(fields["beside"])}) for fields in work["items"]]
    rows = [look(item) for item in items]
    catalog.commit(folder, items, pa.Table.from_pylist(rows, schema=schema))
    return {"outcomes": [row.get("reason") or str(Status.OK) for row in rows]}


def _texts(item: Item, settings: ClipsSettings) -> _Row:
    row = {"name": item.name, "version": item.version, "again": False}
    try:
        return row | {"texts": captions.of_sidecars(item.beside, settings.caption_fields)}
    except Rejected as rejected:
        return row | {"detail": rejected.detail}
    except OSError as error:
        return row | {"detail": f"{type(error).__name__}: {error}", "again": True}


def _cut_work(
    inputs: Inputs, places: dict[str, str], captioned: dict[str, str], settings: ClipsSettings
) -> list[_Row]:
    """A row for each part of the catalog that tells of inputs: which rows of it count, and their captions."""
    names = [item.name for item in inputs.media]
    table: Sequence[_Row | None] = [None] * len(names)
    if settings.captions:
        uri = storage.absolute(settings.captions)
        table = captions.of_table(uri, names, settings.caption_fields).to_pylist()
    by_part: dict[str, list[_Row]] = {}
    for item, fields in zip(inputs.media, table, strict=True):
        row = {"name": item.name, "version": item.version, "fields": fields, "part": captioned.get(item.name)}
        by_part.setdefault(places[item.name], []).append(row)
    return [{"uri": uri, "wanted": wanted} for uri, wanted in by_part.items()]


def _cut(work: list[_Row], settings: Settings) -> tuple[pa.Table, pa.Table]:
    """The videos and the clips of all parts, in no certain order."""
    videos, clips = [records.VIDEOS.empty_table()], [_CUT.empty_table()]
    publisher = Publisher(run=settings.run.folder)
    n_files = sum(len(row["wanted"]) for row in work)
    with progress.track(n_files, "cut") as advance, publisher.stage("cut", n_files) as did:
        for done in _on_ray(work, cut_part, settings):
            videos.append(storage.read_stream(done["videos"]))
            clips.append(storage.read_stream(done["clips"]))
            publisher.add_items("cut", [r or str(Status.OK) for r in clips[-1]["reason"].to_pylist()])
            did(len(videos[-1]))
            advance(len(videos[-1]))
    return pa.concat_tables(videos), pa.concat_tables(clips)


def cut_part(work: _Row, *, settings: ClipsSettings) -> _Row:
    """The videos and the clips of the rows that count of a part, as Arrow's streams."""
    wanted = {(row["name"], row["version"]): row for row in work["wanted"]}
    sidecars = _sidecar_texts(work["wanted"])
    videos, clips = [], []
    for video in storage.rows(work["uri"]):
        if row := wanted.get((video["name"], video["version"])):
            video |= _judged(video, settings)
            texts, no_caption = _captions_of(row, sidecars.get(video["name"]), settings)
            clips += clips_of(video, texts, no_caption, settings)
            videos.append({name: video[name] for name in records.VIDEOS.names})
    return {
        "videos": storage.stream_bytes(pa.Table.from_pylist(videos, schema=records.VIDEOS)),
        "clips": storage.stream_bytes(pa.Table.from_pylist(clips, schema=_CUT)),
    }


def _judged(video: _Row, settings: ClipsSettings) -> _Row:
    """What the settings say of a video that could be read."""
    if video["status"] != Status.OK or min(video["width"], video["height"]) >= settings.min_side_px:
        return {}
    size = f"{video['width']}x{video['height']}"
    return records.dropped(Reason.TOO_SMALL, f"{size}, clips.min_side_px is {settings.min_side_px}")


def _sidecar_texts(wanted: Sequence[_Row]) -> dict[str, _Row]:
    """The rows of _CAPTIONS about these files, by name."""
    names = {row["name"] for row in wanted}
    parts = {row["part"] for row in wanted if row["part"]}
    return {row["name"]: row for uri in sorted(parts) for row in storage.rows(uri) if row["name"] in names}


def _captions_of(row: _Row, sidecar: _Row | None, settings: ClipsSettings) -> tuple[dict[str, str], str]:
    """The captions of a file by field, or why there are none; a sidecar's before the table's."""
    if sidecar:
        return dict(sidecar["texts"] or {}), sidecar["detail"] or ""
    if not row["fields"]:
        return {}, "no sidecar and no row of a captions table"
    try:
        return captions.of_document(row["fields"], settings.caption_fields), ""
    except Rejected as rejected:
        return {}, rejected.detail


def _settled(clips: pa.Table, settings: ClipsSettings) -> pa.Table:
    """records.CLIPS: the split of every clip, and what is dropped as a twin of another."""
    names = clips["name"].to_pylist()
    usable = [n for n, status in zip(names, clips["status"].to_pylist(), strict=True) if status == Status.OK]
    split = cut.splits(set(names), set(usable), settings.val_share, settings.val_names)
    column = pa.array([split[name] for name in names], pa.string())
    clips = clips.set_column(clips.schema.get_field_index("split"), records.CLIPS.field("split"), column)
    return _without_twins(clips, settings).select(records.CLIPS.names)


def _without_twins(clips: pa.Table, settings: ClipsSettings) -> pa.Table:
    """Of clips that are the same one is kept: for validation first, then with a caption, then the largest."""
    good = (pc.field("status") == str(Status.OK)) | (pc.field("reason") == str(Reason.NO_CAPTION))
    kept = clips.append_column("place", pa.array(range(len(clips)))).filter(good)
    kept = kept.append_column("pixels", pc.multiply(kept["width"], kept["height"]))
    order = {"split": "descending", "status": "descending", "pixels": "descending", "place": "ascending"}
    kept = kept.sort_by(list(order.items()))
    found: dict[int, str] = {}
    if settings.duplicates != "keep":
        found = _same_bytes(kept)
    if settings.duplicates == "near":
        kept = kept.filter(pc.invert(pc.is_in(kept["place"], pa.array(list(found), pa.int64()))))
        found |= _same_looks(kept)
    rows = {
        name: [twin(i, old) for i, old in enumerate(clips[name].to_pylist())]
        for name, twin in (
            ("status", lambda i, old: str(Status.DROPPED) if i in found else old),
            ("reason", lambda i, old: str(Reason.DUPLICATE) if i in found else old),
            ("detail", lambda i, old: found.get(i, old)),
        )
    }
    for name, values in rows.items():
        field = records.CLIPS.field(name)
        clips = clips.set_column(clips.schema.get_field_index(name), field, pa.array(values, field.type))
    return clips


def _same_bytes(clips: pa.Table) -> dict[int, str]:
    """The places of clips cut from files with the same content, with what the ledger says of each."""
    words = (pc.cast(clips[name], pa.string()) for name in ("content", "start_s", "n_frames"))
    twin = dedup.exact_twins(pc.binary_join_element_wise(*words, " ").combine_chunks())
    places, names = clips["place"].to_pylist(), clips["name"].to_pylist()
    return {places[i]: f"the same bytes as {names[twin[i]]}" for i in np.flatnonzero(twin >= 0).tolist()}


def _same_looks(clips: pa.Table) -> dict[int, str]:
    """The places of clips that show what another shows, with what the ledger says of each."""
    frames, textures = (clips[name].combine_chunks() for name in ("copy_hashes", "textures"))
    n_frames = np.asarray(pc.list_value_length(textures))
    hashes = dedup.ClipHashes(
        hashes=np.asarray(frames.flatten()).reshape(-1, len(BOXES)),
        offsets=np.r_[0, np.cumsum(n_frames)].astype(np.int64),
        source=np.asarray(clips["name"].combine_chunks().dictionary_encode().indices, np.int64),
        start_s=np.asarray(clips["start_s"]),
        end_s=np.asarray(clips["end_s"]),
    )
    held_out = np.asarray(pc.equal(clips["split"], "val"))
    twins = dedup.near_twins(hashes, np.asarray(textures.flatten()), held_out=held_out)
    places, names, starts = (clips[name].to_pylist() for name in ("place", "name", "start_s"))
    return {
        places[i]: dedup.twin_detail(names[twin], starts[twin], float(twins.distance[i]))
        for i, twin in enumerate(twins.twin.tolist())
        if twin >= 0
    }


def _summary(videos: pa.Table, clips: pa.Table) -> _Row:
    outcomes = [table.select(["status", "reason"]).to_pylist() for table in (videos, clips)]
    return {
        "videos_in": len(videos),
        "videos_ok": sum(row["status"] == Status.OK for row in outcomes[0]),
        "clips": len(clips),
        "clips_ok": sum(row["status"] == Status.OK for row in outcomes[1]),
        "dropped_by_reason": dropped_by_reason(outcomes[0] + outcomes[1]),
    }

"""The stage, on Ray Data."""

import contextlib
import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from botocore.exceptions import BotoCoreError
from ray.exceptions import RayTaskError

from vitascope import progress, records, storage
from vitascope.clips import hooks, notes_on
from vitascope.clips.analysis import cut, hooked
from vitascope.clips.analysis.derive import CutClip, Texts, clips_of, settled
from vitascope.clips.analysis.features import SIDE_PX
from vitascope.clips.analysis.scan import scan
from vitascope.clips.analysis.series import CATALOG
from vitascope.clips.dedup.duplicates import FOUND_BY, without_duplicates
from vitascope.clips.index import captions, catalog, inputs, tar_table
from vitascope.clips.index.catalog import Item, Places
from vitascope.clips.index.inputs import Inputs
from vitascope.clips.settings import ClipsSettings
from vitascope.clips.table import CLIPS, VIDEOS, Row
from vitascope.cluster import local
from vitascope.cluster.placement import node_labels, place
from vitascope.config import Settings
from vitascope.errors import Missing, Mistake
from vitascope.ledger import Reason, Rejected, Status
from vitascope.media.geometry import CROP_RULE
from vitascope.stages.registry import Summary
from vitascope.stages.running import items, running

_FOLDERS = 64
"""Folders are listed level by level up to this number; then each is listed recursively by a task."""

COMMIT_S = 30.0
"""Interval at which a task commits the finished rows of its part."""

_CAPTIONS = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("again", pa.bool_(), nullable=False),
        pa.field("texts", pa.map_(pa.string(), pa.string())),
        pa.field("detail", pa.string()),
    ]
)
_CUT = pa.schema([*CLIPS, *FOUND_BY])
"""Clips, with the columns that duplicates are found by."""

_FIELD = "field."  # prefix of a caption field among other columns


def run(settings: Settings) -> Summary:
    """Scans new files, cuts and filters all; commits the videos and clips tables; returns the summary.

    Raises:
        Mistake: no input, or an unusable captions table, hook or model.
    """
    with running(settings, "clips") as summary:
        summary |= _tables(settings)
    return summary


def _tables(settings: Settings) -> Summary:
    hooks.check(settings.clips)
    root = inputs.root_of(settings.clips)
    _refuse_own_output(root, settings)
    with contextlib.suppress(PermissionError, BotoCoreError):  # tasks may have access that the driver lacks
        _check_exist(root, settings.clips)
    local.connect(settings.cluster)
    listed, n_tars = list_inputs(settings)
    wanted, table_notes = _wanted(listed.media, settings.clips)
    # What the series of the catalog depend on; if a formula changes, add a version.
    how = (settings.clips.fps, SIDE_PX, CROP_RULE, settings.clips.decoder)
    looks = _folder(settings, CATALOG, *how)
    texts = _folder(settings, _CAPTIONS, *settings.clips.caption_fields)
    places, n_scanned = _looked_at(listed.media, looks, scan_part, settings)
    captioned, n_read = _looked_at(listed.captioned, texts, read_captions, settings)
    work = _cut_work(wanted, listed.captioned["name"], places, captioned)
    videos, clips, n_hooked = _cut(work, len(listed.media), settings)
    videos = pa.concat_tables([videos, pa.Table.from_pylist(listed.unreadable, schema=VIDEOS)])
    videos, clips = (
        storage.in_order(videos, "name"),
        _settled(storage.in_order(clips, "name", "start_s"), settings),
    )
    notes = [*notes_on.passed(listed.passed), *table_notes, *notes_on.clips(videos, clips, settings.clips)]
    summary = _summary(videos, clips) | {
        "notes": notes,
        "tars_listed": n_tars,
        "scanned": n_scanned,
        "captions_read": n_read,
        "hooked": n_hooked,
    }
    storage.put_table(settings.path("videos", "videos.parquet"), videos)
    storage.put_table(settings.path("clips", "clips.parquet"), clips)
    left = "{videos_ok} of {videos_in} files used, {clips_ok} of {clips} clips kept".format_map(summary)
    progress.say_dropped("clips", left, summary["dropped_by_reason"])
    progress.say_notes("clips", notes)
    return summary


def _check_exist(root: str, settings: ClipsSettings) -> None:
    """Checks that the input and the captions table exist, before Ray starts.

    A store that does not answer is reported here; tasks would wait for it without a message.
    """
    bucket = storage.is_remote(root) and "/" not in root.partition("://")[2].rstrip("/")
    exists = storage.exists(
        storage.join(root, "any") if bucket else root
    )  # any key shows that a bucket exists
    is_empty = not storage.is_remote(root) and os.path.isdir(root) and not os.listdir(root)
    if is_empty or not (exists or bucket):
        raise inputs.nothing_under(root)
    if settings.captions and not storage.exists(table := storage.absolute(settings.captions)):
        raise Missing(f"no captions table at {table}; set clips.captions, or leave it out")


def _refuse_own_output(root: str, settings: Settings) -> None:
    """Refuses an input that contains the run folder: its outputs would be the next run's input."""
    if (settings.path() + "/").startswith(root.rstrip("/") + "/"):
        raise Mistake(
            f"run.folder {settings.path()} lies in clips.input {root}, and what the run writes would be its "
            "input; set run.folder to a place outside"
        )


def _folder(settings: Settings, schema: pa.Schema, *what: object) -> str:
    """The catalog's folder for tables with this schema, computed with these settings."""
    return storage.join(_catalog(settings), records.stable_id(str(schema), *what))


def _catalog(settings: Settings) -> str:
    return storage.absolute(settings.clips.catalog or settings.path("catalog"))


def list_inputs(settings: Settings) -> tuple[Inputs, int]:
    """Every input file and tar member with its version and sidecars; needs Ray.

    Also the number of tars whose headers had to be read. A local name that is not UTF-8 is shown with
    backslashes (`caf\\xe9.mp4`), and its file is unreadable.

    Raises:
        Mistake: no input.
    """
    root = inputs.root_of(settings.clips)
    listed, n_hidden = _listed(root, settings)
    files = inputs.without_captions(listed, settings.clips)
    of_tars, files = inputs.tars_among(files)
    places, n_listed = _looked_at(of_tars, _folder(settings, tar_table.TARS), list_tars, settings)
    members, damaged, passed = inputs.of_tars(of_tars, catalog.rows_about(places, of_tars))
    passed.update({"hidden": n_hidden})
    listed = replace(inputs.of_files(pa.concat_tables([files, members]), damaged), passed=passed)
    if not len(listed.media) + len(listed.unreadable):
        raise inputs.nothing_under(root)
    return listed, n_listed


def _listed(root: str, settings: Settings) -> tuple[pa.Table, int]:
    """Every file under `root`, as inputs.LISTED, and the number of hidden files that are skipped.

    Tasks list them, one folder each.
    """
    how: Row = {"num_cpus": 1, "label_selector": node_labels(settings, "clips") or {}}
    of_level = ray.remote(inputs.of_level).options(**how)
    of_folder = ray.remote(inputs.of_folder).options(**how)
    tables, folders, n_hidden = [inputs.LISTED.empty_table()], [root], 0
    try:
        while folders and len(folders) < _FOLDERS:
            levels = ray.get([of_level.remote(folder, root) for folder in folders])
            tables += [files for files, _, _ in levels]
            n_hidden += sum(hidden for _, _, hidden in levels)
            folders = list(itertools.chain.from_iterable(below for _, below, _ in levels))
        whole = ray.get([of_folder.remote(folder, root) for folder in folders])
        tables += [files for files, _ in whole]
        return pa.concat_tables(tables), n_hidden + sum(hidden for _, hidden in whole)
    except RayTaskError as error:
        raise error.cause from None


def _looked_at(
    files: pa.Table, folder: str, look: Callable[..., dict], settings: Settings
) -> tuple[Places, int]:
    """The catalog parts that describe `files` after all are looked at, and how many were looked at now."""
    if not len(files):
        return Places([], np.zeros(0, np.int64)), 0
    places, unsettled = catalog.known(folder, files)
    rows = files.append_column("row", pa.array(np.arange(len(files)))).filter(pa.array(unsettled))
    parts = catalog.parts(rows)
    work = [{"files": storage.stream_bytes(part.drop_columns("row"))} for part in parts]
    with items(settings, look.__name__.partition("_")[0], len(rows)) as count:
        for done in _on_ray(work, look, settings, folder=folder):
            count(done["outcomes"])
    for number, part in enumerate(parts, len(places.uris)):
        places.number[part["row"].to_numpy()] = number
    return Places(places.uris + [catalog.part_uri(folder, part) for part in parts], places.number), len(rows)


def _on_ray(work: list[Row], function: Callable, settings: Settings, **more: Any) -> Iterator[Row]:
    """Yields `function` of each row of `work` as it completes."""
    if work:
        rows = ray.data.from_items(work, override_num_blocks=len(work))
        arguments = {"settings": settings.clips} | more
        yield from place(rows, settings, "clips").map(function, fn_kwargs=arguments, num_cpus=1).iter_rows()


def scan_part(work: Row, *, settings: ClipsSettings, folder: str) -> Row:
    """Scans the files of a part and commits it; returns the outcome of each."""
    return _committed(work, folder, CATALOG, lambda item: scan(item, settings))


def read_captions(work: Row, *, settings: ClipsSettings, folder: str) -> Row:
    """Reads the sidecars of a part and commits it; returns the outcome of each."""
    return _committed(work, folder, _CAPTIONS, lambda item: _texts(item, settings))


def list_tars(work: Row, *, settings: ClipsSettings, folder: str) -> Row:  # noqa: ARG001
    """Lists the tars of a part and commits it; returns the outcome of each."""
    return _committed(work, folder, tar_table.TARS, tar_table.row)


def _committed(work: Row, folder: str, schema: pa.Schema, look: Callable[[Item], Row]) -> Row:
    """Processes the files not yet committed, small ones first, and commits at intervals and at the end.

    So small files neither wait for a long video nor are lost if it fails.
    """
    part = storage.read_stream(work["files"])
    rows = catalog.committed_rows(folder, part)
    left = [item for item in catalog.items(part) if item.name not in rows]
    committed = time.monotonic()
    for n_left, item in enumerate(sorted(left, key=lambda item: item.size_bytes), 1 - len(left)):
        rows[item.name] = look(item)
        if n_left == 0 or time.monotonic() - committed > COMMIT_S:
            catalog.commit(folder, part, pa.Table.from_pylist(list(rows.values()), schema=schema))
            committed = time.monotonic()
    return {"outcomes": [row.get("reason") or str(Status.OK) for row in rows.values()]}


def _texts(item: Item, settings: ClipsSettings) -> Row:
    row = {"name": item.name, "version": item.version, "again": False}
    try:
        return row | {"texts": captions.of_sidecars(item.beside, settings.caption_fields)}
    except Rejected as rejected:
        return row | {"detail": rejected.detail}
    except OSError as error:
        return row | {"detail": f"{type(error).__name__}: {error}", "again": True}


def _wanted(media: pa.Table, settings: ClipsSettings) -> tuple[pa.Table, list[str]]:
    """Name, version and URI of all media with their rows of the captions table; and notes on the table."""
    wanted = media.select(["name", "version", "uri"])
    if not settings.captions:
        return wanted, []
    uri = storage.absolute(settings.captions)
    table = captions.of_table(uri, wanted["name"], settings.caption_fields)
    for name in table.rows.column_names:
        wanted = wanted.append_column(_FIELD + name, table.rows[name])
    return wanted, notes_on.table(uri, table)


def _cut_work(wanted: pa.Table, with_sidecars: pa.Array, places: Places, captioned: Places) -> list[Row]:
    """One row for each catalog part that describes inputs: its rows in use, and parts with their captions.

    `captioned` belongs to the media named `with_sidecars`.
    """
    at = pc.index_in(wanted["name"], value_set=with_sidecars)
    sidecars = pc.fill_null(pa.array(captioned.number, pa.int64()).take(at.combine_chunks()), -1).to_numpy()
    work = []
    for uri, rows in places.groups():
        numbers, number = np.unique(sidecars[rows], return_inverse=True)
        part = wanted.take(rows).append_column("sidecars", pa.array(number))
        uris = [captioned.uris[n] if n >= 0 else "" for n in numbers.tolist()]
        work.append({"uri": uri, "wanted": storage.stream_bytes(part), "sidecars": uris})
    return work


def _cut(work: list[Row], n_files: int, settings: Settings) -> tuple[pa.Table, pa.Table, int]:
    """The videos and clips of all parts, in any order; and the number of clips that hooks scored."""
    videos, clips, n_hooked = [VIDEOS.empty_table()], [_CUT.empty_table()], 0
    with items(settings, "cut", n_files) as count:
        for done in _on_ray(work, cut_part, settings, folder=_catalog(settings)):
            videos.append(storage.read_stream(done["videos"]))
            clips.append(storage.read_stream(done["clips"]))
            n_hooked += done["hooked"]
            count(clips[-1]["reason"].to_pylist(), n=len(videos[-1]))
    return pa.concat_tables(videos), pa.concat_tables(clips), n_hooked


def cut_part(work: Row, *, settings: ClipsSettings, folder: str) -> Row:
    """The videos and clips of the rows in use of a part, as Arrow streams."""
    wanted = storage.read_stream(work["wanted"]).to_pylist()
    texts = _texts_of(wanted, list(work["sidecars"]), settings)
    uris = {(row["name"], row["version"]): row["uri"] for row in wanted}
    videos: list[Row] = []
    clips: list[CutClip] = []
    for video in storage.rows(work["uri"]):
        if uri := uris.get((video["name"], video["version"])):
            video |= _too_small(video, settings) | {"uri": uri}  # the input may have moved since
            clips += clips_of(video, settings)
            videos.append({name: video[name] for name in VIDEOS.names})
    clips, n_hooked = hooked.add(clips, folder, work["uri"], settings)
    rows = [clip.as_row() for clip in settled(clips, texts, settings)]
    return {
        "videos": storage.stream_bytes(pa.Table.from_pylist(videos, schema=VIDEOS)),
        "clips": storage.stream_bytes(pa.Table.from_pylist(rows, schema=_CUT)),
        "hooked": n_hooked,
    }


def _too_small(video: Row, settings: ClipsSettings) -> Row:
    """The outcome of a readable video by the settings: empty if it is fine."""
    if (
        video["status"] != Status.OK
        or np.reshape(video["sides"], (-1, 2)).min(axis=1).max() >= settings.min_side_px
    ):
        return {}
    size = f"{video['width']}x{video['height']}"
    return records.dropped(Reason.TOO_SMALL, f"{size}, clips.min_side_px is {settings.min_side_px}")


def _texts_of(wanted: list[Row], sidecars: list[str], settings: ClipsSettings) -> dict[str, Texts]:
    """The captions of each file by name, from its sidecars, else the table; or why it has none."""
    numbers = {row["name"]: row["sidecars"] for row in wanted}
    read: dict[str, Texts] = {}
    for number, uri in enumerate(sidecars):
        for row in storage.rows(uri) if uri else ():
            if numbers.get(row["name"]) == number:
                read[row["name"]] = dict(row["texts"] or {}), row["detail"] or ""
    return {row["name"]: _joined(read.get(row["name"]), _of_table(row, settings)) for row in wanted}


def _joined(sidecar: Texts | None, table: Texts) -> Texts:
    """The captions in a file's sidecars; other fields come from the captions table."""
    return ({**table[0], **sidecar[0]}, sidecar[1] or table[1]) if sidecar else table


def _of_table(row: Row, settings: ClipsSettings) -> Texts:
    fields = {name.removeprefix(_FIELD): row[name] for name in row if name.startswith(_FIELD)}
    if not fields:
        return {}, "no sidecar and no captions table"
    if all(text is None for text in fields.values()):
        return {}, "no sidecar, and the captions table has no text for this name"
    try:
        return captions.of_document(fields, settings.caption_fields), ""
    except Rejected as rejected:
        return {}, rejected.detail


def _settled(clips: pa.Table, settings: Settings) -> pa.Table:
    """CLIPS with the split of every clip, and duplicates dropped."""
    held_out = (settings.clips.val_share, settings.clips.val_names)
    names = pc.unique(clips["name"])
    usable = pc.unique(clips["name"].filter(pc.equal(clips["status"], str(Status.OK))))
    split = cut.splits(names.to_pylist(), usable.to_pylist(), *held_out)
    by_name = pa.array([split[name] for name in names.to_pylist()], pa.string())
    column = by_name.take(pc.index_in(clips["name"], value_set=names).combine_chunks())
    clips = clips.set_column(clips.schema.get_field_index("split"), CLIPS.field("split"), column)
    return without_duplicates(clips, settings.clips).select(CLIPS.names)


def _summary(videos: pa.Table, clips: pa.Table) -> Row:
    counts: Counter[str] = Counter()
    for counted in (pc.value_counts(table["reason"].drop_null()) for table in (videos, clips)):
        counts.update(dict(zip(*(counted.field(i).to_pylist() for i in range(2)), strict=True)))
    return {
        "videos_in": len(videos),
        "videos_ok": videos["reason"].null_count,
        "clips": len(clips),
        "clips_ok": clips["reason"].null_count,
        "dropped_by_reason": dict(counts.most_common()),
    }

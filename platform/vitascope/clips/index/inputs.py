"""The input's files: media, their sidecars, and tars.

Files are rows of tables, so that a million of them take some 150 MB and not 1 GB.
"""

import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vitascope import records, storage
from vitascope.clips.index.captions import SIDECARS, same_name
from vitascope.clips.index.catalog import FILES, Item, items
from vitascope.clips.index.tar_table import TARS
from vitascope.clips.index.tar_table import row as tar_row
from vitascope.clips.settings import ClipsSettings
from vitascope.clips.table import Row
from vitascope.errors import Mistake
from vitascope.ledger import Reason

LISTED = pa.schema(
    [
        *(FILES.field(name) for name in ("name", "version", "size_bytes", "uri")),
        pa.field("in_tar", pa.bool_(), nullable=False),
        pa.field("closed", pa.string()),  # why it cannot be opened
    ]
)
"""Files as a listing or the headers of a tar show them."""

_STEM = r"\.[^./]*$"  # a/b.c of a/b.c.mp4, for files of a folder
_TAR_STEM = r"\.[^/]*$"  # a/b of a/b.c.mp4, for members of a tar: WebDataset's rule
_NOT_UTF8 = "its name is not UTF-8; rename the file, or the folder it is in"
_LOOP = "a link to a folder whose files are found without it, or that it lies in itself; it is not followed"


@dataclass(frozen=True)
class Inputs:
    """The contents of the input, sorted by name: media, their sidecars, and unreadable files.

    passed: number of skipped entries without a row by kind: `hidden`, in tars also `named pipe` and others.
    """

    media: pa.Table  # FILES
    captioned: pa.Table  # FILES: media with sidecars, and the versions of those
    unreadable: list[Row]  # rows of table.VIDEOS
    passed: Mapping[str, int] = field(default_factory=dict)


def root_of(settings: ClipsSettings) -> str:
    """The URI of the input.

    Raises:
        Mistake: it is not set, or its store is unknown.
    """
    if not settings.input:
        raise Mistake("clips.input is not set; set clips.input to a folder or a bucket's prefix of videos")
    root = storage.absolute(settings.input)
    storage.filesystem(root)
    return root


def nothing_under(root: str) -> Mistake:
    """The error for an empty input."""
    return Mistake(f"no media files under {root}; set clips.input to a folder or prefix that has some")


def some(settings: ClipsSettings, n: int) -> list[Item]:
    """A few of the media, without a complete listing; members of the first tar if there are only tars.

    Raises:
        Mistake: there are none.
    """
    root = root_of(settings)
    files, folders = LISTED.empty_table(), [root]
    while folders and len(files) < n:
        level, below, _ = of_level(folders.pop(), root)
        files, folders = pa.concat_tables([files, without_captions(level, settings)]), folders + below
    archives, files = tars_among(files)
    if not len(files) and len(archives):
        first = archives.slice(0, 1)
        files, _, _ = of_tars(first, [pa.Table.from_pylist([tar_row(*items(first))], schema=TARS)])
    media = of_files(files).media
    if not len(media):
        raise nothing_under(root)
    return items(media.slice(0, n))


def of_level(folder: str, root: str) -> tuple[pa.Table, list[str], int]:
    """The direct children of a folder: its files as LISTED, its subfolders, and the number of hidden ones."""
    level = storage.level(folder, root)
    loops = [storage.Listed(link, 0, "link") for link in level.loops]
    files = pa.concat_tables([_listed(level.files, root), _listed(loops, root, _LOOP)])
    return files, level.folders, level.n_hidden


def of_folder(folder: str, root: str) -> tuple[pa.Table, int]:
    """All files below a folder, as LISTED, and the number of hidden files and folders that are skipped."""
    if storage.is_remote(folder):
        return _listed(storage.listing(folder), root), 0
    tables, folders, n_hidden = [LISTED.empty_table()], [folder], 0
    while folders:
        files, below, hidden = of_level(folders.pop(), root)
        tables, folders, n_hidden = [*tables, files], folders + below, n_hidden + hidden
    return pa.concat_tables(tables).sort_by("uri"), n_hidden


def _listed(files: Sequence[storage.Listed], root: str, closed: str | None = None) -> pa.Table:
    """Files as LISTED. Names that are not UTF-8 get backslash escapes (`caf\\xe9.mp4`) and no reader."""
    uris = [_utf8(file.uri) for file in files]
    names = pa.array([_name(uri, root) for uri in uris], pa.string())
    columns = {
        "name": names,
        "version": pa.array([file.version for file in files], pa.string()),
        "size_bytes": pa.array([file.size_bytes for file in files], pa.int64()),
        "uri": pa.array(uris, pa.string()),
        "in_tar": pa.array(np.zeros(len(files), bool)),
        "closed": pa.array(
            [closed if uri == file.uri else _NOT_UTF8 for uri, file in zip(uris, files, strict=True)],
            pa.string(),
        ),
    }
    return pa.table(columns, schema=LISTED)


def _name(uri: str, root: str) -> str:
    return uri[len(root.rstrip("/")) :].lstrip("/") or posixpath.basename(uri)


def _utf8(name: str) -> str:
    """`name` with a backslash escape for every byte that is not UTF-8, a lone surrogate in Python."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def without_captions(files: pa.Table, settings: ClipsSettings) -> pa.Table:
    """LISTED without the captions table, a file or a folder that may lie in the input."""
    if not settings.captions:
        return files
    table = storage.absolute(settings.captions)
    inside = pc.starts_with(files["uri"], table + "/")
    return files.filter(pc.invert(pc.or_(pc.equal(files["uri"], table), inside)))


def tars_among(files: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The tars, as FILES, and all other files. Members of a compressed tar have no byte range."""
    is_tar = pc.and_(pc.match_substring_regex(files["name"], r"(?i)\.tar$"), pc.is_null(files["closed"]))
    return _as_files(files.filter(is_tar)), files.filter(pc.invert(is_tar))


def of_tars(tars: pa.Table, indexes: Iterable[pa.Table]) -> tuple[pa.Table, list[Row], Counter[str]]:
    """The members of all tars, as LISTED; rows of table.VIDEOS about damage; counts of skipped members.

    `indexes` are rows of TARS about `tars`. The name of a member is that of its tar and its own:
    `a.tar/000123.mp4`. Its version is that of its tar.
    """
    members, damaged, passed = [LISTED.empty_table()], [], Counter[str]()
    for rows in indexes:
        own = tars.take(pc.index_in(rows["name"], value_set=tars["name"]))
        members.append(_members(own, rows["members"].combine_chunks()))
        damaged += _damaged(own, rows)
        for kinds in rows["passed"].to_pylist():
            passed.update(dict(kinds or ()))
    return pa.concat_tables(members), damaged, passed


def _members(tars: pa.Table, lists: pa.ListArray) -> pa.Table:
    """LISTED, from the list of members of each tar."""
    of_tar, inside = tars.take(pc.list_parent_indices(lists)), pc.list_flatten(lists)
    name, start, size = (inside.field(i) for i in range(3))
    names = pc.binary_join_element_wise(of_tar["name"], name, "/")
    where = pc.binary_join_element_wise(pc.cast(start, pa.string()), pc.cast(size, pa.string()), "+")
    columns = {
        "name": names,
        "version": of_tar["version"],
        "size_bytes": size,
        "uri": pc.binary_join_element_wise(pc.binary_join_element_wise(of_tar["uri"], name, "#"), where, "@"),
        "in_tar": pa.array(np.ones(len(names), bool)),
        "closed": pa.nulls(len(names), pa.string()),
    }
    return pa.table(columns, schema=LISTED)


def _damaged(tars: pa.Table, rows: pa.Table) -> list[Row]:
    damage = rows["damage"]
    wrong = tars.append_column("damage", damage).filter(pc.is_valid(damage))
    return [_unreadable(row, row["damage"]) for row in wrong.to_pylist()]


def _unreadable(file: Row, why: str) -> Row:
    """A row of table.VIDEOS about a file that could not be opened."""
    facts = {name: file[name] for name in ("uri", "name", "version", "size_bytes")}
    video_id = records.stable_id(file["name"], file["size_bytes"])
    return {"video_id": video_id} | facts | records.dropped(Reason.UNREADABLE, why)


def of_files(files: pa.Table, unreadable: Sequence[Row] = ()) -> Inputs:
    """The media among LISTED with their sidecars; `unreadable` are rows known already.

    A text or JSON file is the sidecar of the media with the same key. Without such media it is an input like
    any other file.
    """
    files = files.sort_by("name")
    key, suffix, can_open = _key(files), _suffix(files), np.asarray(pc.is_null(files["closed"]))
    media = np.flatnonzero(pc.invert(pc.is_in(suffix, pa.array(SIDECARS))))
    is_input, beside = np.ones(len(files), bool), []
    for kind in SIDECARS:
        texts = np.flatnonzero(pc.is_in(suffix, pa.array([kind])))
        at = same_name(key.take(media), key.take(texts))
        sidecars = np.r_[texts, -1][pc.fill_null(at, len(texts))]
        is_input[sidecars[sidecars >= 0]] = False
        beside.append(sidecars)
    captioned = np.any(np.array(beside) >= 0, axis=0) & can_open[media]
    lost = files.filter(pa.array(is_input & ~can_open)).to_pylist()
    return Inputs(
        _as_files(files.filter(pa.array(is_input & can_open))),
        _captioned(files, media[captioned], np.array(beside)[:, captioned]),
        [*unreadable, *(_unreadable(row, row["closed"]) for row in lost)],
    )


def _key(files: pa.Table) -> pa.Array:
    """The key shared by a file and its sidecars: its name without the suffix, or all of them in a tar."""
    own, in_tar = (pc.replace_substring_regex(files["name"], rule, "") for rule in (_STEM, _TAR_STEM))
    return pc.if_else(files["in_tar"], in_tar, own).combine_chunks()


def _suffix(files: pa.Table) -> pa.Array:
    match = pc.extract_regex(files["name"], r"(?P<suffix>\.[^./]*)$").combine_chunks()
    return pc.utf8_lower(pc.struct_field(match, "suffix"))


def _captioned(files: pa.Table, media: np.ndarray, beside: np.ndarray) -> pa.Table:
    """FILES: those at `media` (N,) with their sidecars at `beside` (kinds, N), below 0 for none."""
    counts = (beside >= 0).sum(axis=0)
    sidecars = files.take(beside.T[beside.T >= 0])
    ends = np.r_[0, np.cumsum(counts)]
    versions = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), sidecars["version"].combine_chunks())
    of_media = files.take(media)
    columns = {
        "name": of_media["name"],
        "version": pc.binary_join(versions, " "),
        "size_bytes": np.diff(np.r_[0, np.cumsum(sidecars["size_bytes"].to_numpy())][ends]),
        "uri": of_media["uri"],
        "beside": pa.ListArray.from_arrays(pa.array(ends, pa.int32()), sidecars["uri"].combine_chunks()),
    }
    return pa.table(columns, schema=FILES)


def _as_files(files: pa.Table) -> pa.Table:
    """LISTED as FILES."""
    nothing = pa.nulls(len(files), FILES.field("beside").type)
    return files.select(FILES.names[:-1]).append_column(FILES.field("beside"), nothing).cast(FILES)

"""One way to read, list and commit files anywhere.

A location is a plain local path, an `s3://bucket/key` or a `gs://bucket/key` URI. Credentials and endpoint
come from the usual environment (`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, `AWS_ENDPOINT_URL`, …; Google's default
credentials), never from settings.

Writing is committing: `put` makes the whole content visible in one act and replaces an existing file;
`create` does so only if no file exists, and returns whether this call won.

Stores fail: they answer 500 or "slow down", break connections or stall. Every request to a store, including
those of open files and of pyarrow, is retried for up to 5 minutes (`stores.patience`) before `Unavailable` is
raised, which says nothing about the file. Permanent errors (no such file, no permission) are raised at once.
"""

import contextlib
import errno
import glob
import importlib
import json
import math
import os
import posixpath
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from vitascope import credentials
from vitascope.errors import Missing, Mistake
from vitascope.stores.patience import Unavailable as Unavailable

# Stores with an atomic put that can be made to fail if the object exists.
OBJECT_STORES = ("s3", "gs")
_ROWS = 1 << 13  # rows of a table that are Python objects at a time
_SORTED_ROWS = 1 << 18  # rows whose texts are combined into one chunk
_LARGE = {
    pa.string(): pa.large_string(),
    pa.map_(pa.string(), pa.string()): pa.map_(pa.large_string(), pa.large_string()),
}


def is_remote(uri: str) -> bool:
    """Whether `uri` names an object store rather than a local path."""
    return re.match(r"[a-z][a-z0-9+.-]*(::[a-z][a-z0-9+.-]*)*://", uri) is not None and not uri.startswith(
        "file://"
    )


def join(base: str, *parts: str) -> str:
    """`base` extended by relative `parts`, for local paths and URIs alike."""
    return posixpath.join(base.rstrip("/") if len(base) > 1 else base, *parts)


def absolute(uri: str) -> str:
    """A location that every process resolves alike: local paths become absolute."""
    return uri if is_remote(uri) else os.path.abspath(uri.removeprefix("file://"))


def is_within(uri: str, folder: str) -> bool:
    """Whether `uri` lies in `folder` or below it: dots and links do not lead out of it."""
    if is_remote(uri) or is_remote(folder):
        return ".." not in uri.split("/") and uri.startswith(folder.rstrip("/") + "/")
    return Path(os.path.realpath(absolute(uri))).is_relative_to(os.path.realpath(absolute(folder)))


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec filesystem of `uri`, and the path within it. Listings are never served from a cache.

    Names of local files and keys of objects are literal: `::` in them is no fsspec chain of URLs.

    Raises:
        Mistake: the scheme is not known to commit files as `put` and `create` promise, or gcsfs is not
            installed for `gs://`.
    """
    if not is_remote(uri):
        return fsspec.filesystem("file"), absolute(uri)
    if what := credentials.before_host(uri):
        raise Mistake(f"a location holds {what}; set the store's environment variables instead")
    scheme, path = uri.split("://", 1)
    if scheme not in OBJECT_STORES:
        known = " or ".join(f"{s}://" for s in OBJECT_STORES)
        raise Mistake(f"{uri} is on a store that Vitascope does not know; use a local path, {known}")
    try:
        return importlib.import_module(f"vitascope.stores.{scheme}").connect(), path.rstrip("/")
    except ImportError as error:
        raise Mistake(f"{scheme}:// needs a package; pip install 'vitascope[gcp]' ({error})") from error


def arrow_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The same location as a pyarrow filesystem and path, for Ray and pyarrow readers."""
    fs, path = filesystem(uri)
    if is_remote(uri):
        return pafs.PyFileSystem(_Ranges(fs)), path
    return pafs.LocalFileSystem(), path


class _Ranges(pafs.FSSpecHandler):
    """Files for random access that fetch only what is read: Arrow knows the ranges it needs."""

    def open_input_file(self, path: str) -> pa.PythonFile:
        """A file for random access; errors are the store's own."""
        file = self.fs.open(path, mode="rb", cache_type="none")
        if file.details["type"] == "directory":
            raise FileNotFoundError(path)
        return pa.PythonFile(file, mode="r")


def exists(uri: str) -> bool:
    """Whether a file, or a non-empty folder, exists."""
    fs, path = filesystem(uri)
    return bool(fs.exists(path))


@dataclass(frozen=True, order=True)
class Listed:
    """A file in a listing."""

    uri: str
    size_bytes: int
    version: str  # changes with the content: the store's tag, or size and time of change


def listing(uri: str) -> list[Listed]:
    """Every file under `uri` (or `uri` itself if it is a file), in the order of their full locations.

    Hidden files and folders (a leading dot) are skipped, as are files a writer has not committed yet and the
    keys ending in "/" that stand for folders on S3. Empty if nothing exists.
    """
    fs, path = filesystem(uri)
    return _listed(uri, path, fs.find(path, detail=True))


@dataclass(frozen=True)
class Level:
    """The direct children of a folder: its files, and its subfolders, which are not descended into.

    loops: links to folders that are not followed, because they lead to a folder that contains them, or that
    another path reaches. n_hidden: children with a leading dot, which are skipped.
    """

    files: list[Listed]
    folders: list[str]
    loops: list[str]
    n_hidden: int


def level(uri: str, root: str | None = None) -> Level:
    """The children of a folder. If keys have empty parts (`a//b`), all files below and no folders.

    A local link to a folder is one of the folders, unless it leads into `root`, whose files are listed
    without it, or to a folder that contains the link itself.
    """
    fs, path = filesystem(uri)
    try:
        children = {about["name"]: about for about in fs.ls(path, detail=True)}
    except FileNotFoundError:
        return Level([], [], [], 0)
    n_hidden = sum(_hidden(p[len(path) :]) for p in children)
    links = {p for p, about in children.items() if about.get("islink") and os.path.isdir(p)}
    loops = {p for p in links if _leads_back(p, absolute(root or uri))}
    folders = {p for p, about in children.items() if about["type"] == "directory"} | links
    if any(p.endswith("/") for p in folders):
        return Level(listing(uri), [], [], n_hidden)
    files = _listed(uri, path, {p: about for p, about in children.items() if p not in folders})
    seen = [_scheme(uri) + p for p in sorted(folders - loops) if not _hidden(p[len(path) :])]
    return Level(files, seen, sorted(p for p in loops if not _hidden(p[len(path) :])), n_hidden)


def _leads_back(link: str, root: str) -> bool:
    """Whether the target of a link to a folder is listed without it, or contains the link itself."""
    target, real_root = Path(os.path.realpath(link)), os.path.realpath(root)
    if target.is_relative_to(real_root) and not _hidden(os.path.relpath(target, real_root)):
        return True
    above = {os.path.realpath(folder) for folder in Path(link).parents}
    return str(target) in above or Path(real_root).is_relative_to(target)


def _listed(uri: str, path: str, files: dict[str, dict[str, Any]]) -> list[Listed]:
    root, prefix = path.rstrip("/"), _scheme(uri)
    inside = [(p, about) for p, about in files.items() if not p.endswith("/") and not _hidden(p[len(root) :])]
    return sorted(Listed(prefix + p, int(about["size"] or 0), _version(about)) for p, about in inside)


def _scheme(uri: str) -> str:
    return uri.split("://", 1)[0] + "://" if is_remote(uri) else ""


def _version(about: dict[str, Any]) -> str:
    tag = about.get("ETag") or about.get("generation")
    if tag:
        return str(tag).strip('"')
    changed = about["mtime"]
    if about.get("islink"):
        with contextlib.suppress(OSError):  # a dangling link
            changed = os.stat(about["name"]).st_mtime
    return f"{about['size']}-{changed!r}"


def version(uri: str) -> str:
    """A file's version as in `listing`; FileNotFoundError if the file is missing."""
    fs, path = filesystem(uri)
    return _version(fs.info(path))


def list_files(uri: str) -> list[str]:
    """The locations of `listing`."""
    return [file.uri for file in listing(uri)]


def _hidden(relative: str) -> bool:
    return any(part.startswith(".") for part in relative.split("/") if part)


def open_file(uri: str, mode: str = "rb") -> IO[Any]:
    """Opens `uri` for reading (`rb`, `r`). To write, use `put` or `create`, which commit."""
    if "r" not in mode:
        raise ValueError(
            f"open_file reads only, got mode {mode!r}; use storage.put or storage.create to write"
        )
    fs, path = filesystem(uri)
    return fs.open(path, mode)


def read_bytes(uri: str, start: int | None = None, stop: int | None = None) -> bytes:
    """The content of `uri`, or its bytes `start` up to `stop`; FileNotFoundError if the file is missing."""
    fs, path = filesystem(uri)
    return bytes(fs.cat_file(path, start=start, end=stop))


def size_bytes(uri: str) -> int:
    """The size of a file in bytes."""
    fs, path = filesystem(uri)
    return int(fs.size(path))


def put(uri: str, content: bytes | Path) -> None:
    """Makes `content`, or a local file's, visible at `uri` in one atomic act, replacing an existing file."""
    fs, path = filesystem(uri)
    if is_remote(uri):
        fs.put_file(str(content), path) if isinstance(content, Path) else fs.pipe_file(path, content)
        return
    with _written_beside(path, content) as temporary:
        os.replace(temporary, path)


def create(uri: str, content: bytes) -> bool:
    """Makes `content` visible at `uri` only if no file exists; returns whether this call did it.

    On an object store this is a conditional put (S3's `If-None-Match: *`, Google's `ifGenerationMatch=0`),
    on a local disk a hard link from a temporary file, so of many writers that race for one name exactly one
    gets True.
    """
    fs, path = filesystem(uri)
    if is_remote(uri):
        return bool(fs.create(path, content, uuid.uuid4().hex))
    with _written_beside(path, content) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                what = "this disk makes no hard links, which commit files; choose a folder on another"
                raise Mistake(f"{path}: {what}") from error
            raise
    return True


@contextmanager
def _written_beside(path: str, content: bytes | Path) -> Iterator[str]:
    """A hidden file with `content` next to `path`, to be renamed within one disk; always removed."""
    folder, name = os.path.split(path)
    hidden = os.path.join(folder, f".{name}.{uuid.uuid4().hex}")
    try:
        os.makedirs(folder, exist_ok=True)
        shutil.copyfile(content, hidden) if isinstance(content, Path) else Path(hidden).write_bytes(content)
        yield hidden
    except OSError as error:
        error.filename, error.filename2 = path, None  # not the hidden one
        raise
    finally:
        with contextlib.suppress(OSError):  # it was renamed, or never created
            os.unlink(hidden)


def delete(uri: str) -> None:
    """Removes a file or a whole folder, if it exists."""
    fs, path = filesystem(uri)
    if not is_remote(uri):
        if fs.exists(path):
            fs.rm(path, recursive=True)
        return
    names = fs.find(path)
    odd = [name for name in names if glob.has_magic(name)]  # in a list, fsspec would take them for patterns
    if plain := sorted(set(names) - set(odd)):
        fs.rm(plain)
    for name in odd:
        fs.rm_file(name)


def read_json(uri: str) -> Any:
    """The JSON document at `uri`."""
    return json.loads(read_bytes(uri))


def json_bytes(document: Any) -> bytes:
    """`document` as indented JSON, as `dumps` writes it."""
    return (dumps(document, indent=2) + "\n").encode()


def dumps(document: Any, indent: int | None = None) -> str:
    """`document` as JSON that any reader accepts: numbers that are not finite, which JSON lacks, are null."""
    try:
        return json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(document), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: _finite(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [_finite(value) for value in document]
    return None if isinstance(document, float) and not math.isfinite(document) else document


def put_json(uri: str, document: Any) -> None:
    """Commits `document` as indented JSON."""
    put(uri, json_bytes(document))


def parquet_bytes(table: pa.Table) -> bytes:
    """`table` as the bytes of one Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def stream_bytes(table: pa.Table) -> bytes:
    """`table` in Arrow's stream format: one value of a row, which no batch splits."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def read_stream(content: bytes) -> pa.Table:
    """The table of `stream_bytes`."""
    return pa.ipc.open_stream(content).read_all()


def iter_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows of a table, with only a few in memory at a time."""
    for batch in table.to_batches(_ROWS):
        yield from batch.to_pylist()


def large_texts(table: pa.Table) -> pa.Table:
    """The same table, for work that combines chunks, in which Arrow's plain texts hold at most 2 GiB."""
    fields = (field.with_type(_LARGE.get(field.type, field.type)) for field in table.schema)
    return table.cast(pa.schema(list(fields)))


def in_order(table: pa.Table, *columns: str) -> pa.Table:
    """`table` sorted by `columns`. Its texts may exceed the 2 GiB limit of Arrow's own sorting."""
    order = pc.sort_indices(table.select(columns), [(name, "ascending") for name in columns])
    large = large_texts(table).combine_chunks()
    rows = (order.slice(begin, _SORTED_ROWS) for begin in range(0, len(order), _SORTED_ROWS))
    return pa.concat_tables([table.slice(0, 0), *(large.take(some).cast(table.schema) for some in rows)])


def put_table(uri: str, table: pa.Table) -> None:
    """Commits `table` as one Parquet file."""
    put(uri, parquet_bytes(table))


def read_table(uri: str, columns: list[str] | None = None) -> pa.Table:
    """One table from a Parquet file, or from all the Parquet files of a folder in the order of their names.

    Raises:
        Missing: there is no Parquet file; names the location.
        Mistake: one is damaged, or lacks one of `columns`.
    """
    files = [uri] if is_parquet(uri) else [file for file in list_files(uri) if is_parquet(file)]
    if not files:
        raise Missing(f"no Parquet file under {uri}; has the stage that writes it been run?")
    return pa.concat_tables(_read_parquet(file, columns) for file in files)


def is_parquet(uri: str) -> bool:
    """Whether a file is named like a Parquet file."""
    return uri.lower().endswith(".parquet")


@contextmanager
def _damage_named(uri: str) -> Iterator[None]:
    """Turns Arrow's errors about a damaged Parquet file into a Mistake that names the file."""
    try:
        yield
    except (FileNotFoundError, PermissionError, Unavailable):
        raise
    except (pa.ArrowException, OSError) as error:
        raise Mistake(
            f"{uri} is no whole Parquet file ({error}); if a stage wrote it, delete it and run that again"
        ) from None


def _read_parquet(uri: str, columns: list[str] | None) -> pa.Table:
    with open_parquet(uri, columns) as file:
        return file.read(columns).select(columns) if columns else file.read()


@contextmanager
def open_parquet(uri: str, columns: list[str] | None) -> Iterator[pq.ParquetFile]:
    """An open Parquet file that has these columns; raises as `read_table` does."""
    fs, path = arrow_filesystem(uri)
    with _damage_named(uri), pq.ParquetFile(path, filesystem=fs, pre_buffer=True) as file:
        names = file.schema_arrow.names
        if missing := [name for name in columns or () if name not in names]:
            raise Mistake(
                f"{uri} has no column {missing[0]!r}; if an earlier release wrote it, run the stage that "
                f"writes it again. It has {', '.join(names)}"
            )
        yield file


def rows(uri: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """`read_table` as a list of rows, for tables of modest size."""
    return read_table(uri, columns).to_pylist()


def json_lines(documents: Iterable[Any]) -> bytes:
    """`documents` as UTF-8 JSON lines, as `dumps` writes them."""
    return "".join(dumps(d) + "\n" for d in documents).encode()


def read_json_lines(uri: str) -> list[Any]:
    """Every document of a JSON-lines file; all of one version, even if the file is replaced meanwhile."""
    return [json.loads(line) for line in read_bytes(uri).splitlines() if line.strip()]

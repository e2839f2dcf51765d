"""Files of clients."""

import base64
import binascii
import io
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from vitascope import copies, storage
from vitascope.api.failures import invalid
from vitascope.api.fields import Located, Upload
from vitascope.api.shapes import File
from vitascope.api.store.objects import Objects, created_at, kind_of, new_id
from vitascope.api.store.records import Job, Kind, Outcome, Progress, StoredFile
from vitascope.section import shown

PURPOSES = ("batch", "vision", "user_data")
"""Of uploads: files of requests, and media."""
_CONTENT = "content"


@dataclass(frozen=True)
class Files:
    """The files that clients upload, and those that batches leave."""

    objects: Objects

    def add(self, owner: str, upload: Upload, purpose: str, of: str | None = None) -> StoredFile:
        """Commits a file; `of` is its id, if it has one already.

        Raises:
            Refused: 400 if the purpose is unknown.
        """
        of, name = of or new_id(Kind.FILE), _plain(upload.filename)
        self.objects.note(owner, of, Progress())  # so that nothing stays of a file that is not completed
        with tempfile.NamedTemporaryFile() as copy:
            shutil.copyfileobj(upload.content, copy, 1 << 20)
            copy.flush()
            n_bytes = copy.tell()
            copies.copy_file(copy.name, self._place(owner, of))
        file = StoredFile(id=of, owner=owner, filename=name, purpose=purpose, n_bytes=n_bytes)
        self.objects.add(file)
        self.objects.settle(owner, of)
        return file

    def find(self, owner: str, of: str) -> StoredFile:
        """The owner's file. Raises Refused: 404."""
        return self.objects.find(owner, of, Kind.FILE, StoredFile)

    def place(self, file: StoredFile) -> str:
        """The location of a file's content."""
        return self._place(file.owner, file.id)

    def delete(self, owner: str, of: str) -> None:
        """Removes a file. Raises Refused: 404."""
        file = self.find(owner, of)
        self.objects.note(file.owner, of, Progress())
        self.objects.forget(file.owner, of)
        self.objects.clean(file.owner, of)

    def locator(self, owner: str) -> Callable[[str, Any], Located]:
        """Locates what a client names as media: `locate(field, value)`, for `fields.with_media`."""

        def locate(field: str, value: Any) -> Located:
            if isinstance(value, dict):
                value = _named_in(field, value)
            if isinstance(value, Upload):
                value = self.add(owner, value, "user_data").id
            elif isinstance(value, str) and value.startswith("data:"):
                value = self.add(owner, Upload(field, io.BytesIO(_decoded(field, value))), "user_data").id
            if not isinstance(value, str) or value.startswith(("http://", "https://")):
                raise invalid(
                    f"{field} is an uploaded file, a data URL, or the id of a file or a finished video; "
                    f"addresses are not fetched; got {shown(value)}",
                    field,
                )
            return self._located(owner, field, value), value

        return locate

    def _located(self, owner: str, field: str, value: str) -> str:
        kind = kind_of(value)
        if kind is Kind.FILE:
            return self.place(self.find(owner, value))
        if kind in (Kind.VIDEO, Kind.IMAGE):
            job = self.objects.find(owner, value, kind, Job)
            outcome = self.objects.outcome(job.owner, value, Outcome)
            if outcome is None or outcome.uri is None:
                raise invalid(f"{field} {value} is not finished; wait until it is completed", field)
            return outcome.uri
        if not (storage.is_remote(value) or value.startswith("/")):  # where media may lie, the settings say
            raise invalid(f"{field} {shown(value)} is no id of a file or a finished video", field)
        return value

    def _place(self, owner: str, of: str) -> str:
        return storage.join(self.objects.media(owner, of), _CONTENT)


def shape(file: StoredFile) -> File:
    """A file as clients see it."""
    return File(
        id=file.id,
        bytes=file.n_bytes,
        created_at=created_at(file.id),
        filename=file.filename,
        purpose=file.purpose,
    )


def check_purpose(purpose: object) -> str:
    """The purpose of an upload. Raises Refused: 400 if it is unknown."""
    if purpose not in PURPOSES:
        raise invalid(f"purpose is {' or '.join(PURPOSES)}, got {shown(purpose)}", "purpose")
    return str(purpose)


def _named_in(field: str, value: dict[str, Any]) -> object:
    """What OpenAI's objects for references name."""
    keys: tuple[Literal["id", "file_id", "image_url"], ...] = ("id", "file_id", "image_url")
    named = [value[key] for key in keys if value.get(key) is not None]
    if len(named) != 1 or len(value) > len(named):
        raise invalid(f"{field} has one of {', '.join(keys)}, got {shown(value)}", field)
    return named[0]


def _decoded(field: str, url: str) -> bytes:
    about, comma, content = url.partition(",")
    try:
        if not comma or not about.endswith(";base64"):
            raise ValueError
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"{field} is no data URL in base64: data:image/png;base64,…", field) from None


def _plain(name: str) -> str:
    """A file's name without folders and control characters."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(c for c in last if c.isprintable())[:255] or "file"

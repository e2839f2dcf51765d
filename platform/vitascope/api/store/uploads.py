"""Files of clients."""

import base64
import binascii
import io
import shutil
import tempfile
from dataclasses import dataclass, field
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

    def _place(self, owner: str, of: str) -> str:
        return storage.join(self.objects.media(owner, of), _CONTENT)


@dataclass(frozen=True)
class Locator:
    """Locates what an owner names as media; `made` are the files that it has added for that."""

    files: Files
    owner: str
    made: list[str] = field(default_factory=list)

    def __call__(self, name: str, value: Any) -> Located:
        """The location of the media in the field `name`.

        Raises:
            Refused: 400 if they are none, 404 if they are not the owner's.
        """
        if isinstance(value, dict):
            value = _named_in(name, value)
        if isinstance(value, Upload):
            value = self._added(value)
        elif isinstance(value, str) and value.startswith("data:"):
            value = self._added(Upload(name, io.BytesIO(_decoded(name, value))))
        if not isinstance(value, str) or value.startswith(("http://", "https://")):
            raise invalid(
                f"{name} is an uploaded file, a data URL, or the id of a file or a finished video; "
                f"addresses are not fetched; got {shown(value)}",
                name,
            )
        return self._located(name, value), value

    def forget(self) -> None:
        """Removes the files that it has added."""
        for of in self.made:
            self.files.delete(self.owner, of)

    def _added(self, upload: Upload) -> str:
        self.made.append(self.files.add(self.owner, upload, "user_data").id)
        upload.content.close()  # the answer may take minutes
        return self.made[-1]

    def _located(self, name: str, value: str) -> str:
        kind, objects = kind_of(value), self.files.objects
        if kind is Kind.FILE:
            return self.files.place(self.files.find(self.owner, value))
        if kind in (Kind.VIDEO, Kind.IMAGE):
            job = objects.find(self.owner, value, kind, Job)
            outcome = objects.outcome(job.owner, value, Outcome)
            if outcome is None or outcome.uri is None:
                raise invalid(f"{name} {value} is not finished; wait until it is completed", name)
            return outcome.uri
        if not (storage.is_remote(value) or value.startswith("/")):  # where media may lie, the settings say
            raise invalid(f"{name} {shown(value)} is no id of a file or a finished video", name)
        return value


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


def _named_in(name: str, value: dict[str, Any]) -> object:
    """What OpenAI's objects for references name."""
    keys: tuple[Literal["id", "file_id", "image_url"], ...] = ("id", "file_id", "image_url")
    named = [value[key] for key in keys if value.get(key) is not None]
    if len(named) != 1 or len(value) > len(named):
        raise invalid(f"{name} has one of {', '.join(keys)}, got {shown(value)}", name)
    return named[0]


def _decoded(name: str, url: str) -> bytes:
    about, comma, content = url.partition(",")
    try:
        if not comma or not about.endswith(";base64"):
            raise ValueError
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"{name} is no data URL in base64: data:image/png;base64,…", name) from None


def _plain(name: str) -> str:
    """A file's name without folders and control characters."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(c for c in last if c.isprintable())[:255] or "file"

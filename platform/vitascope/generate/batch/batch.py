"""The inputs and outputs of a batch."""

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from vitascope import storage
from vitascope.config import Settings
from vitascope.errors import Missing, Mistake, in_a_line
from vitascope.generate.batch.control import folder_of
from vitascope.generate.batch.lines import Line, Requests
from vitascope.generate.batch.manifest import Outcome
from vitascope.generate.batch.seen import Seen
from vitascope.generate.models import Models, open_models
from vitascope.generate.opened import Target
from vitascope.generate.parse import Limits
from vitascope.generate.request import Request
from vitascope.ledger import Reason, Rejected


@dataclass(frozen=True)
class Batch:
    """The inputs and outputs of a batch."""

    run: str
    requests: str
    folder: str
    models: Models
    limits: Limits

    @classmethod
    def of(cls, settings: Settings) -> "Batch":
        """The batch that the settings describe.

        Raises:
            Mistake: no request file is named.
            Missing: the model or the request file does not exist.
        """
        if settings.generate.requests is None:
            raise Mistake(
                "no request file; set generate.requests to JSON lines, CSV or Parquet, local, s3:// or gs://"
            )
        requests = storage.absolute(settings.generate.requests)
        if not storage.exists(requests):
            raise Missing(f"no request file at {requests}; set generate.requests")
        models = open_models(settings)
        limits = models.limits(requests.rpartition("/")[0])
        return cls(settings.run.folder, requests, folder_of(settings), models, limits)

    def lines(self) -> Requests:
        """The lines of the request file."""
        return Requests(self.requests, self.limits)

    def target(self, request: Request) -> Target:
        """The location of the request's output."""
        return self.models.target(self.folder, request)

    def is_pending(self, line: Line) -> bool:
        """Whether a line has a request that was not finished when this was first asked."""
        return isinstance(line.request, Request) and not self.is_finished(self.target(line.request))

    def is_finished(self, target: Target) -> bool:
        """Whether there was an output and its sidecar when this was first asked."""
        name = posixpath.basename(target.location)
        return all(name in files for files in self._files)

    def earlier(self, row: Outcome, target: Target) -> Outcome:
        """The row of a request that was finished before."""
        location = target.location + ".json"
        try:
            return row.made(storage.read_json(location))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            why = (
                f"{location} is not as it was written ({in_a_line(error)}); delete it to generate this again"
            )
            return row.refused(Rejected(Reason.UNREADABLE, why))

    @cached_property
    def _files(self) -> tuple[Seen, Seen]:
        """The names of the outputs, and of the sidecars: 16 bytes for each request that is finished."""
        media, sidecars = Seen(), Seen()
        for file in _file_names(self.folder):
            name, suffix = posixpath.splitext(file)
            if suffix == ".json":
                sidecars.add(name)
            elif suffix in (".mp4", ".png"):
                media.add(name)
        return media, sidecars


def _file_names(folder: str) -> Iterator[str]:
    """The names of the files right in a folder, in any order; memory holds a page of a store's listing."""
    fs, path = storage.filesystem(folder)
    if storage.is_remote(folder):
        yield from fs.names(path)
    elif os.path.isdir(path):
        with os.scandir(path) as children:
            yield from (child.name for child in children)

"""Files of requests, line by line."""

from collections.abc import Callable
from dataclasses import dataclass

from vitascope.api.jobs import Jobs


@dataclass(frozen=True)
class Batches:
    """The batches of a service."""

    jobs: Jobs

    async def run(self, owner: str, of: str, wake: Callable[[str, str], None]) -> None:
        """Works off a batch."""

"""The job of a batch whose passes fail now and then; a script, so that its classes travel to replicas.

python faulty.py SETTINGS_AS_JSON LOG FAILS_EVERY
"""

import dataclasses
import itertools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from vitascope.config import Settings
from vitascope.generate import stage
from vitascope.generate.app import build, denoise
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.opened import Opened


@dataclass(frozen=True)
class Faulty(Opened):
    """A model that logs the number of segments of each pass, and fails in one of `fails_every`."""

    log: str = ""
    fails_every: int = 1000

    def load(self, device: str, *, invariant: bool = False) -> Experts:
        experts = super().load(device, invariant=invariant)
        return dataclasses.replace(experts, networks=[self._watched(network) for network in experts.networks])

    def _watched(self, network: Callable[[Any], Any]) -> Callable[[Any], Any]:
        calls = itertools.count(1)
        log = os.open(f"{self.log}-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def watched(pack: Any) -> Any:
            os.write(log, f"{pack.n_segments}\n".encode())
            if next(calls) % self.fails_every == 0:
                raise RuntimeError("a pass in many fails")
            return network(pack)

        return watched


class Denoise(denoise.Denoise):
    """Replicas with such a model."""

    faults: ClassVar[dict[str, Any]] = {}

    def _newest(self) -> Opened:
        return Faulty(**vars(super()._newest()), **self.faults)


def main(settings: str, log: str, fails_every: str) -> None:
    """Runs the job."""
    Denoise.faults = {"log": log, "fails_every": int(fails_every)}
    build.Denoise = Denoise  # type: ignore[misc]
    stage.run(Settings.model_validate_json(settings))


if __name__ == "__main__":
    main(*sys.argv[1:])

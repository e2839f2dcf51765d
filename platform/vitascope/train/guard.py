"""Handles values that are not finite."""

from vitascope import storage
from vitascope.train.engine import Engine, Ranks
from vitascope.train.log import Row
from vitascope.train.settings import NOT_FINITE_IN_A_ROW, TrainSettings
from vitascope.train.step import SkippedPack, Taken, gather_over_ranks, sum_over_ranks

MOST_NOTED = 100
"""Skipped steps of a run whose samples are recorded."""


class Guard:
    """Counts skipped steps, records their samples, and decides when a run must end.

    Every rank has one and calls it at the same steps; all get the same answers.
    """

    def __init__(self, folder: str, settings: TrainSettings, ranks: Ranks, start: int) -> None:
        """The first rank writes a file for each of the first skipped steps to `folder`.

        Files of steps from `start` on come from an earlier try, whose steps are repeated, and are removed.
        """
        self._folder, self._settings, self._ranks = folder, settings, ranks
        self._in_a_row = 0
        if ranks.rank == 0:
            for file in storage.list_files(folder):
                if file >= self._file(start):
                    storage.delete(file)

    def after_step(self, taken: Taken, engine: Engine) -> str | None:
        """Why the run must end after this step; None if it continues."""
        if not taken.row["not_finite"]:
            self._in_a_row = 0
            return None
        self._in_a_row += 1
        packs = [pack for of_rank in gather_over_ranks(taken.packs, self._ranks) for pack in of_rank]
        if self._ranks.rank == 0:
            self._write_down(taken.row, packs)
        return self.weights(engine) or self._too_many(taken.row["step"])

    def weights(self, engine: Engine) -> str | None:
        """Why the run must end, if a weight is not finite on any rank: no later step could repair it."""
        (wrong,) = sum_over_ranks([float(not engine.is_finite())], self._ranks)
        if not wrong:
            return None
        return (
            f"the weights are no longer finite after {engine.step_number} steps; lower train.lr or "
            "train.grad_clip. Run again, training continues from its last checkpoint"
        )

    def _too_many(self, step: int) -> str | None:
        if self._settings.on_not_finite == "skip" or self._in_a_row < NOT_FINITE_IN_A_ROW:
            return None
        first = step + 1 - self._in_a_row
        return (
            f"the loss or the gradient of {self._in_a_row} steps in a row was not finite (steps {first} to "
            f"{step}); {self._folder} names their samples. Lower train.lr or train.grad_clip, or, if it is "
            'the samples, set train.on_not_finite = "skip". Run again, training continues from its last '
            "checkpoint"
        )

    def _write_down(self, row: Row, packs: list[SkippedPack]) -> None:
        if len(storage.list_files(self._folder)) < MOST_NOTED:
            numbers = {key: row.get(key) for key in ("step", "epoch", "loss", "grad_norm")}
            storage.put_json(self._file(row["step"]), numbers | {"packs": [pack._asdict() for pack in packs]})

    def _file(self, step: int) -> str:
        return storage.join(self._folder, f"{step:08d}.json")

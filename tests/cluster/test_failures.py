"""What was raised first, in the class it had, whatever Ray put around it."""

import pytest
from ray.exceptions import OutOfDiskError, RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

from vitascope.cluster.failures import cause_of
from vitascope.encode.shards import DamagedShard
from vitascope.errors import Failed

DAMAGED = DamagedShard("shard 3 is damaged; run vitascope shards verify")
OF_A_RANK = UserExceptionWithTraceback(DAMAGED, traceback_str="Traceback …")


@pytest.mark.parametrize(
    "error",
    [
        DAMAGED,
        RayTaskError("load", "Traceback …", DAMAGED),
        RayTaskError("load", "Traceback …", DAMAGED).as_instanceof_cause(),
        OF_A_RANK,
        WorkerGroupError("2 workers failed", {1: OSError("lost"), 0: OF_A_RANK}),
        ControllerError(RayTaskError("run", "Traceback …", DAMAGED)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_mistake_keeps_its_class_and_text(error: Exception) -> None:
    cause = cause_of(error)
    assert (type(cause), str(cause)) == (DamagedShard, str(DAMAGED))


def test_a_bug_stays_what_it_is() -> None:
    cause = cause_of(
        WorkerGroupError("1 worker failed", {0: RayTaskError("f", "Traceback …", KeyError("x"))})
    )
    assert (type(cause), cause.args) == (KeyError, ("x",))


def test_rays_own_full_disk_is_told_in_a_sentence() -> None:
    cause = cause_of(OutOfDiskError("Local disk is full"))
    assert isinstance(cause, Failed)
    assert "make room, then run this again" in str(cause)

"""The cause of an error that crossed Ray."""

import sys

from ray.exceptions import OutOfDiskError, RayTaskError, UserCodeException

from vitascope.cluster import ray_private
from vitascope.errors import Failed

_ADVICE = "Failed to apply UDF"  # Ray Data adds it to an error's arguments, as the file's name of an OSError


def cause_of(error: BaseException) -> BaseException:
    """The first error, as raised in a task, an actor or a training rank, in its own class.

    If training ranks failed together, the error of the lowest one.
    """
    seen: set[int] = set()
    while (inner := _inner(error)) is not None and id(inner) not in seen:
        seen.add(id(inner))
        error = inner
    if isinstance(error, OSError) and str(error.filename).startswith(_ADVICE):
        error = type(error)(error.errno, error.strerror)
    if isinstance(error, OutOfDiskError):
        return Failed("the disk of Ray's temporary files is full; make room, then run this again to continue")
    return error


def _inner(error: BaseException) -> BaseException | None:
    if isinstance(error, RayTaskError):
        return error.cause if isinstance(error.cause, BaseException) else None
    if isinstance(error, UserCodeException):
        return error.__cause__
    if "ray.train" not in sys.modules:  # then `error` is not its; without a home folder it cannot be imported
        return None
    from ray.train import ControllerError, WorkerGroupError

    if isinstance(error, WorkerGroupError):
        return error.worker_failures[min(error.worker_failures)] if error.worker_failures else None
    if isinstance(error, ControllerError):
        return error.controller_failure
    return ray_private.raised_in_train(error)

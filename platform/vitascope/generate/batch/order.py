"""The order in which requests are sent."""

import numpy as np
import numpy.typing as npt

WINDOW = 4096
"""Requests that are ordered together: a request is sent at most this many places from its line."""


def order(costs: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """(N,) the indices of the requests of a window with these costs, the costliest first.

    If each is sent to the replica with the least outstanding cost, those that are left at the end are small,
    so all replicas finish at nearly the same time (Graham 1969); requests of similar cost share passes, and
    leave them together. Equal costs keep their order.
    """
    return np.argsort(-np.asarray(costs, np.float64), kind="stable")

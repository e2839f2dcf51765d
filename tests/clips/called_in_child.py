"""What the tests have a decoding process do."""

import os
import signal
import time

import numpy as np

from vitascope.clips import decode
from vitascope.ledger import Reason, Rejected


def pid() -> int:
    return os.getpid()


def hang() -> None:
    time.sleep(600)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def reject() -> None:
    raise Rejected(Reason.DECODE_FAILED, "as told")


def zeros(n: int) -> np.ndarray:
    return np.zeros(n, np.uint8)


def cache_hits() -> int:
    return decode._reader.cache_info().hits

"""What was dropped is counted by its reason."""

import pickle

from vitascope import records
from vitascope.ledger import Reason, Rejected, dropped_by_reason


def test_only_dropped_rows_are_counted_most_frequent_first() -> None:
    rows = [
        records.dropped(Reason.EMPTY_FILE, "0 bytes"),
        records.OK,
        records.dropped(Reason.UNREADABLE, "text"),
        records.dropped(Reason.UNREADABLE, "text"),
    ]
    assert list(dropped_by_reason(rows).items()) == [("unreadable", 2), ("empty_file", 1)]


def test_a_rejection_carries_reason_and_detail_through_pickling() -> None:
    rejected = pickle.loads(pickle.dumps(Rejected(Reason.TOO_SHORT, "0.1 s of 1 s")))
    assert (rejected.reason, rejected.detail) == (Reason.TOO_SHORT, "0.1 s of 1 s")
    assert str(rejected) == "too_short: 0.1 s of 1 s"

"""Where nobody watches, long work leaves one line."""

import pytest

from vitascope.progress import track


def test_one_line_says_what_was_done(capsys: pytest.CaptureFixture) -> None:
    with track(3, "clips") as advance:
        advance()
        advance(2, note="1 dropped")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].split()[:2] == ["clips", "3"]
    assert lines[0].endswith("1 dropped")


def test_failed_work_claims_nothing(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(KeyError), track(3, "clips"):
        raise KeyError
    assert capsys.readouterr().out == ""

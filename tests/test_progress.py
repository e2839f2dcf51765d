"""If nobody watches, long work leaves one line."""

import pytest

from vitascope.progress import say_dropped, track


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


def test_what_was_dropped_is_said_where_anything_was(capsys: pytest.CaptureFixture) -> None:
    say_dropped("clips", "6 of 6 clips kept", {})
    assert capsys.readouterr().out == ""
    say_dropped("clips", "3 of 6 clips kept", {"filter_width": 2, "too_short": 1})
    assert capsys.readouterr().out == "     clips  3 of 6 clips kept: filter_width 2, too_short 1\n"

"""Spans within shots, and splits."""

import itertools
from typing import Any

import pytest

from vitascope.clips.analysis.cut import Span, spans, splits, steps


def whole(duration_s: float, fps: float, *how: Any) -> list[Span]:
    """A source of this duration, cut as one shot."""
    return spans([(0, steps(duration_s, fps))], fps, *how)


def times(duration_s: float, fps: float = 8, durations_s: tuple[float, ...] = (1.0, 2.0)) -> list[tuple]:
    return [(s.start_s, s.end_s, s.n_frames) for s in whole(duration_s, fps, durations_s)]


def test_spans_overlap_where_they_begin_more_often() -> None:
    cut = whole(2.5, 8, (1.0, 2.0), 0.5)
    assert [(s.start_s, s.end_s) for s in cut] == [(0.0, 1.0), (0.5, 2.5), (1.0, 2.0), (1.5, 2.5)]


def test_durations_are_taken_in_turn() -> None:
    assert times(6.0) == [(0, 1, 9), (1, 3, 17), (3, 4, 9), (4, 6, 17)]


def test_the_end_takes_the_longest_that_fits() -> None:
    assert times(5.28) == [(0, 1, 9), (1, 3, 17), (3, 4, 9), (4, 5, 9)]
    assert times(4.5, durations_s=(2.0, 4.0, 1.0)) == [(0, 2, 17), (2, 4, 17)]


def test_a_short_source_gives_all_it_has() -> None:
    assert times(0.7) == [(0, 0.625, 6)]
    assert times(0.05) == [(0, 0, 1)]


def test_an_image_gives_one_frame() -> None:
    assert times(0.0) == [(0, 0, 1)]


def test_rounded_durations_and_odd_rates() -> None:
    assert times(1.9999999, durations_s=(2.0,)) == [(0, 2, 17)]
    (span,) = whole(1.5, 10 / 3, (1.0,))
    assert (span.n_frames, span.end_s) == (4, pytest.approx(0.9))


@pytest.mark.parametrize("duration_s", [0.3, 1.0, 3.3, 7.6, 61.2])
def test_spans_stay_within_the_source_and_do_not_overlap(duration_s: float) -> None:
    cut = whole(duration_s, 8, (1.0, 2.0, 4.0))
    assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(cut))
    assert cut[-1].end_s <= duration_s


def test_spans_lie_on_the_grid_whatever_the_durations() -> None:
    cut = whole(4.0, 8, (0.7, 0.3), 0.4)
    assert all(float(s.start_s * 8).is_integer() and s.end_s == s.start_s + (s.n_frames - 1) / 8 for s in cut)


def test_no_span_leaves_its_shot() -> None:
    shots = [(3, 30), (31, 35), (40, 40), (44, 70)]
    cut = [(s.start_s * 8, s.end_s * 8) for s in spans(shots, 8, (1.0, 2.0))]
    assert cut == [(3, 11), (11, 27), (31, 35), (40, 40), (44, 52), (52, 68)]


NAMES = [f"{i}.mp4" for i in range(1000)]


def test_a_share_goes_to_validation_and_stays_there() -> None:
    split = splits(NAMES, NAMES, 0.1)
    assert 60 < sum(s == "val" for s in split.values()) < 140
    fewer = splits(NAMES[:500], NAMES[:500], 0.1)
    assert all(split[name] == fewer[name] for name in fewer)


def test_validation_and_training_each_get_a_usable_source() -> None:
    for share in (0.001, 0.999):
        split = splits(NAMES[:5], NAMES[1:4], share)
        assert {split[name] for name in NAMES[1:4]} == {"train", "val"}


def test_named_sources_are_held_out_instead_of_a_share() -> None:
    names = [*NAMES[:50], "a/tower.mp4", "tower_later.mp4"]
    split = splits(names, names, 0.5, ["tower*", "none*"])
    assert [name for name in names if split[name] == "val"] == ["tower_later.mp4"]


def test_the_share_applies_where_no_name_matches() -> None:
    assert splits(NAMES, NAMES, 0.1, ["tower*"]) == splits(NAMES, NAMES, 0.1)
    assert "val" in splits(NAMES[:2], NAMES[:2], 0.05, ["*_later.mp4"]).values()


def test_no_validation_when_none_is_wanted_or_there_is_one_source() -> None:
    assert set(splits(NAMES, NAMES, 0.0).values()) == {"train"}
    assert splits(["5.mp4"], ["5.mp4"], 0.001) == {"5.mp4": "train"}

"""Histograms hold every value, examples lie at their quantiles, limits drop what the clips stage drops."""

import numpy as np
import pytest

from vitascope.clips.analysis.scores import judge
from vitascope.clips.filters import Filter, Filters, beyond
from vitascope.report import spread


def test_a_histogram_holds_every_value_also_those_beyond_its_ends() -> None:
    values = np.r_[np.random.default_rng(0).normal(size=5000), 1e6, -1e6, np.nan, np.inf]
    kept = np.arange(len(values)) % 3 > 0
    bins = spread.histogram(values, kept, {"min": -9.0})
    assert bins is not None
    assert bins.counts.sum() == 5002
    assert bins.kept.sum() == kept[:5002].sum()
    assert bins.edges[0] == -9.0  # a limit is always in the picture
    assert bins.edges[-1] < 10  # and an outlier does not make it unreadable


def test_skewed_values_are_shown_by_order_of_magnitude_and_their_zeros_are_not_lost() -> None:
    values = np.r_[np.random.default_rng(0).lognormal(-4, 1.5, 900), np.zeros(100)]
    bins = spread.histogram(values, np.ones(1000, bool), {"min": 0.002})
    assert bins is not None
    assert bins.log
    assert bins.counts.sum() == 1000
    assert bins.counts[0] >= 100


@pytest.mark.parametrize("values", [[], [np.nan], [np.inf]])
def test_no_values_have_no_histogram_and_no_examples(values: list[float]) -> None:
    column = np.array(values, float)
    assert spread.histogram(column, np.ones(len(column), bool), {"max": 1.0}) is None
    assert spread.examples(column, {"max": 1.0}) == []


@pytest.mark.parametrize("value", [0.0, -3.0, 7.0])
def test_one_value_is_one_bar_and_one_example(value: float) -> None:
    bins = spread.histogram(np.full(10, value), np.ones(10, bool), {})
    assert bins is not None
    assert sorted(bins.counts.tolist())[-2:] == [0, 10]
    [example] = spread.examples(np.full(10, value), {})
    assert example.label == "1–99 %"


def test_examples_lie_at_the_quantiles_by_rising_value() -> None:
    values = np.random.default_rng(1).permutation(10_001).astype(float)
    found = spread.examples(values, {})
    assert [values[example.row] for example in found] == [100, 1000, 2500, 5000, 7500, 9000, 9900]
    assert [example.label for example in found] == ["1 %", "10 %", "25 %", "50 %", "75 %", "90 %", "99 %"]


def test_the_nearest_on_either_side_of_a_limit_are_examples() -> None:
    values = np.arange(1000.0)
    labels = {values[e.row]: e.label for e in spread.examples(values, {"min": 400.5, "max": 700.0})}
    assert labels[400] == "below min"
    assert labels[401] == "above min"
    assert labels[700] == "below max"  # what is at the limit is kept
    assert labels[701] == "above max"


def test_a_limit_that_drops_nothing_adds_no_examples() -> None:
    assert len(spread.examples(np.arange(1000.0), {"min": -5.0, "max": 5000.0})) == 7


def test_values_that_are_the_same_share_an_example() -> None:
    found = spread.examples(np.r_[np.zeros(980), np.ones(20)], {"max": 0.5})
    assert [example.label for example in found] == ["1–90 %, below max", "99 %, above max"]


def test_limits_drop_what_the_clips_stage_drops() -> None:
    values = np.array([0.05, 0.0499, 0.95, 0.9501, np.nan, 0.5], np.float32)
    rule = Filter(use="drop", min=0.05, max=0.95)
    filters = Filters(
        brightness=rule, black_share={"use": "off"}, still_share={"use": "off"}, contrast={"use": "off"}
    )
    judged = judge({"brightness": values}, filters)
    out = beyond(values.astype(np.float64), rule.limits)
    assert (
        out.tolist() == [reason is not None for reason in judged] == [False, True, False, True, False, False]
    )


def test_aspect_ratios_get_their_usual_names() -> None:
    sizes = [
        (1920, 1080),
        (1080, 1920),
        (854, 480),
        (640, 480),
        (500, 500),
        (2560, 1080),
        (3000, 400),
        (100, 999),
    ]
    width, height = np.array(sizes, float).T
    assert spread.aspects(width, height) == {
        "16:9": 2,
        "9:16": 1,
        "4:3": 1,
        "1:1": 1,
        "21:9": 1,
        "other, wide": 1,
        "other, upright": 1,
    }

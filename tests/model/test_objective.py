"""What each family of networks is trained with: conditioning frames and noise levels."""

import math
from collections import Counter

import numpy as np
import pytest

from vitascope.feed.patches import Grid
from vitascope.model import flow
from vitascope.model.networks import NETWORKS
from vitascope.model.objective import PATTERNS
from vitascope.records import stable_int
from vitascope.train.settings import Conditioning, NoiseRange

GRID = (5, 6, 8)
SHIFTS = [flow.Shift(1.0), flow.Shift(6.0), flow.Shift(5.0, grows=False), flow.Shift(12.0, grows=False)]
EXPERTS = [(0.875, 1.0), (0.0, 0.875)]


def masks(conditioning: Conditioning, n: int = 3000) -> Counter[tuple[bool, ...]]:
    """How often each pattern of frames to be generated occurs."""
    draws = flow.Draws(2, 0.1, flow.Shift(1.0), conditioning=conditioning)
    return Counter(tuple((draws(i, 0, GRID).timesteps > 0).tolist()) for i in range(n))


@pytest.mark.parametrize(
    ("network", "channels", "per_frame", "expected"),
    [
        ("dit", 64, None, "all"),
        ("wan", 16, None, "none"),  # 2.1 and A14B: one timestep for all frames
        ("wan", 48, None, "first"),  # TI2V-5B
        ("wan", 16, True, "first"),  # what its pipeline says counts
        ("wan", 48, False, "none"),
    ],
)
def test_conditioning_frames_are_those_the_network_was_made_for(
    network: str, channels: int, per_frame: bool | None, expected: str
) -> None:
    assert NETWORKS[network].objective.conditioning_of(channels, per_frame=per_frame) == expected


def test_patterns_occur_as_often_as_they_say() -> None:
    whole, image = (True,) * 5, (False, *(True,) * 4)
    assert masks("none") == {whole: 3000}
    assert masks("first").keys() == {whole, image}
    assert masks("first")[whole] / 3000 == pytest.approx(0.5, abs=0.03)
    assert len(masks("all")) > 20
    assert all(
        sum(frequency for frequency, _ in patterns) == pytest.approx(1) for patterns in PATTERNS.values()
    )


@pytest.mark.parametrize("shift", SHIFTS, ids=str)
def test_without_a_range_draws_are_those_of_earlier_releases(shift: flow.Shift) -> None:
    """To the last bit: a run that was begun with them goes on with the same."""
    draws = flow.Draws(3, 0.2, shift)
    for sample in range(300):
        found, (timesteps, drop_text) = draws(sample, 4, GRID), earlier(sample, 4, GRID, shift)
        assert found.timesteps.tobytes() == timesteps.tobytes()
        assert found.drop_text == drop_text


def earlier(sample: int, epoch: int, grid: Grid, shift: flow.Shift) -> tuple[np.ndarray, bool]:
    """Timesteps and caption dropout as they were before there were ranges and families."""
    rng = np.random.Generator(np.random.Philox(stable_int("draw", 3, epoch, sample)))
    level = shift.apply(1 / (1 + np.exp(-rng.standard_normal())), math.prod(grid))
    frames = np.arange(grid[0])

    def beginning() -> np.ndarray:
        return frames >= (1 if rng.random() < 0.5 else int(rng.integers(1, grid[0])))

    patterns = [
        lambda: frames >= 0,
        beginning,
        lambda: beginning()[::-1],
        lambda: beginning() & beginning()[::-1],
        lambda: rng.random(grid[0]) < 0.5,
    ]
    made = patterns[int(rng.choice(5, p=[0.5, 0.25, 0.1, 0.1, 0.05]))]()
    made = made if made.any() else frames >= 0
    return np.where(made, level, 0.0).astype(np.float32), bool(rng.random() < 0.2)


def levels(shift: flow.Shift, noise_range: NoiseRange, n: int = 2000) -> np.ndarray:
    """The sorted noise levels of so many samples, float64."""
    draws = flow.Draws(5, 0.1, shift, noise_range=noise_range)
    return np.sort([float(draws(i, 0, GRID).timesteps.max()) for i in range(n)])


@pytest.mark.parametrize("noise_range", [*EXPERTS, (0.4, 0.6), (0.99, 1.0), (0.0, 0.01)], ids=str)
@pytest.mark.parametrize("shift", SHIFTS, ids=str)
def test_levels_have_the_distribution_of_all_under_the_condition_of_the_range(
    shift: flow.Shift, noise_range: NoiseRange
) -> None:
    """Kolmogorov and Smirnov's distance, against the distribution function; 1.95 / √n has p = 0.001."""
    found = levels(shift, noise_range)
    low, high = noise_range
    assert low - 1e-7 <= found[0] < found[-1] <= high + 1e-7  # float32
    expected = distribution(np.clip(found, low, high), shift)
    ends = distribution(np.array(noise_range), shift)
    expected = (expected - ends[0]) / (ends[1] - ends[0])
    empirical = np.arange(len(found)) / len(found)
    distance = max(np.abs(expected - empirical).max(), np.abs(expected - empirical - 1 / len(found)).max())
    assert distance < 1.95 / math.sqrt(len(found))


def distribution(level: np.ndarray, shift: flow.Shift) -> np.ndarray:
    """The fraction of levels below, of logit-normal ones that are shifted by `shift`.

    The logit of s t / (1 + (s - 1) t) is that of t plus ln s.
    """
    strength = shift.strength * (math.sqrt(math.prod(GRID) / 1024) if shift.grows else 1)
    with np.errstate(divide="ignore"):
        logits = np.log(level) - np.log1p(-level) - math.log(strength)
    return np.array([0.5 * math.erfc(-logit / math.sqrt(2)) for logit in logits.tolist()])


@pytest.mark.parametrize("noise_range", EXPERTS, ids=str)
def test_a_range_changes_noise_levels_alone(noise_range: NoiseRange) -> None:
    whole = flow.Draws(3, 0.2, flow.Shift(5.0, grows=False))
    within = flow.Draws(3, 0.2, flow.Shift(5.0, grows=False), noise_range=noise_range)
    ordered = []
    for sample in range(300):
        before, after = whole(sample, 1, GRID), within(sample, 1, GRID)
        assert (before.noise_key, before.drop_text) == (after.noise_key, after.drop_text)
        assert np.array_equal(before.timesteps > 0, after.timesteps > 0)  # conditioning frames stay at 0
        assert after.timesteps.tobytes() == within(sample, 1, GRID).timesteps.tobytes()
        ordered.append((before.timesteps.max(), after.timesteps.max()))
    found = [after for _, after in sorted(ordered)]
    assert found == sorted(found)  # a sample's quantile is the same


@pytest.mark.parametrize(("low", "high"), [(20.0, 21.0), (-21.0, -20.0), (9.0, math.inf), (-math.inf, -9.0)])
def test_far_tails_are_sampled(low: float, high: float) -> None:
    found = [flow.truncated(normal, low, high) for normal in (-9.0, -1.0, 0.0, 1.0, 9.0)]
    assert found == sorted(found)
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)
    assert len({*found}) >= 4

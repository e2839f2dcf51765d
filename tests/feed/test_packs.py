"""A pack keeps its segments apart."""

import pytest
import torch

from vitascope.feed.packs import Segment, collate, idle


def segment(grid: tuple[int, int, int], n_text: int, sample_id: int) -> Segment:
    n = grid[0] * grid[1] * grid[2]
    return Segment(
        torch.randn(n, 8), grid, torch.rand(grid[0]), torch.randn(n_text, 4), sample_id, sample_id + 100
    )


def test_segments_lie_end_to_end() -> None:
    segments = [segment((1, 2, 3), 4, 7), segment((3, 1, 2), 0, 8), segment((2, 2, 2), 5, 9)]
    pack = collate(segments)
    assert (pack.n_tokens, pack.n_segments, pack.lengths) == (6 + 6 + 8, 3, [6, 6, 8])
    assert pack.segment_of_token.tolist() == [0] * 6 + [1] * 6 + [2] * 8
    assert pack.frame_of_token.tolist() == [0] * 6 + [1, 1, 2, 2, 3, 3] + [4] * 4 + [5] * 4
    assert pack.segment_of_frame.tolist() == [0, 1, 1, 1, 2, 2]
    assert pack.text_lengths.tolist() == [4, 0, 5]
    for part, one in zip(pack.split(pack.tokens), segments, strict=True):
        assert torch.equal(part, one.tokens)


def test_positions_begin_anew_in_every_segment() -> None:
    pack = collate([segment((1, 1, 2), 1, 0), segment((2, 1, 2), 1, 1)])
    assert pack.positions.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]


def test_each_token_finds_its_place_in_the_nearest_given_frame_of_its_own_segment() -> None:
    def with_levels(grid: tuple[int, int, int], *levels: float) -> Segment:
        n = grid[0] * grid[1] * grid[2]
        return Segment(torch.zeros(n, 1), grid, torch.tensor(levels), torch.zeros(0, 1))

    both_ends, none = with_levels((4, 1, 2), 0, 1, 1, 0), with_levels((2, 2, 1), 1, 1)
    last, middle = with_levels((3, 1, 1), 0.5, 0.5, 0), with_levels((3, 1, 1), 0.5, 0, 0.5)
    found = collate([both_ends, none, last, middle]).nearest_given.tolist()
    assert found == [0, 1, 0, 1, 6, 7, 6, 7] + [-1] * 4 + [14] * 3 + [16] * 3


def test_a_segment_whose_parts_disagree_is_refused() -> None:
    with pytest.raises(ValueError, match="holds 6 tokens, got 5"):
        Segment(torch.zeros(5, 8), (1, 2, 3), torch.zeros(1), torch.zeros(0, 4))
    with pytest.raises(ValueError, match="expected 2 timesteps"):
        Segment(torch.zeros(4, 8), (2, 1, 2), torch.zeros(1), torch.zeros(0, 4))


@pytest.mark.parametrize("level", [1.0001, -0.1, float("nan"), float("inf")])
def test_a_noise_level_out_of_range_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="timesteps are from 0, clean, to 1, noise, got"):
        Segment(torch.zeros(4, 8), (2, 1, 2), torch.tensor([0.0, level]), torch.zeros(0, 4))


@pytest.mark.parametrize("grid", [(0, 1, 2), (1, 0, 0), (2, -1, -2)])
def test_a_grid_without_patches_is_refused(grid: tuple[int, int, int]) -> None:
    n = grid[0] * grid[1] * grid[2]
    with pytest.raises(ValueError, match="a grid has 1 patch or more along each axis"):
        Segment(torch.zeros(n, 8), grid, torch.zeros(grid[0]), torch.zeros(0, 4))


def test_an_empty_pack_is_refused_and_an_idle_one_has_no_loss() -> None:
    with pytest.raises(ValueError, match="at least one segment"):
        collate([])
    assert not idle(8, 4).timesteps.any()

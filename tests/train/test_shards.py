"""Any number of ranks reads what any other number wrote."""

from pathlib import Path

import pytest
import torch

from vitascope.train.shards import ShardedState, Span, overlaps, part_of, write_shard


@pytest.mark.parametrize("numel", [0, 1, 7, 64, 1001])
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_parts_cover_a_tensor_once(numel: int, ranks: int) -> None:
    parts = [part_of(numel, ranks, rank) for rank in range(ranks)]
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(numel))


def test_only_the_ranks_that_hold_something_are_read() -> None:
    assert list(overlaps(10, 5, Span(3, 6))) == [(1, Span(1, 2)), (2, Span(0, 2))]


@pytest.mark.parametrize("written_by", [1, 2, 5])
@pytest.mark.parametrize("read_by", [1, 3, 4])
def test_a_checkpoint_is_read_at_another_number_of_ranks(
    tmp_path: Path, written_by: int, read_by: int
) -> None:
    tensors = {"ema/a": torch.randn(3, 7), "ema/b": torch.randn(2)}
    for rank in range(written_by):
        parts = {}
        for name, tensor in tensors.items():
            part = part_of(tensor.numel(), written_by, rank)
            parts[name] = tensor.flatten()[part.start : part.stop]
        write_shard(tmp_path, parts, rank, written_by)
    state = ShardedState(tmp_path, written_by)
    for name, tensor in tensors.items():
        n = tensor.numel()
        pieces = [state.read(name, n, part_of(n, read_by, rank)) for rank in range(read_by)]
        assert torch.equal(torch.cat(pieces), tensor.flatten())
        assert torch.equal(state.whole(name, tensor.shape), tensor)


def test_a_damaged_shard_is_refused_and_the_others_are_read(tmp_path: Path) -> None:
    for rank in range(2):
        write_shard(tmp_path, {"ema/a": torch.arange(4.0) + 4 * rank}, rank, 2)
    shard = tmp_path / "state-00001-of-00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 0x80
    shard.write_bytes(content)
    state = ShardedState(tmp_path, 2)
    assert state.read("ema/a", 8, Span(0, 4)).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"state-00001-of-00002\.safetensors is damaged or was changed"):
        state.read("ema/a", 8, Span(2, 6))

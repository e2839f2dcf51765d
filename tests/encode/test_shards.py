"""Latent shards: what goes in comes out, by row, and each shard accounts for itself."""

import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vitascope import storage
from vitascope.encode import shards as shards_module
from vitascope.encode.plan import EncodeTask
from vitascope.encode.shards import (
    DamagedShard,
    Moments,
    ShardFile,
    ShardNote,
    latent_row,
    read_note,
    read_notes,
    read_samples,
    shard_uri,
    write_shard,
)
from vitascope.records import LATENTS, SAMPLES

DIM = 6
SOME = Moments(2, [1.0], [2.0])
ROW = {"sample_id": 1, "row": 1, "psnr_db": 30.1, "caption": "späte Wellen"}
NOTE = ShardNote("key", DIM, pa.Table.from_pylist([ROW], schema=SAMPLES), [{"clip_id": "x"}], SOME)


def tasks(n: int) -> list[EncodeTask]:
    return [
        EncodeTask(
            sample_id=1000 + i,
            clip_id=f"clip-{i}",
            name="a.mp4",
            uri="a.mp4",
            version="1",
            kind="video",
            start_s=0.0,
            fps=8.0,
            decoder="pyav",
            split="train",
            caption=f"clip {i}",
            n_frames=1,
            height=16,
            width=16,
            n_tokens=1,
        )
        for i in range(n)
    ]


def put(folder: Path, n: int, side: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Writes shard 3 with `n` samples of growing size and returns their (latent, text)."""
    generator = torch.Generator().manual_seed(0)
    values = [
        (
            torch.randn(1 + i % 3, side, 4, 5, generator=generator),
            torch.randn(i % 4, DIM, generator=generator),
        )
        for i in range(n)
    ]
    rows = [latent_row(task, latent, text) for task, (latent, text) in zip(tasks(n), values, strict=True)]
    write_shard(shard_uri(str(folder), 3), rows, NOTE)
    return values


def test_samples_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    values = put(tmp_path, 100)
    asked = [99, 0, 41, 41, 7]
    samples = read_samples(str(tmp_path), [(3, row) for row in asked])
    for row, sample in zip(asked, samples, strict=True):
        latent, text = values[row]
        assert torch.equal(sample.latent, latent.bfloat16())
        assert torch.equal(sample.text, text.bfloat16())
        assert sample.text.shape[1] == DIM
    assert [s.sample_id for s in samples] == [tasks(100)[row].sample_id for row in asked]
    assert samples[0].caption == tasks(100)[99].caption


def test_the_file_has_the_declared_schema_and_small_row_groups(tmp_path: Path) -> None:
    put(tmp_path, 100)
    file = pq.ParquetFile(shard_uri(str(tmp_path), 3))
    assert file.schema_arrow.equals(LATENTS)
    assert file.metadata.num_row_groups == 4


def test_large_samples_make_row_groups_of_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "GROUP_BYTES", 2000)
    values = put(tmp_path, 9, side=8)
    assert pq.ParquetFile(shard_uri(str(tmp_path), 3)).metadata.num_row_groups == 3
    assert torch.equal(read_samples(str(tmp_path), [(3, 8)])[0].latent, values[8][0].bfloat16())


def test_the_cache_stays_within_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = shards_module._GroupCache(max_bytes=10_000)
    monkeypatch.setattr(shards_module, "_groups", cache)
    values = put(tmp_path, 100, side=8)
    for row in range(100):
        assert torch.equal(read_samples(str(tmp_path), [(3, row)])[0].latent, values[row][0].bfloat16())
    assert len(cache._tables) == 1


def test_open_shards_hold_no_more_than_the_cache_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "_groups", shards_module._GroupCache(max_bytes=0))
    latent = torch.randn(4, 128, 128, 16)  # 2 MiB
    rows = [latent_row(task, latent, torch.zeros(1, DIM)) for task in tasks(3)]
    for shard in range(8):
        write_shard(shard_uri(str(tmp_path), shard), rows, NOTE)
    before = pa.total_allocated_bytes()
    read_samples(str(tmp_path), [(shard, 1) for shard in range(8)])
    files = [ShardFile(shard_uri(str(tmp_path), shard)) for shard in range(8)]
    assert [len(file.read(group)) for file in files for group in range(3)] == [1] * 24
    deadline = time.monotonic() + 30  # Arrow's threads let go of what they fetched a little later
    while pa.total_allocated_bytes() - before > 3 << 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert pa.total_allocated_bytes() - before < 3 << 20  # the one group that the cache holds


def test_a_shard_tells_what_it_holds(tmp_path: Path) -> None:
    put(tmp_path, 2)
    note = read_note(shard_uri(str(tmp_path), 3))
    assert note is not None
    assert note.samples.equals(NOTE.samples)
    assert vars(note) | {"samples": None} == vars(NOTE) | {"samples": None}
    assert read_note(shard_uri(str(tmp_path), 4)) is None


def test_a_shard_of_failures_only_is_still_a_shard(tmp_path: Path) -> None:
    write_shard(
        shard_uri(str(tmp_path), 0),
        [],
        ShardNote("key", DIM, SAMPLES.empty_table(), [{"clip_id": "x"}], SOME),
    )
    assert read_note(shard_uri(str(tmp_path), 0)) is not None


def test_a_note_that_is_longer_than_what_is_read_first_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, 2)
    monkeypatch.setattr(shards_module, "_TAIL_BYTES", 100)
    note = read_note(shard_uri(str(tmp_path), 3))
    assert note is not None
    assert note.samples.equals(NOTE.samples)


def noted(content: bytes, metadata: dict[bytes, bytes]) -> bytes:
    """The Parquet file `content` with other metadata."""
    return storage.parquet_bytes(pq.read_table(pa.BufferReader(content)).replace_schema_metadata(metadata))


def changed(content: bytes, old: bytes, new: bytes) -> bytes:
    """The Parquet file `content` with `new` for `old` in its metadata."""
    there = pq.read_schema(pa.BufferReader(content)).metadata
    metadata = {key.replace(old, new): value.replace(old, new) for key, value in there.items()}
    assert metadata != there
    return noted(content, metadata)


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: good[:0],
        lambda good: good[: len(good) // 2],
        lambda good: good[:-4] + b"PARE",  # as of an encrypted file
        lambda good: changed(good, b'"moments"', b'"moments\xa2'),
        lambda good: changed(good, b'{"n": 2,', b'{"n": 3,'),
        lambda good: changed(good, b"vitascope", b"vitascopf"),
        lambda good: noted(good, {}),
        lambda good: noted(good, {b"vitascope": b"{}"}),
    ],
)
def test_a_damaged_shard_is_named_or_counts_as_absent(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    put(tmp_path, 2)
    path = Path(shard_uri(str(tmp_path), 3))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedShard, match=rf"{path} is damaged \(.*encode again, .*verify --forget before"):
        read_note(str(path))
    assert read_notes(str(tmp_path), [3, 4], damaged_is_absent=True) == [None, None]


def test_no_flip_in_a_footer_changes_a_note_unseen(tmp_path: Path) -> None:
    put(tmp_path, 2)
    path = Path(shard_uri(str(tmp_path), 3))
    good = path.read_bytes()
    n_damaged = 0
    for at in range(len(good) - int.from_bytes(good[-8:-4], "little") - 8, len(good), 5):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        try:
            note = read_note(str(path))
        except DamagedShard:
            n_damaged += 1
        else:
            assert note is not None
            assert note.to_json() == NOTE.to_json()
    assert n_damaged > 100


@pytest.mark.parametrize("error", [PermissionError, storage.Unavailable])
def test_a_shard_that_cannot_be_reached_is_neither_damaged_nor_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def refuse(uri: str) -> None:
        raise error(uri)

    put(tmp_path, 2)
    monkeypatch.setattr(storage, "open_file", refuse)
    with pytest.raises(error):
        read_note(shard_uri(str(tmp_path), 3), damaged_is_absent=True)


def test_a_row_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, 2)
    with pytest.raises(ValueError, match="2 rows, asked for row 2"):
        read_samples(str(tmp_path), [(3, 2)])

"""Latent shards: what goes in comes out, by row, and each shard accounts for itself."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vitascope import storage
from vitascope.encode import shards as shards_module
from vitascope.encode.plan import Drop, EncodeTask
from vitascope.encode.samples import Encoded, Moments, shard_table
from vitascope.encode.shards import (
    DamagedShard,
    ShardFile,
    ShardNote,
    facts_hash,
    read_note,
    read_notes,
    read_samples,
    read_shard,
    row_group_cache,
    shard_uri,
    write_shard,
)
from vitascope.encode.verify import Indexed, check_shard
from vitascope.records import LATENTS, SAMPLES

DIM = 6
SOME = Moments(2, [1.0], [2.0])
DROP = Drop("x", "späte Wellen.mp4", "decode_failed", "damaged")


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
    encoded = [Encoded(task, *value, 30.1) for task, value in zip(tasks(n), values, strict=True)]
    write(str(folder), 3, encoded)
    return values


def write(folder: str, number: int, encoded: list[Encoded]) -> ShardNote:
    """Writes a shard and returns its note."""
    rows = shard_table(number, encoded)
    note = ShardNote("key", DIM, len(rows), facts_hash(rows.select(SAMPLES.names)), [DROP], SOME)
    write_shard(shard_uri(folder, number), rows, note)
    return note


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
    cache = row_group_cache(10_000)
    monkeypatch.setattr(shards_module, "_groups", cache)
    values = put(tmp_path, 100, side=8)
    for row in range(100):
        assert torch.equal(read_samples(str(tmp_path), [(3, row)])[0].latent, values[row][0].bfloat16())
    assert len(cache) == 1


def test_open_shards_hold_no_more_than_the_cache_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "_groups", row_group_cache(1))
    latent = torch.randn(4, 128, 128, 16)  # 2 MiB
    encoded = [Encoded(task, latent, torch.zeros(1, DIM), 30.1) for task in tasks(3)]
    for shard in range(8):
        write(str(tmp_path), shard, encoded)
    before = pa.total_allocated_bytes()
    read_samples(str(tmp_path), [(shard, 1) for shard in range(8)])
    files = [ShardFile(shard_uri(str(tmp_path), shard)) for shard in range(8)]
    assert [len(file.read(group)) for file in files for group in range(3)] == [1] * 24
    deadline = time.monotonic() + 30  # Arrow's threads let go of what they fetched a little later
    while pa.total_allocated_bytes() - before > 3 << 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert pa.total_allocated_bytes() - before < 3 << 20  # the one group that the cache holds


def test_a_shard_tells_what_it_holds(tmp_path: Path) -> None:
    encoded = [Encoded(task, torch.randn(2, 4, 6, 5), torch.randn(3, DIM), 30.1) for task in tasks(70)]
    written = write(str(tmp_path), 3, encoded)
    assert read_note(shard_uri(str(tmp_path), 3)) == written
    assert written.drops == [DROP]
    note, facts = read_shard(shard_uri(str(tmp_path), 3)) or (None, None)
    assert note == written
    assert facts is not None
    assert facts.equals(shard_table(3, encoded).select(SAMPLES.names), check_metadata=True)
    assert facts["sample_id"].to_pylist() == [task.sample_id for task in tasks(70)]
    last = facts.to_pylist()[-1]
    assert (last["shard"], last["row"], last["n_text"], last["caption"]) == (3, 69, 3, "clip 69")
    assert [last[f"latent_{axis}"] for axis in ("frames", "height", "width")] == [2, 4, 6]
    assert read_note(shard_uri(str(tmp_path), 4)) is None
    assert read_shard(shard_uri(str(tmp_path), 4)) is None


def make_old(uri: str) -> None:
    """Writes a shard anew as it was when its samples' facts were JSON in the footer."""
    note, facts = read_shard(uri) or (None, None)
    assert note is not None
    assert facts is not None
    about = {"key": note.key, "text_dim": note.text_dim, "samples": facts.to_pylist()}
    about |= {"drops": [asdict(drop) for drop in note.drops], "moments": asdict(note.moments)}
    content = json.dumps(about).encode()
    digest = hashlib.blake2b(content, digest_size=16).hexdigest().encode()
    columns = ["sample_id", "clip_id", "latent", "latent_shape", "text", "n_text", "caption"]
    table = storage.read_table(uri, columns).select(columns)
    table = table.replace_schema_metadata({"vitascope": content, "vitascope.blake2b": digest})
    storage.delete(uri)
    pq.write_table(table, uri, row_group_size=32, write_page_checksum=True)


def test_a_shard_with_its_facts_in_the_footer_is_read(tmp_path: Path) -> None:
    values = [(torch.randn(2, 4, 6, 5), torch.randn(i % 4, DIM)) for i in range(40)]
    encoded = [Encoded(task, *value, 30.1) for task, value in zip(tasks(40), values, strict=True)]
    write(str(tmp_path), 3, encoded)
    facts = shard_table(3, encoded).select(SAMPLES.names)
    make_old(shard_uri(str(tmp_path), 3))
    uri = shard_uri(str(tmp_path), 3)
    note, read = read_shard(uri) or (None, None)
    assert note is not None
    assert note == read_note(uri)
    assert read is not None
    assert (note.key, note.n_samples, note.drops, note.moments) == ("key", 40, [DROP], SOME)
    assert read.equals(facts)
    for row in (0, 39):
        (sample,) = read_samples(str(tmp_path), [(3, row)])
        assert torch.equal(sample.latent, values[row][0].bfloat16())
        assert torch.equal(sample.text, values[row][1].bfloat16())
    indexed = [Indexed(**{name: row[name] for name in Indexed._fields}) for row in facts.to_pylist()]
    assert check_shard(uri, indexed) is None
    assert check_shard(uri, [indexed[7]._replace(digest=1)]) == "row 7 holds other bytes than were written"


def test_a_shard_of_failures_only_is_still_a_shard(tmp_path: Path) -> None:
    written = write(str(tmp_path), 0, [])
    assert read_note(shard_uri(str(tmp_path), 0)) == written
    assert read_shard(shard_uri(str(tmp_path), 0)) == (written, SAMPLES.empty_table())


def test_a_note_that_is_longer_than_what_is_read_first_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, 2)
    monkeypatch.setattr(shards_module, "_TAIL_BYTES", 100)
    note = read_note(shard_uri(str(tmp_path), 3))
    assert note is not None
    written, facts = read_shard(shard_uri(str(tmp_path), 3)) or (None, None)
    assert note == written
    assert note.n_samples == 2
    assert note.facts_hash == facts_hash(facts)


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
    with pytest.raises(
        DamagedShard, match=rf"{path} is damaged \(.*verify --forget first; then encode again"
    ):
        read_note(str(path))
    assert read_notes(str(tmp_path), [3, 4], damaged_is_absent=True) == [None, None]


def test_no_flip_in_a_footer_changes_a_note_unseen(tmp_path: Path) -> None:
    put(tmp_path, 2)
    path = Path(shard_uri(str(tmp_path), 3))
    good, written = path.read_bytes(), read_shard(str(path))
    assert written is not None
    n_damaged = 0
    for at in range(len(good) - int.from_bytes(good[-8:-4], "little") - 8, len(good), 5):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        try:
            assert read_shard(str(path)) == written
            assert read_note(str(path)) == written[0]
        except DamagedShard:
            n_damaged += 1
    assert n_damaged > 100


@pytest.mark.parametrize("error", [PermissionError, storage.Unavailable])
def test_a_shard_that_cannot_be_reached_is_neither_damaged_nor_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def refuse(uri: str) -> None:
        raise error(uri)

    put(tmp_path, 2)
    monkeypatch.setattr(storage, "open_file", refuse)
    monkeypatch.setattr(storage, "arrow_filesystem", refuse)
    for read in (read_note, read_shard):
        with pytest.raises(error):
            read(shard_uri(str(tmp_path), 3), damaged_is_absent=True)


def test_a_row_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, 2)
    with pytest.raises(ValueError, match="2 rows, asked for row 2"):
        read_samples(str(tmp_path), [(3, 2)])

"""Damaged shards are found, named, and made again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from vitascope import storage
from vitascope.cli import main
from vitascope.config import Settings, load, to_toml
from vitascope.encode import stage
from vitascope.encode.fingerprint import latents_folder
from vitascope.encode.shards import read_note, read_samples, shard_uri, write_shard
from vitascope.encode.verify import Indexed, check_shard, verify
from vitascope.records import LATENTS


@pytest.fixture
def encoded(
    tmp_path: Path,
    media: Any,
    clip_row: Callable[..., Any],
    put_clips: Any,
    ray_cluster: None,  # noqa: ARG001
) -> Settings:
    """Six shards of real clips."""
    small = ["encode.max_pixels=8192", "encode.shard_tokens=100", "encode.frame_counts=[1, 9]"]
    settings = load(None, [*small, f'run.folder="{tmp_path}/run"'])
    rows = [clip_row(media.bikes, start_s=float(i), width=640, height=272) for i in range(8)]
    put_clips(settings.run.folder, rows)
    stage.run(settings)
    return settings


def index_of(settings: Settings) -> list[dict[str, Any]]:
    return storage.rows(storage.join(latents_folder(settings), "index.parquet"))


def flip(path: str, at: int) -> None:
    content = bytearray(Path(path).read_bytes())
    content[at] ^= 0x10
    Path(path).write_bytes(content)


def test_shards_as_they_were_written_are_whole(encoded: Settings) -> None:
    verdict = verify(encoded)
    assert verdict.problems == {}
    assert verdict.shards > 4
    assert verdict.samples == 8


def test_every_kind_of_damage_is_found_and_named(encoded: Settings) -> None:
    folder = latents_folder(encoded)
    samples = {row["shard"]: row for row in index_of(encoded) if row["row"] == 0}
    assert len(samples) > 5
    Path(shard_uri(folder, 0)).unlink()
    flip(shard_uri(folder, 1), 300)  # within a latent's page
    content = Path(shard_uri(folder, 2)).read_bytes()
    Path(shard_uri(folder, 2)).write_bytes(content[: len(content) // 2])
    Path(shard_uri(folder, 3)).write_bytes(Path(shard_uri(folder, 4)).read_bytes())
    rows = storage.rows(shard_uri(folder, 5))
    note = read_note(shard_uri(folder, 5))
    assert note is not None
    rows[0]["latent"] = rows[0]["latent"][:-2] + b"\x01\x02"  # written whole, but by somebody else
    table = pa.Table.from_pylist(rows, schema=LATENTS)
    assert not write_shard(shard_uri(folder, 5), table, note), "what is there is not replaced"
    storage.delete(shard_uri(folder, 5))
    write_shard(shard_uri(folder, 5), table, note)
    table = storage.read_table(shard_uri(folder, 4))
    metadata = {key: said.replace(b'"n": ', b'"n": 1') for key, said in table.schema.metadata.items()}
    storage.put_table(shard_uri(folder, 4), table.replace_schema_metadata(metadata))
    problems = verify(encoded).problems
    assert set(problems) == {0, 1, 2, 3, 4, 5}
    assert problems[0] == "is not there"
    assert "cannot be read" in problems[1]
    assert "cannot be read" in problems[2]
    assert problems[3].startswith(f"row 0 is sample {samples[4]['sample_id']}")
    assert problems[4].startswith("cannot be read (")
    assert problems[5] == "row 0 holds other bytes than were written"
    with pytest.raises(OSError, match=r"is damaged .*; run vitascope shards verify"):
        read_samples(folder, [(1, 0)])


def test_damaged_shards_are_forgotten_and_made_again(encoded: Settings, capsys: Any, tmp_path: Path) -> None:
    before = index_of(encoded)
    folder = latents_folder(encoded)
    latents = {row["sample_id"]: row["digest"] for row in before}
    toml = tmp_path / "settings.toml"
    toml.write_text(to_toml(encoded))
    last = max(row["shard"] for row in before)  # its number is given anew
    flip(shard_uri(folder, 1), 300)
    flip(shard_uri(folder, last), 300)
    assert main(["shards", "verify", str(toml)]) == 1
    assert "shard 1 cannot be read" in capsys.readouterr().out
    assert main(["shards", "verify", str(toml), "--forget"]) == 1
    assert "leave the index" not in (out := capsys.readouterr().out)
    assert "out of the index" in out
    assert {row["shard"] for row in index_of(encoded)} == {row["shard"] for row in before} - {1, last}
    assert main(["shards", "verify", str(toml)]) == 0
    stage.run(encoded)
    assert {row["sample_id"]: row["digest"] for row in index_of(encoded)} == latents
    assert verify(encoded).problems == {}


def test_a_shard_that_may_not_be_read_is_not_taken_for_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(uri: str) -> None:
        raise PermissionError(uri)

    monkeypatch.setattr(storage, "arrow_filesystem", refuse)
    with pytest.raises(PermissionError):
        check_shard("shard-000000.parquet", [Indexed(0, 1, 4, 1, 1, 8, 12)])

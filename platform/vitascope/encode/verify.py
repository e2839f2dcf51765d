"""Check latent shards against their index."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from vitascope import storage
from vitascope.cluster.local import connect
from vitascope.cluster.placement import place
from vitascope.config import Settings
from vitascope.encode.fingerprint import latents_folder
from vitascope.encode.shards import (
    DamagedShard,
    ShardFile,
    digest,
    read_index,
    read_note,
    shard_uri,
    write_index,
)
from vitascope.progress import track
from vitascope.records import LATENTS

_CHECKED = ("sample_id", "row", "n_text", "digest", "latent_frames", "latent_height", "latent_width")


@dataclass(frozen=True)
class Verdict:
    """What became of a check: the shards looked at, their samples, and by shard what is wrong with it."""

    shards: int
    samples: int
    problems: dict[int, str]


def verify(settings: Settings) -> Verdict:
    """Reads every byte of every shard that the run's index names, on Ray.

    Raises:
        Missing: nothing is committed.
    """
    latents = latents_folder(settings)
    index = read_index(latents, [*_CHECKED, "shard"])
    connect(settings.cluster)
    by_shard: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for sample in index.to_pylist():
        by_shard[sample.pop("shard")].append(sample)
    work = [{"shard": shard, "samples": samples} for shard, samples in sorted(by_shard.items())]
    problems = {}
    with track(len(work), "verify") as advance:
        for row in _on_ray(work, latents, settings):
            if row["problem"]:
                problems[row["shard"]] = row["problem"]
            advance(1, note=f"{len(problems)} damaged" if problems else "")
    return Verdict(len(work), len(index), dict(sorted(problems.items())))


def forget(settings: Settings, shards: Sequence[int]) -> int:
    """Takes shards out of the index and away, so that encode makes their samples again; gives how many."""
    latents = latents_folder(settings)
    index = read_index(latents)
    stay = index.filter(pc.invert(pc.is_in(index["shard"], pa.array(shards, pa.int32()))))
    for shard in shards:
        storage.delete(shard_uri(latents, shard))
    write_index(latents, stay)
    return len(index) - len(stay)


def check_shard(uri: str, samples: Sequence[dict[str, Any]]) -> str | None:
    """What is wrong with a shard of which an index names `samples`; None if nothing is."""
    try:
        read_note(uri)
        file = ShardFile(uri)
        if not file.schema.equals(LATENTS):
            return f"is no latent shard, its columns are {', '.join(file.schema.names)}"
        wanted = {sample["row"]: sample for sample in samples}
        n_rows = int(file.starts[-1])
        if max(wanted) >= n_rows:
            return f"has {n_rows} rows, the index names row {max(wanted)}"
        return _first_wrong(file, wanted)
    except FileNotFoundError:
        return "is not there"
    except PermissionError:
        raise  # a shard that may not be read may be whole, and is not to be forgotten
    except DamagedShard as error:
        return f"cannot be read ({error.__cause__})"
    except (pa.ArrowException, OSError) as error:
        return f"cannot be read ({error})"


def _first_wrong(file: ShardFile, wanted: dict[int, dict[str, Any]]) -> str | None:
    for group, start in enumerate(file.starts[:-1]):
        for row, stored in enumerate(file.read(group).to_pylist(), start):
            sample = wanted.get(row)
            if sample and (wrong := _wrong(stored, sample)):
                return f"row {row} {wrong}"
    return None


def _wrong(stored: dict[str, Any], sample: dict[str, Any]) -> str | None:
    if stored["sample_id"] != sample["sample_id"]:
        return f"is sample {stored['sample_id']}, the index has {sample['sample_id']}"
    shape = [sample["latent_frames"], sample["latent_height"], sample["latent_width"]]
    if stored["latent_shape"][:3] != shape or stored["n_text"] != sample["n_text"]:
        got = f"{stored['latent_shape']} and {stored['n_text']} text tokens"
        return f"has a latent of {got}, the index {shape} and {sample['n_text']}"
    return None if digest(stored) == sample["digest"] else "holds other bytes than were written"


def _on_ray(work: list[dict[str, Any]], latents: str, settings: Settings) -> Any:
    if work:
        rows = ray.data.from_items(work, override_num_blocks=len(work))
        check = place(rows, settings, "encode").map(_checked, fn_kwargs={"latents": latents}, num_cpus=1)
        yield from check.iter_rows()


def _checked(row: dict[str, Any], *, latents: str) -> dict[str, Any]:
    shard = int(row["shard"])
    return {"shard": shard, "problem": check_shard(shard_uri(latents, shard), list(row["samples"]))}

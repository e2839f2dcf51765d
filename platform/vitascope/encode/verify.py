"""Check latent shards against their index."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from vitascope import storage
from vitascope.cluster.local import connect
from vitascope.cluster.placement import place
from vitascope.config import Settings
from vitascope.encode.fingerprint import latents_folder
from vitascope.encode.samples import StoredSample
from vitascope.encode.shards import DamagedShard, ShardFile, read_index, read_shard, shard_uri, write_index
from vitascope.progress import track


class Indexed(NamedTuple):
    """A sample in the index; the fields are columns of records.SAMPLES."""

    row: int
    sample_id: int
    n_text: int
    digest: int
    latent_frames: int
    latent_height: int
    latent_width: int


@dataclass(frozen=True)
class Verdict:
    """The outcome of a check: how many shards and samples it read, and what is wrong, by shard."""

    shards: int
    samples: int
    problems: dict[int, str]


def verify(settings: Settings) -> Verdict:
    """Reads every byte of every shard that the run's index names, on Ray.

    Raises:
        Missing: nothing is committed.
    """
    latents = latents_folder(settings)
    index = read_index(latents, [*Indexed._fields, "shard"])
    connect(settings.cluster)
    firsts = np.unique(index["shard"].to_numpy(), return_index=True)[1]
    parts = [index.slice(begin, end - begin) for begin, end in pairwise([*firsts.tolist(), len(index)])]
    problems = {}
    with track(len(parts), "verify") as advance:
        for row in _on_ray(parts, latents, settings) if parts else ():
            if row["problem"]:
                problems[row["shard"]] = row["problem"]
            advance(1, note=f"{len(problems)} damaged" if problems else "")
    return Verdict(len(parts), len(index), dict(sorted(problems.items())))


def forget(settings: Settings, shards: Sequence[int]) -> int:
    """Deletes shards and their rows of the index, so that encode makes them again; returns how many rows."""
    latents = latents_folder(settings)
    index = read_index(latents)
    stay = index.filter(pc.invert(pc.is_in(index["shard"], pa.array(shards, pa.int32()))))
    for shard in shards:
        storage.delete(shard_uri(latents, shard))
    write_index(latents, stay)
    return len(index) - len(stay)


def check_shard(uri: str, samples: Sequence[Indexed]) -> str | None:
    """What is wrong with a shard whose rows the index has as `samples`; None if nothing is."""
    try:
        read_shard(uri)
        file = ShardFile(uri)
        if not set(StoredSample._fields) <= set(file.schema.names):
            return f"is no latent shard, its columns are {', '.join(file.schema.names)}"
        wanted = {sample.row: sample for sample in samples}
        n_rows = int(file.starts[-1])
        if max(wanted) >= n_rows:
            return f"has {n_rows} rows, the index names row {max(wanted)}"
        return _first_wrong(file, wanted)
    except FileNotFoundError:
        return "is not there"
    except PermissionError:
        raise  # an unreadable shard may be whole: it must not be forgotten
    except DamagedShard as error:
        return f"cannot be read ({error.__cause__})"
    except (pa.ArrowException, OSError) as error:
        return f"cannot be read ({error})"


def _first_wrong(file: ShardFile, wanted: dict[int, Indexed]) -> str | None:
    for group, start in enumerate(file.starts[:-1]):
        for row, stored in enumerate(file.read(group).to_pylist(), start):
            sample = wanted.get(row)
            if sample and (wrong := _wrong(StoredSample(**stored), sample)):
                return f"row {row} {wrong}"
    return None


def _wrong(stored: StoredSample, sample: Indexed) -> str | None:
    if stored.sample_id != sample.sample_id:
        return f"is sample {stored.sample_id}, the index has {sample.sample_id}"
    shape = [sample.latent_frames, sample.latent_height, sample.latent_width]
    if stored.latent_shape[:3] != shape or stored.n_text != sample.n_text:
        got = f"{stored.latent_shape} and {stored.n_text} text tokens"
        return f"has a latent of {got}, the index {shape} and {sample.n_text}"
    return None if stored.digest == sample.digest else "holds other bytes than were written"


def _on_ray(parts: list[pa.Table], latents: str, settings: Settings) -> Iterator[dict[str, Any]]:
    rows = place(ray.data.from_arrow(parts), settings, "encode")
    given = {"batch_size": None, "batch_format": "pyarrow", "fn_kwargs": {"latents": latents}}
    return rows.map_batches(_checked, num_cpus=1, **given).iter_rows()


def _checked(part: pa.Table, *, latents: str) -> pa.Table:
    """What is wrong with the shard that `part` of the index is about."""
    shard = part["shard"][0].as_py()
    samples = [Indexed(**row) for row in part.select(Indexed._fields).to_pylist()]
    problem = check_shard(shard_uri(latents, shard), samples)
    return pa.table({"shard": [shard], "problem": pa.array([problem], pa.string())})

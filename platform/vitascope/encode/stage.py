"""Encode clips into latent shards, with Ray Data."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from vitascope import storage
from vitascope.clips.table import clip_rows
from vitascope.cluster.local import address_of, check_room, connect
from vitascope.cluster.placement import node_labels, place
from vitascope.config import Settings
from vitascope.encode import notes_on
from vitascope.encode.buckets import Limits
from vitascope.encode.captions import find_stored, forget_waiting, plan_captions
from vitascope.encode.codecs import make_codec
from vitascope.encode.encoder import CaptionEncoder, ShardEncoder, encode_captions, encode_shard
from vitascope.encode.fingerprint import latents_folder
from vitascope.encode.frames import decode_shard
from vitascope.encode.plan import Drop, EncodeTask, PlannedShard, make_tasks, plan_shards, still_to_do
from vitascope.encode.samples import Moments
from vitascope.encode.shards import (
    INDEX,
    NO_CAPTION,
    ShardNote,
    of_each,
    read_index,
    read_notes,
    read_shard,
    shard_numbers,
    shard_uri,
    write_index,
)
from vitascope.encode.text import make_text_encoder
from vitascope.errors import Failed, Mistake
from vitascope.ledger import dropped_by_reason
from vitascope.progress import say, say_dropped, say_notes, track
from vitascope.records import DROPS, SAMPLES
from vitascope.stages.registry import Summary
from vitascope.stages.running import items, running
from vitascope.wording import count

DROPS_FILE = "drops.parquet"


def run(settings: Settings) -> Summary:
    """Encodes the run's clips that have no committed sample, commits the index, returns the summary.

    If it is killed, it leaves no index, or the previous one; the next run takes over the finished shards.
    Once it has ended, the next run retries clips that failed to decode.
    """
    with running(settings, "encode") as summary:
        summary |= _encoded(settings)
    return summary


def _encoded(settings: Settings) -> Summary:
    if settings.feed.latents:
        raise Mistake(
            f"feed.latents = {settings.feed.latents} names another run's latents, and this run encodes none; "
            "run vitascope train, or leave it out"
        )
    connect(settings.cluster)
    latents = latents_folder(settings)
    tasks, drops = make_tasks(clip_rows(settings), settings.encode, Limits.of(settings))
    visible = storage.exists(storage.join(latents, INDEX))
    committed = read_index(latents) if visible else SAMPLES.empty_table()
    # What is visible is never rewritten, nor what was so once: thresholds come and go.
    earlier = _notes_so_far(latents, committed) if visible else []
    once_visible = _not_named(latents, committed, earlier)
    so_far = pa.concat_tables([committed, *once_visible])
    todo, samples = still_to_do(tasks, so_far)
    notes, new = _encode(settings, todo, so_far, first_shard=len(earlier))
    # Shards taken over from a run that was killed may have been planned from an older clip table.
    samples = pa.concat_tables([samples, still_to_do(todo, new)[1]])
    drops += [drop for note in notes for drop in note.drops]
    _commit(settings, storage.in_order(samples, "shard", "row"), drops, [*earlier, *notes])
    forget_waiting(latents)
    for number, note in enumerate(notes, len(earlier)):
        if not note.n_samples:  # it holds nothing: what failed is a drop, and the next run retries it
            storage.delete(shard_uri(latents, number))
    spans = storage.read_table(settings.path("clips"), ["clip_id", "n_frames", "fps"])
    notes_said = [
        *notes_on.shortened(samples, spans),
        *notes_on.captions_cut(samples, settings.encode, make_text_encoder(settings.encode)),
    ]
    summary = summarise(samples, drops) | {
        "notes": notes_said,
        "fingerprint": latents.rpartition("/")[2],
    }
    left = f"{count(len(samples), 'sample')}, {len(drops):,} dropped"
    say_dropped("encode", left, summary["dropped_by_reason"])
    say_notes("encode", notes_said)
    return summary


def _encode(
    settings: Settings, todo: list[EncodeTask], so_far: pa.Table, *, first_shard: int
) -> tuple[list[ShardNote], pa.Table]:
    """Writes the shards of `todo` that are missing or damaged; gives the notes and records.SAMPLES of all.

    so_far: records.SAMPLES of the other shards in the folder.
    """
    latents = latents_folder(settings)
    shards = plan_shards(todo, settings.encode.shard_tokens)
    plan = [PlannedShard(number, tasks) for number, tasks in enumerate(shards, first_shard)]
    keys = {shard.number: shard.key for shard in plan}
    written = sorted(keys.keys() & set(shard_numbers(latents)))  # by a first run that was killed
    shards_there = zip(written, of_each(latents, written, _whole), strict=True)
    facts = {number: shard[1] for number, shard in shards_there if shard and shard[0].key == keys[number]}
    # Damaged, or planned otherwise; no index names them.
    of_each(latents, [number for number in written if number not in facts], storage.delete)
    missing = [shard for shard in plan if shard.number not in facts]
    there_already = len(todo) - sum(len(shard.tasks) for shard in missing)
    missing = _with_captions(settings, missing, pa.concat_tables([so_far, *facts.values()]))
    with items(settings, "encode", len(todo), done=there_already, note_drops=True) as count_items:
        for done in _execute(settings, latents, missing):
            facts[done["shard"]] = storage.read_stream(done["facts"])
            count_items([None] * done["samples"] + list(done["drops"]))
    of_all = [note for note in read_notes(latents, list(keys)) if note is not None]
    if [note.key for note in of_all] != list(keys.values()):
        raise Failed(
            f"shards in {latents} are not those just written: they were deleted, or another run wrote its "
            "own; let one run of vitascope encode at a time write into the folder, and run this one again"
        )
    return of_all, pa.concat_tables([SAMPLES.empty_table(), *(facts[number] for number in keys)])


def _with_captions(settings: Settings, plan: list[PlannedShard], so_far: pa.Table) -> list[PlannedShard]:
    """Encodes the captions that several shards of `plan` need, and gives the shards that know of them."""
    if not plan:
        return plan
    latents = latents_folder(settings)
    _check_room(settings, plan)
    plan, first = plan_captions(plan, latents, find_stored(latents, settings.encode, so_far, plan))
    if first:
        with track(len(first), "captions") as advance:
            for done in _execute_captions(settings, latents, first):
                advance(done["done"])
    return plan


def _execute_captions(settings: Settings, latents: str, captions: list[str]) -> Iterator[dict[str, Any]]:
    """Commits the states of captions on Ray; yields the numbers of those done."""
    rows = [{"captions": captions[i : i + _CAPTIONS]} for i in range(0, len(captions), _CAPTIONS)]
    dataset = place(ray.data.from_items(rows, override_num_blocks=len(rows)), settings, "encode")
    how = _on_encoders(settings, latents, len(rows), function=encode_captions, actor=CaptionEncoder)
    yield from dataset.map_batches(**how).iter_rows()


_CAPTIONS = 256  # of a task: as many as are worth loading an encoder for


def _on_encoders(
    settings: Settings, latents: str, n: int, *, function: Callable[..., pa.Table], actor: type
) -> dict[str, Any]:
    """Arguments of `map_batches` for work of the codec and the text encoder on `n` rows."""
    gpus = settings.encode.gpus
    at_once, given = _at_once(settings, n), {"settings": settings.encode, "latents": latents}
    what: dict[str, Any] = {"fn": function, "fn_kwargs": given, "compute": TaskPoolStrategy(size=at_once)}
    if gpus:  # on CPUs, actors would leave none to decode again what a lost node had decoded
        actors = ActorPoolStrategy(min_size=1, max_size=at_once)
        what = {"fn": actor, "fn_constructor_kwargs": given, "compute": actors}
    return what | {
        "batch_size": 1,
        "batch_format": "pyarrow",
        "num_cpus": 1,
        "num_gpus": gpus or None,
        "label_selector": node_labels(settings, "train") if gpus else None,
        "memory": _own_bytes(settings) or None,
    }


def _own_bytes(settings: Settings) -> int:
    """Of an encoder process on a CPU, for weights that it shares with no other."""
    return 0 if settings.encode.gpus else make_text_encoder(settings.encode).own_bytes


def _check_room(settings: Settings, plan: list[PlannedShard]) -> None:
    """Refuses what would wait for ever; says which weights an encoder process holds for itself."""
    needs = {"cpus": 2, "gpus": settings.encode.gpus + settings.encode.nvdec_gpus}
    memory = _decoder_memory(plan)
    check_room(settings.cluster, "decoding and encoding (encode.shard_tokens)", node_bytes=memory, **needs)
    if own := _own_bytes(settings):
        check_room(settings.cluster, "a text encoder (encode.text_precision)", node_bytes=own, **needs)
        say(
            "encode",
            f"note: each encoder process holds {own / 2**30:.1f} GiB of the text encoder for itself, because "
            f"encode.text_precision = {settings.encode.text_precision} is not the file's; in the file's they "
            "would share one, and with encode.gpus they hold none; as many run at once as have the memory",
        )


def _execute(settings: Settings, latents: str, plan: list[PlannedShard]) -> Iterator[dict[str, Any]]:
    """Writes shards on Ray; yields what `ShardEncoder` says of each as it is committed."""
    if not plan:
        return
    # Two operators and not one: decoding needs processors, and the codec's machines have few.
    how = _on_encoders(settings, latents, len(plan), function=encode_shard, actor=ShardEncoder)
    yield from decoded(plan, settings).map_batches(**how).iter_rows()


def decoded(plan: list[PlannedShard], settings: Settings) -> ray.data.Dataset:
    """Shards with their clips' frames, as `decode_shard` gives them."""
    nvdec_gpus = settings.encode.nvdec_gpus
    rows = ray.data.from_items([shard.as_row() for shard in plan], override_num_blocks=len(plan))
    return place(rows, settings, "encode").map_batches(
        decode_shard,
        batch_size=1,
        batch_format="pyarrow",
        fn_kwargs={"timeout_s": settings.clips.decode_timeout_s, "nvdec": bool(nvdec_gpus)},
        # One more than cores, because a task waits for Ray between two shards.
        compute=TaskPoolStrategy(size=_at_once(settings, len(plan), spare=1)),
        num_cpus=1,
        num_gpus=nvdec_gpus or None,
        label_selector=node_labels(settings, "train") if nvdec_gpus else None,
        memory=_decoder_memory(plan),
    )


def _decoder_memory(plan: list[PlannedShard]) -> int:
    largest = max(shard.n_bytes for shard in plan)
    return _DECODER_BYTES + 2 * largest  # the frames, and their copy on the way to the object store


_DECODER_BYTES = 512 << 20  # a worker and its child, which holds one clip


def _at_once(settings: Settings, n_shards: int, spare: int = 0) -> int:
    """Half the slots of a local cluster, at most its cores and `spare`; else as many as the cluster gives."""
    if address_of(settings.cluster) is not None:
        return n_shards
    slots = int(ray.cluster_resources().get("CPU", 1))
    return min(n_shards, max(slots // 2, 1), (os.cpu_count() or 1) + spare)


def _notes_so_far(latents: str, committed: pa.Table) -> list[ShardNote | None]:
    """The notes of all shards by number, None for a damaged or missing one."""
    numbers = [*shard_numbers(latents), *pc.unique(committed["shard"]).to_pylist()]
    return read_notes(latents, range(max(numbers, default=-1) + 1), damaged_is_absent=True)


def _not_named(latents: str, committed: pa.Table, notes: Sequence[ShardNote | None]) -> list[pa.Table]:
    """records.SAMPLES of shards of which the index `committed` does not name every sample."""
    n_named = np.bincount(committed["shard"].to_numpy(), minlength=len(notes))
    numbers = [number for number, note in enumerate(notes) if note and note.n_samples > n_named[number]]
    return [shard[1] for shard in of_each(latents, numbers, _whole) if shard]


_whole = partial(read_shard, damaged_is_absent=True)


def _commit(
    settings: Settings, samples: pa.Table, drops: list[Drop], notes: Sequence[ShardNote | None]
) -> None:
    """Writes what describes the latents and, last, the index, which makes them visible."""
    latents = latents_folder(settings)
    codec = make_codec(settings.encode)
    shards = {number: notes[number] for number in pc.unique(samples["shard"]).to_pylist()}
    lost = [number for number, note in shards.items() if note is None]
    if lost:
        raise Mistake(
            f"shards {lost} of {latents} are damaged or not there, and the index names them; run vitascope "
            "shards verify --forget, and encode again"
        )
    moments = sum((note.moments for note in shards.values() if note), start=Moments.none(codec.channels))
    mean, std = moments.mean_and_std()
    facts = {
        "encode": settings.encode.model_dump(mode="json"),
        "patch": settings.model.patch,
        "channels": codec.channels,
        "channel_mean": mean,
        "channel_std": std,
        "text_dim": make_text_encoder(settings.encode).dim,
        "text_fingerprint": make_text_encoder(settings.encode).fingerprint,
        "no_caption": storage.exists(storage.join(latents, NO_CAPTION)),
        "fingerprint": latents.rpartition("/")[2],
    }
    storage.put_table(
        storage.join(latents, DROPS_FILE),
        pa.Table.from_pylist([asdict(drop) for drop in drops], schema=DROPS),
    )
    storage.put_json(storage.join(latents, "encode.json"), facts)
    write_index(latents, samples)


def summarise(samples: pa.Table, drops: list[Drop]) -> Summary:
    """The stage's figures from records.SAMPLES and the drops."""
    splits = Counter(samples["split"].to_pylist())
    sizes = Counter(
        zip(*(samples[name].to_pylist() for name in ("n_frames", "height", "width")), strict=True)
    )
    psnr = samples["psnr_db"].to_numpy().astype(np.float64)
    return {
        "samples": len(samples),
        "samples_train": splits["train"],
        "samples_val": splits["val"],
        "sizes": [{"size": "x".join(map(str, size)), "samples": n} for size, n in sorted(sizes.items())],
        "codec_psnr_db": round(float(psnr.mean()), 2) if len(psnr) else None,
        "codec_psnr_db_min": round(float(psnr.min()), 2) if len(psnr) else None,
        "dropped_by_reason": dropped_by_reason(map(asdict, drops)),
    }

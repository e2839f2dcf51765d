"""The encode plan: every clip a task or a drop, shards of equal work, nothing done twice."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from vitascope.encode.buckets import Limits, Patching
from vitascope.encode.plan import EncodeTask, make_tasks, plan_shards, still_to_do
from vitascope.encode.settings import STRIDES, EncodeSettings
from vitascope.ledger import Reason
from vitascope.media.geometry import Crop
from vitascope.records import SAMPLES, VideoSize, dropped

PATCHING = Patching(STRIDES["dct"], patch=2)
LIMITS = Limits(PATCHING, token_budget=2000)
SETTINGS = EncodeSettings(max_pixels=256 * 256)


ClipRow = Callable[..., dict[str, Any]]


@pytest.fixture
def mixed_clips(clip_row: ClipRow) -> list[dict[str, Any]]:
    """300 clips of many sizes and lengths."""
    n = 300
    draw = np.random.default_rng(0)
    sizes = draw.integers(64, 800, (n, 2))
    counts = draw.integers(1, 20, n)
    return [
        clip_row(f"{i}.mp4", width=int(w), height=int(h), n_frames=int(f))
        for i, ((w, h), f) in enumerate(zip(sizes, counts, strict=True))
    ]


def tasks_of(clips: list[dict[str, Any]], budget: int = 10_000) -> list[EncodeTask]:
    return make_tasks(clips, SETTINGS, Limits(PATCHING, token_budget=budget))[0]


def test_every_clip_is_a_task_or_a_drop(mixed_clips: list[dict[str, Any]]) -> None:
    clips = mixed_clips[:200]
    tasks, drops = make_tasks(clips, SETTINGS, LIMITS)
    assert {task.clip_id for task in tasks} | {drop.clip_id for drop in drops} == {
        c["clip_id"] for c in clips
    }
    assert len(tasks) + len(drops) == len(clips)
    assert max(task.n_tokens for task in tasks) <= LIMITS.token_budget
    assert len({task.sample_id for task in tasks}) == len(tasks)


def test_too_many_tokens_is_a_drop_that_names_the_limit(clip_row: ClipRow) -> None:
    tasks, drops = make_tasks([clip_row("a.mp4", n_frames=17)], SETTINGS, Limits(PATCHING, token_budget=100))
    assert tasks == []
    assert Counter(drop.reason for drop in drops) == {"too_many_tokens": 1}
    assert "a pack holds 100" in drops[0].detail


def test_each_size_of_a_clip_is_a_sample_and_what_no_pack_holds_a_drop(clip_row: ClipRow) -> None:
    several = EncodeSettings(sizes_per_clip=3)
    tasks, drops = make_tasks([clip_row("a.mp4")], several, Limits(PATCHING, token_budget=2040))  # 640x272
    assert {str(task.size) for task in tasks} == {"9x272x640", "9x128x320", "9x64x144"}
    assert drops == []
    assert len({task.sample_id for task in tasks}) == 3
    tasks, drops = make_tasks([clip_row("a.mp4")], several, Limits(PATCHING, token_budget=600))
    assert {str(task.size) for task in tasks} == {"9x128x320", "9x64x144"}
    assert Counter(drop.reason for drop in drops) == {"too_many_tokens": 1}


def test_a_clip_cropped_otherwise_is_another_sample(clip_row: ClipRow) -> None:
    (whole,) = tasks_of([clip_row("a.mp4")])
    (part,) = tasks_of([clip_row("a.mp4", crop_top=0.125, crop_height=0.75)])
    assert whole.sample_id != part.sample_id
    assert part.view.crop == Crop(0.0, 0.125, 1.0, 0.75)


def test_fixed_buckets_are_checked_before_any_clip(clip_row: ClipRow) -> None:
    fixed = EncodeSettings(buckets=((9, 96, 224),))
    tasks, drops = make_tasks([clip_row("a.mp4"), clip_row("b.mp4", n_frames=5)], fixed, LIMITS)
    assert [task.size for task in tasks] == [VideoSize(9, 96, 224)]
    assert Counter(drop.reason for drop in drops) == {"no_bucket": 1}
    with pytest.raises(ValueError, match="a pack holds 100"):
        make_tasks([], fixed, Limits(PATCHING, token_budget=100))


def test_clips_dropped_before_are_passed_over(clip_row: ClipRow) -> None:
    bad = clip_row("bad.mp4", **dropped(Reason.DECODE_FAILED, "damaged"))
    assert make_tasks([bad], SETTINGS, LIMITS) == ([], [])


def test_a_clip_without_caption_has_an_empty_one(clip_row: ClipRow) -> None:
    assert tasks_of([clip_row("a.mp4", caption=None)])[0].caption == ""


def test_a_task_survives_the_plan_row(clip_row: ClipRow) -> None:
    task = tasks_of([clip_row("a.mp4")])[0]
    assert EncodeTask(**asdict(task)) == task


def test_shards_hold_every_task_once_in_equal_work(mixed_clips: list[dict[str, Any]]) -> None:
    tasks = tasks_of(mixed_clips)
    shards = plan_shards(tasks, shard_tokens=20_000)
    assert [task for shard in shards for task in shard] == tasks
    loads = [sum(task.n_tokens for task in shard) for shard in shards]
    assert len(shards) > 5
    assert max(loads) <= np.mean(loads) + max(task.n_tokens for task in tasks)
    assert np.mean(loads) <= 20_000


def test_shards_do_not_depend_on_the_order_of_the_clips(mixed_clips: list[dict[str, Any]]) -> None:
    clips = mixed_clips[:100]
    assert plan_shards(tasks_of(clips), 9_000) == plan_shards(tasks_of(clips[::-1]), 9_000)


def test_a_source_lies_in_few_shards_and_a_clip_in_one(clip_row: ClipRow) -> None:
    clips = [clip_row(f"{i}.mp4", start_s=2.0 * k, n_frames=9) for k in range(12) for i in range(20)]
    two = SETTINGS.model_copy(update={"sizes_per_clip": 2})
    tasks, _ = make_tasks(clips, two, Limits(PATCHING, token_budget=10_000))
    assert len(tasks) == 2 * len(clips)
    shards = plan_shards(tasks, shard_tokens=20_000)
    assert len(shards) > 5
    assert sum(len({task.uri for task in shard}) for shard in shards) <= 20 + len(shards) - 1
    assert sum(len({task.clip_id for task in shard}) for shard in shards) == len(clips)
    for shard in shards:
        order = [(task.uri, task.start_s) for task in shard]
        assert order == sorted(order)


def test_no_tasks_no_shards_and_no_shard_is_empty(clip_row: ClipRow) -> None:
    assert plan_shards([], 1000) == []
    one = tasks_of([clip_row("a.mp4")])
    assert plan_shards(one, 1) == [one]


def samples_of(tasks: list[EncodeTask]) -> pa.Table:
    names = ("sample_id", "caption", "name", "split")
    rows = [{name: getattr(task, name) for name in names} | {"row": i} for i, task in enumerate(tasks)]
    return pa.Table.from_pylist(rows, schema=SAMPLES)


def test_only_what_no_sample_answers_is_done(mixed_clips: list[dict[str, Any]]) -> None:
    tasks = tasks_of(mixed_clips[:30])
    samples = samples_of(tasks[9::-1])
    todo, kept = still_to_do(tasks, samples)
    assert todo == tasks[10:]
    assert kept.equals(samples)


def test_samples_of_clips_that_are_gone_or_have_a_new_caption_leave(clip_row: ClipRow) -> None:
    old = tasks_of([clip_row("a.mp4", caption="old"), clip_row("b.mp4"), clip_row("c.mp4")])
    now = tasks_of([clip_row("a.mp4", caption="new"), clip_row("b.mp4", split="val")])
    todo, kept = still_to_do(now, samples_of(old))
    assert [task.caption for task in todo] == ["new"]
    assert [(row["name"], row["split"]) for row in kept.to_pylist()] == [("b.mp4", "val")]
    assert kept.schema.equals(SAMPLES)


def test_of_a_new_and_an_old_caption_of_one_clip_the_new_one_stays(clip_row: ClipRow) -> None:
    old, now = (tasks_of([clip_row("a.mp4", caption=caption)]) for caption in ("old", "new"))
    todo, kept = still_to_do(now, samples_of([*old, *now, *now]))
    assert todo == []
    assert kept["row"].to_pylist() == [1]

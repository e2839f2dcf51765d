"""Ray Data hands every rank the packs of the plan, in order."""

import threading
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from synthetic import make_run
from vitascope.config import Settings
from vitascope.encode.fingerprint import latents_folder
from vitascope.feed.plan import Position
from vitascope.feed.source import Source, load_pack, planned
from vitascope.feed.stream import Feed
from vitascope.model.flow import Draws, Shift
from vitascope.model.networks import cost_of


def make_source(settings: Settings, split: str = "train") -> Source:
    return Source(
        latents=latents_folder(settings),
        split=split,
        patch=2,
        seed=5,
        token_budget=settings.feed.token_budget,
        packs_per_step=settings.feed.packs_per_step,
        window_samples=settings.feed.window_samples,
        cost=cost_of(settings.model, 8, 32).of,
        draws=Draws(5, 0.3, Shift(1.0)),
    )


def make_feed(source: Source, rank: int = 0, world_size: int = 1) -> Feed:
    return Feed(source, rank=rank, world_size=world_size, prefetch_packs=2)


@pytest.mark.usefixtures("ray_cluster")
def test_an_epoch_holds_every_sample_once_across_the_ranks(tmp_path: Path) -> None:
    source = make_source(make_run(str(tmp_path)))
    seen = []
    for rank in range(2):
        steps = [list(step.packs) for step in make_feed(source, rank, 2).epoch(0)]
        assert len({len(packs) for packs in steps}) == 1  # the same number of passes in every step
        seen += [int(i) for packs in steps for pack in packs for i in pack.sample_ids]
    assert sorted(i for i in seen if i >= 0) == [1000 + i for i in range(24) if i % 8 != 7]


@pytest.mark.usefixtures("ray_cluster")
def test_packs_are_the_planned_ones_in_order(tmp_path: Path) -> None:
    source = make_source(make_run(str(tmp_path)))
    feed = make_feed(source)
    (start, _) = list(islice(planned(source).planner.walk(), 4))[3]
    count = 0
    for step in feed.steps(start, 9):
        for number, pack in zip(feed._mine, step.packs, strict=True):
            wanted = load_pack(source, step.position, number)
            assert all(
                torch.equal(a, b)
                for a, b in zip(pack.tensors().values(), wanted.tensors().values(), strict=True)
            )
            count += 1
    assert count == 18


@pytest.mark.usefixtures("ray_cluster")
def test_the_rest_of_a_run_is_the_same_from_any_step(tmp_path: Path) -> None:
    feed = make_feed(make_source(make_run(str(tmp_path))))
    whole = [
        (step.after, [pack.sample_ids.tolist() for pack in step.packs]) for step in feed.steps(Position(), 8)
    ]
    rest = [
        (step.after, [pack.sample_ids.tolist() for pack in step.packs]) for step in feed.steps(whole[4][0], 3)
    ]
    assert rest == whole[5:]


@pytest.mark.usefixtures("ray_cluster")
def test_ranks_that_do_not_divide_the_packs_get_idle_ones(tmp_path: Path) -> None:
    source = make_source(make_run(str(tmp_path), ["feed.packs_per_step=4"]))
    feeds = [make_feed(source, rank, 3) for rank in range(3)]
    idle = 0
    for feed in feeds:
        packs = [pack for step in feed.epoch(0) for pack in step.packs]
        idle += sum(pack.sample_ids.tolist() == [-1] for pack in packs)
        assert len(packs) % 2 == 0
    assert idle >= 2


@pytest.mark.usefixtures("ray_cluster")
def test_what_fails_while_loading_is_raised_where_the_pack_is_taken(tmp_path: Path) -> None:
    settings = make_run(str(tmp_path))
    feed = make_feed(make_source(settings))
    for shard in Path(latents_folder(settings)).glob("shard-*.parquet"):
        shard.unlink()
    steps = feed.steps(Position(), 1)
    with pytest.raises(Exception, match="shard-00000"):
        next(next(steps).packs)


@pytest.mark.usefixtures("ray_cluster")
def test_leaving_early_ends_the_thread_that_loads_ahead(tmp_path: Path) -> None:
    feed = make_feed(make_source(make_run(str(tmp_path))))
    steps = feed.steps(Position(), 50)
    for step in islice(steps, 2):
        list(step.packs)
    assert "feed" in [thread.name for thread in threading.enumerate()]
    steps.close()
    assert "feed" not in [thread.name for thread in threading.enumerate()]


def test_captions_are_dropped_and_frames_noised_as_drawn(tmp_path: Path) -> None:
    source = make_source(make_run(str(tmp_path)))
    known = planned(source)
    position = Position()
    for number in range(2):
        pack = load_pack(source, position, number)
        for i, sample_id in enumerate(pack.sample_ids.tolist()):
            draw = source.draws(sample_id, 0, tuple(pack.grids[i].tolist()))
            assert (pack.text_lengths[i] == 0) == draw.drop_text
            assert np.array_equal(pack.timesteps[pack.segment_of_frame == i].numpy(), draw.timesteps)
    assert known.planner.step(position).tokens.max() <= source.token_budget


def test_the_index_takes_18_bytes_a_sample(tmp_path: Path) -> None:
    known = planned(make_source(make_run(str(tmp_path))))
    lengths = known.planner.lengths
    columns = [known.row, known.n_text, lengths.shard, lengths.tokens, lengths.costs]
    assert sum(column.itemsize for column in columns) == 18


def test_no_latents_say_what_to_run(tmp_path: Path) -> None:
    source = replace(make_source(make_run(str(tmp_path))), latents=str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="run `vitascope encode`"):
        planned(source)

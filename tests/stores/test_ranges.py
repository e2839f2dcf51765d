"""Only the needed ranges of a large file on S3 are fetched."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from encode.test_shards import tasks, write
from media.made import write_video
from vitascope import storage
from vitascope.encode.samples import Encoded
from vitascope.encode.shards import read_samples, read_shard, shard_uri
from vitascope.media.geometry import View
from vitascope.media.probe import _probe
from vitascope.media.readers import PyavReader

MIB = 1 << 20


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of 30 s, with a key frame every second."""
    random = np.random.default_rng(0)
    frames = [random.integers(0, 255, (240, 320, 3), np.uint8) for _ in range(300)]
    fast = {"preset": "ultrafast", "crf": "0"}
    path = write_video(tmp_path_factory.mktemp("large") / "a.mp4", frames, gop=10, options=fast)
    assert path.stat().st_size > 30 * MIB
    return path


def test_of_a_video_the_spans_of_its_clips(s3: str, large: Path, fetched: list[int]) -> None:
    uri, n_bytes = f"{s3}/a.mp4", large.stat().st_size
    storage.put(uri, large.read_bytes())
    reader = PyavReader(uri)
    opened = sum(fetched)
    assert opened < 12 * MIB
    for start_s in (20.0, 10.0):
        times_s = start_s + np.arange(10) / 10
        clip = [seen[0] for seen in reader.pictures(times_s, [View(10)]) if seen]
        local = [seen[0] for seen in PyavReader(str(large)).pictures(times_s, [View(10)]) if seen]
        np.testing.assert_array_equal(np.stack(clip), np.stack(local))
    assert sum(fetched) - opened < 2 * 8 * MIB
    fetched.clear()
    assert len(list(PyavReader(uri).pictures(np.arange(300) / 10, [View(300)]))) == 300
    assert sum(fetched) < 1.5 * n_bytes


def test_of_a_video_that_is_only_looked_at_its_ends(s3: str, large: Path, fetched: list[int]) -> None:
    storage.put(f"{s3}/a.mp4", large.read_bytes())
    assert replace(_probe(f"{s3}/a.mp4", False), decoder="decord") == _probe(str(large), True)
    assert sum(fetched) < 16 * MIB


def test_of_a_shard_the_row_groups_of_its_samples(s3: str, fetched: list[int]) -> None:
    latents = [torch.randn(4, 64, 64, 32) for _ in range(10)]  # 1 MiB each, and so a group
    write(
        s3, 0, [Encoded(task, x, torch.zeros(1, 6), 30.0) for task, x in zip(tasks(10), latents, strict=True)]
    )
    (sample,) = read_samples(s3, [(0, 7)])
    torch.testing.assert_close(sample.latent, latents[7].bfloat16())
    assert sum(fetched) < 1.5 * MIB
    assert len(fetched) <= 4
    fetched.clear()
    _, facts = read_shard(shard_uri(s3, 0)) or (None, [])
    assert len(facts) == 10
    assert sum(fetched) < 0.5 * MIB

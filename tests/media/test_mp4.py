"""Files exactly as asked for, read back by independent readers."""

import io
import struct
from pathlib import Path

import av
import decord
import numpy as np
import pytest
from PIL import Image

from media.made import read_clip
from vitascope.media import mp4
from vitascope.media.probe import probe


def picture(n_frames: int, height: int, width: int) -> np.ndarray:
    """Fields of strong colour, one of which moves."""
    frames = np.zeros((n_frames, height, width, 3), np.uint8)
    frames[..., 0] = 220
    frames[:, : height // 2, : width // 2] = (20, 200, 60)
    for i, frame in enumerate(frames):
        frame[height // 2 :, i * 2 : i * 2 + 20] = (30, 40, 230)
    return frames


@pytest.mark.parametrize("shape", [(2, 16, 16), (9, 48, 64), (12, 98, 66)])
@pytest.mark.parametrize("fps", [8, 24, 23.976, 12.5])
def test_an_mp4_has_exactly_the_size_frames_and_fps(tmp_path: Path, shape: tuple, fps: float) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(mp4.mp4_bytes(picture(*shape), fps))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.frames, stream.height, stream.width) == shape
        assert float(stream.average_rate) == pytest.approx(fps, abs=1e-9)
        assert float(stream.duration * stream.time_base) == pytest.approx(shape[0] / fps, abs=1e-3)
        assert len(list(container.decode(stream))) == shape[0]


def test_it_looks_like_the_frames_to_either_reader(tmp_path: Path) -> None:
    frames, path = picture(9, 96, 128), tmp_path / "a.mp4"
    path.write_bytes(mp4.mp4_bytes(frames, 8))
    with av.open(str(path)) as container:
        by_av = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    by_decord = decord.VideoReader(str(path)).get_batch(range(9)).asnumpy()
    for read in (by_av, by_decord):
        assert np.abs(read.astype(int) - frames).mean() < 4  # of 255: colours are halved in size


FLAT = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "greys": (16, 16, 16),
    "grey": (128, 128, 128),
    "light grey": (235, 235, 235),
    "skin": (224, 172, 105),
    "dark skin": (141, 85, 36),
    "leaf": (40, 180, 40),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
}


@pytest.mark.parametrize("colour", FLAT.values(), ids=FLAT)
@pytest.mark.parametrize("height", [48, 720])  # untagged, the one would be taken for BT.601
def test_flat_colours_come_back_within_two_levels(tmp_path: Path, colour: tuple, height: int) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(mp4.mp4_bytes(np.full((2, height, 64, 3), colour, np.uint8), 8))
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    by_tags = frame.reformat(format="rgb24").to_ndarray()
    ours = read_clip(str(path), start_s=0, fps=8, n_frames=1, decoder=probe(str(path)).decoder)[0]
    for read in (by_tags, ours):
        assert np.abs(read.astype(int) - colour).max() <= 2
    # The definition, ITU-R BT.709 table 3, in limited range; without a library's conversion.
    red, green, blue = np.array(colour) / 255
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    expected = 16 + 219 * luma, 128 + 224 * (blue - luma) / 1.8556, 128 + 224 * (red - luma) / 1.5748
    planes = [np.asarray(plane)[0] for plane in frame.planes]
    assert np.abs(np.array(planes, float) - expected).max() <= 1.5


@pytest.mark.parametrize("encoder", ["libx264", "mpeg4"])
def test_stream_and_container_say_bt709(monkeypatch: pytest.MonkeyPatch, encoder: str) -> None:
    monkeypatch.setattr(av, "codecs_available", {encoder})
    content = mp4.mp4_bytes(picture(3, 48, 64), 8)
    box = content[content.index(b"colr") :]
    assert box[4:8] == b"nclx"
    assert struct.unpack(">HHH", box[8:14]) == (1, 1, 1)  # primaries, transfer, matrix: ITU-T H.273
    assert box[14] == 0  # limited range
    if encoder == "libx264":
        # In the stream too: the same without the container's box.
        bare = content.replace(b"colr", b"free")
        with av.open(io.BytesIO(bare)) as container:
            frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range) == (1, 1)
        assert (frame.color_primaries, frame.color_trc) == (1, 1)


def test_it_plays_while_it_loads_and_repeats_to_the_byte() -> None:
    content = mp4.mp4_bytes(picture(9, 48, 64), 8)
    assert content.index(b"moov") < content.index(b"mdat")
    # Often, because x264 has settings that make the same bytes only nearly always.
    assert {mp4.mp4_bytes(picture(9, 48, 64), 8) for _ in range(40)} == {content}


def test_it_is_h264_where_there_is_an_encoder_and_else_still_a_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mp4.encoder() == ("libx264" if "libx264" in av.codecs_available else "mpeg4")
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    path = tmp_path / "a.mp4"
    path.write_bytes(mp4.mp4_bytes(picture(9, 48, 64), 8))
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
        assert len(list(container.decode(video=0))) == 9


def test_one_frame_becomes_a_lossless_png_and_more_a_video(tmp_path: Path) -> None:
    frames = picture(1, 33, 47)
    path = mp4.write_media(tmp_path / "a.b", frames, 8)
    assert path == tmp_path / "a.b.png"
    assert np.array_equal(np.asarray(Image.open(path)), frames[0])
    video = mp4.write_media(tmp_path / "a.b", picture(2, 32, 48), 8)
    assert video == tmp_path / "a.b.mp4"
    assert video.read_bytes() == mp4.mp4_bytes(picture(2, 32, 48), 8)


@pytest.mark.parametrize(
    "frames", [picture(2, 33, 48), picture(2, 32, 48).astype(float), picture(2, 32, 48)[..., :2]]
)
def test_what_no_video_can_hold_is_refused(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="even H and W, got"):
        mp4.mp4_bytes(frames, 8)

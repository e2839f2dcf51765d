"""Which track is shown, what transparency and headers become, and what errors say."""

import io
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from media.made import (
    corner_names,
    corners_frame,
    corners_video,
    encoding,
    read_clip,
    two_descriptions,
    write_video,
)
from vitascope.ledger import Reason, Rejected
from vitascope.media.containers import words
from vitascope.media.probe import probe

Disposition = av.stream.Disposition
SMALL, LARGE = (80, 60), (128, 96)


def tracks(path: Path, sizes: Sequence[tuple[int, int]], dispositions: Sequence[int] = ()) -> Path:
    """Video tracks of these sizes."""
    with encoding(path) as container:
        streams = [container.add_stream("mpeg4", rate=8) for _ in sizes]
        for i, (stream, size) in enumerate(zip(streams, sizes, strict=True)):
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            if dispositions:
                stream.disposition = dispositions[i]
        for k in range(8):
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(corners_frame(stream.width, stream.height), "rgb24")
                frame.pts, frame.time_base = k, Fraction(1, 8)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    return path


def shown(path: Path) -> tuple[int, int]:
    facts = probe(str(path))
    assert read_clip(str(path), decoder="pyav").shape[1:3] == (facts.height, facts.width)
    return facts.width, facts.height


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".avi"])
@pytest.mark.parametrize("sizes", [(SMALL, LARGE), (LARGE, SMALL)])
def test_the_largest_track_is_shown_if_none_is_marked(
    tmp_path: Path, suffix: str, sizes: Sequence[tuple[int, int]]
) -> None:
    assert shown(tracks(tmp_path / f"a{suffix}", sizes)) == LARGE


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("default", [0, 1])
def test_the_track_that_is_marked_is_shown(tmp_path: Path, suffix: str, default: int) -> None:
    sizes, marks = (SMALL, LARGE), [Disposition.default if i == default else 0 for i in range(2)]
    assert shown(tracks(tmp_path / f"a{suffix}", sizes, marks)) == sizes[default]


def patched(path: Path, at: int, value: bytes) -> Path:
    content = bytearray(path.read_bytes())
    content[at : at + len(value)] = value
    path.write_bytes(content)
    return path


def places(path: Path, kind: bytes) -> list[int]:
    content = path.read_bytes()
    return [i for i in range(len(content)) if content[i : i + 4] == kind]


def test_a_track_that_is_not_enabled_is_not_shown(tmp_path: Path) -> None:
    path = tracks(tmp_path / "a.mp4", (SMALL, LARGE), [Disposition.default] * 2)
    first, second = places(path, b"tkhd")
    assert shown(path) == LARGE
    assert shown(patched(path, second + 4, b"\0\0\0\2")) == SMALL
    assert shown(patched(path, first + 4, b"\0\0\0\2")) == LARGE  # none is: the largest


def test_auxiliary_tracks_are_never_shown(tmp_path: Path) -> None:
    """Of depth or alpha, by their handler, also if they are the larger, or come first."""
    for sizes, auxiliary in (((SMALL, LARGE), 1), ((LARGE, SMALL), 0)):
        path = tracks(tmp_path / "a.mp4", sizes, [Disposition.default] * 2)
        handlers = [at for at in places(path, b"hdlr") if path.read_bytes()[at + 12 : at + 16] == b"vide"]
        assert shown(patched(path, handlers[auxiliary] + 12, b"auxv")) == SMALL
    patched(path, handlers[1] + 12, b"auxv")
    with pytest.raises(Rejected, match="holds only pictures that are not shown as video") as rejected:
        probe(str(path))
    assert rejected.value.reason == Reason.NO_VIDEO_STREAM


def test_tracks_that_belong_to_another_are_never_shown(tmp_path: Path) -> None:
    path = tracks(tmp_path / "a.mp4", (SMALL, LARGE), [Disposition.default] * 2)
    content = path.read_bytes()
    reference = struct.pack(">I4sI4sI", 20, b"tref", 12, b"thmb", 1)
    at = places(path, b"trak")[1] - 4
    (size,) = struct.unpack(">I", content[at : at + 4])
    moov = places(path, b"moov")[0] - 4
    (whole,) = struct.unpack(">I", content[moov : moov + 4])
    grown = bytearray(content[: at + size] + reference + content[at + size :])
    grown[at : at + 4], grown[moov : moov + 4] = struct.pack(">I", size + 20), struct.pack(">I", whole + 20)
    path.write_bytes(grown)  # the index is at the end, so that no offset changes
    assert shown(path) == SMALL


def transparent(path: Path, codec: str, pix_fmt: str, size: tuple[int, int] = LARGE) -> Path:
    """`corners_frame` whose left half is transparent, in frames that are 8 a second."""
    with encoding(path) as container:
        options = {"auto-alt-ref": "0"} if codec == "libvpx" else {}
        stream = container.add_stream(codec, rate=8, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        pixels = np.dstack([corners_frame(*size), np.full(size[::-1], 255, np.uint8)])
        pixels[:, : size[0] // 2, 3] = 0
        for k in range(8):
            frame = av.VideoFrame.from_ndarray(pixels, "rgba").reformat(format=pix_fmt)
            frame.pts, frame.time_base = k, Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix"),
    [
        ("png", "rgba", ".mov"),
        ("qtrle", "argb", ".mov"),
        ("prores_ks", "yuva444p10le", ".mov"),
        ("ffv1", "yuva420p", ".mkv"),
        ("ffv1", "bgra", ".avi"),
        ("ffv1", "gbrap16le", ".mkv"),
        ("utvideo", "gbrap", ".avi"),
        ("huffyuv", "bgra", ".avi"),
        ("ffvhuff", "yuva444p", ".avi"),
        ("libvpx", "yuva420p", ".webm"),
        ("libvpx-vp9", "yuva420p", ".webm"),
        ("libvpx-vp9", "yuva420p", ".mkv"),
    ],
)
def test_transparency_is_white(tmp_path: Path, codec: str, pix_fmt: str, suffix: str) -> None:
    path = transparent(tmp_path / f"a{suffix}", codec, pix_fmt)
    for start_s in (0.0, 0.6, 0.2):
        for size in (None, (48, 64)):
            frames = read_clip(str(path), start_s=start_s, fps=8, n_frames=2, size=size, decoder="pyav")
            assert {corner_names(frame) for frame in frames} == {"WGWW"}
            width = frames.shape[2]
            assert frames[:, :, : width // 2 - 4].min() > 250


def test_half_transparent_is_half_white(tmp_path: Path) -> None:
    path = tmp_path / "a.mov"
    with encoding(path) as container:
        stream = container.add_stream("png", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "rgba"
        pixels = np.full((64, 64, 4), (200, 0, 100, 128), np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgba")))
        container.mux(stream.encode())
    assert np.abs(read_clip(str(path), decoder="pyav")[0].astype(int) - (227, 127, 177)).max() <= 1


class Pipe(io.RawIOBase):
    """What is written live: no header is ever corrected."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, content: bytes) -> int:  # type: ignore[override]
        self.content += bytes(content)
        return len(content)


def live(path: Path, times_ms: Sequence[int], codec: str, form: str) -> Path:
    pipe = Pipe()
    with av.open(pipe, "w", format=form) as container:
        stream = container.add_stream(codec, rate=1000)
        stream.width, stream.height, stream.pix_fmt = *LARGE, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time_ms in times_ms:
            frame = av.VideoFrame.from_ndarray(corners_frame(*LARGE), "rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    path.write_bytes(pipe.content)
    return path


@pytest.mark.parametrize(
    ("codec", "form"), [("libvpx", "webm"), ("libx264", "matroska"), ("flv", "flv"), ("libvpx-vp9", "webm")]
)
def test_live_recordings_have_the_length_and_the_rate_of_their_packets(
    tmp_path: Path, codec: str, form: str
) -> None:
    path = live(tmp_path / "a", [125 * k for k in range(16)], codec, form)
    facts = probe(str(path))
    assert (facts.fps, facts.duration_s, facts.n_frames) == (pytest.approx(8), pytest.approx(2), 16)
    assert len(read_clip(str(path), start_s=1.0, fps=8, n_frames=9, decoder="pyav")) == 9
    with pytest.raises(Rejected, match="frames end at"):
        read_clip(str(path), start_s=1.0, fps=8, n_frames=12, decoder="pyav")


def test_a_variable_rate_is_the_mean_of_its_packets(tmp_path: Path) -> None:
    times_ms = np.cumsum([0, *([10, 70, 40] * 20)]).tolist()
    facts = probe(str(live(tmp_path / "a.webm", times_ms, "libvpx", "webm")))
    assert (facts.fps, facts.n_frames) == (pytest.approx(25), 61)
    assert facts.duration_s == pytest.approx(2.44)


def test_what_is_not_read_is_told_from_what_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\na.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / "a.mp4").write_bytes(b"noise" * 999)
    for name, what in (
        ("a.m3u8", "its format is not read; these are: pictures in"),
        ("a.mp4", "header is damaged"),
    ):
        with pytest.raises(Rejected, match=what):
            probe(str(tmp_path / name))


@pytest.mark.parametrize("number", [1, 2, 22])
def test_the_numbers_of_ffmpeg_are_not_taken_for_the_systems(number: int) -> None:
    """A decoder returns -1 for a bad block: EPERM, to PyAV a PermissionError."""
    with pytest.raises(av.error.FFmpegError) as failed:
        av.error.err_check(-number)
    assert words(failed.value) == f"its data are damaged (ffmpeg's error -{number})"


def test_another_angle_is_refused(tmp_path: Path) -> None:
    path = corners_video(tmp_path / "a.mp4", rotation=30)
    with pytest.raises(Rejected, match=r"turns it by -?30 degrees"):
        probe(str(path))


def pictures_in(path: Path, codec: str, pictures: Sequence[bytes], size: tuple[int, int]) -> Path:
    """Encoded pictures as the packets of a video of 8 frames a second."""
    with encoding(path) as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "rgb24"
        for k, content in enumerate(pictures):
            packet = av.Packet(content)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, k, k, Fraction(1, 8)
            packet.is_keyframe, packet.duration = True, 1
            container.mux(packet)
    return path


@pytest.mark.parametrize("suffix", [".avi", ".mov", ".mkv"])
def test_frames_with_kinds_of_side_data_that_pyav_does_not_know_are_read(tmp_path: Path, suffix: str) -> None:
    """JPEG pictures with EXIF, as cameras write Motion JPEG."""
    sink, exif = io.BytesIO(), Image.Exif()
    exif[0x010F] = "a camera"
    Image.fromarray(corners_frame(128, 96)).save(sink, "JPEG", exif=exif, quality=95, subsampling=2)
    path = pictures_in(tmp_path / f"a{suffix}", "mjpeg", [sink.getvalue()] * 8, (128, 96))
    facts = probe(str(path))
    assert (facts.kind, facts.width, facts.height) == ("video", 128, 96)
    assert corner_names(read_clip(str(path), decoder="pyav")[0]) == corner_names(corners_frame(128, 96))


def test_transparent_palette_colours_are_over_white(tmp_path: Path) -> None:
    picture = Image.new("P", (128, 96), 1)
    picture.putpalette([255, 0, 255, 30, 200, 30])
    picture.paste(0, (32, 24, 96, 72))
    sink = io.BytesIO()
    picture.save(sink, "PNG", transparency=bytes([0, 255]))
    path = pictures_in(tmp_path / "a.mov", "png", [sink.getvalue()] * 8, (128, 96))
    frame = read_clip(str(path), decoder="pyav")[0]
    assert frame[48, 64].tolist() == [255, 255, 255]
    assert frame[5, 5].tolist() == [30, 200, 30]


def test_a_damaged_first_packet_costs_its_own_frames_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with encoding(path) as container:
        stream = container.add_stream("libx264", rate=8, options={"g": "4", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for k in range(16):
            frame = av.VideoFrame.from_ndarray(corners_frame(128, 96), "rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        first = next(packet for packet in container.demux(video=0) if packet.size)
        at, size = first.pos, first.size
    content = bytearray(path.read_bytes())
    content[at : at + size] = b"\xff" * size
    path.write_bytes(content)
    facts = probe(str(path))
    assert (facts.kind, facts.width, facts.height) == ("video", 128, 96)


@pytest.mark.parametrize("second", [LARGE, SMALL])
def test_each_part_of_a_track_is_decoded_by_its_own_description(
    tmp_path: Path, second: tuple[int, int]
) -> None:
    """As of two mp4s joined without encoding; whatever was read before."""
    pictures = [corners_frame(*LARGE), np.ascontiguousarray(corners_frame(*second)[:, ::-1])]
    options = ({"crf": "10"}, {"crf": "35", "refs": "1"})
    parts = [
        write_video(tmp_path / f"{i}.mp4", [picture] * 30, gop=10, options=own)
        for i, (picture, own) in enumerate(zip(pictures, options, strict=True))
    ]
    path = two_descriptions(tmp_path / "a.mp4", parts)
    with av.open(str(path)) as container:
        given = [packet.has_sidedata("new_extradata") for packet in container.demux(video=0)]
    assert [i for i, new in enumerate(given) if new] == [30]
    for start_s in (0.0, 3.0, 0.5, 5.0, 3.2, 1.0, 4.1):
        frames = read_clip(str(path), start_s=start_s, fps=10, n_frames=5, decoder="pyav")
        wanted = pictures[start_s >= 3]
        assert frames.shape[1:] == wanted.shape
        assert {corner_names(frame) for frame in frames} == {corner_names(wanted)}
        assert np.abs(frames.astype(int) - wanted).mean() < 8

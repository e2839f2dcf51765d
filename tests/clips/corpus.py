"""Hundreds of small files, good, odd and damaged.

`MAKERS` says by name how each is made. The first folder of a name is the expected outcome: files in
`good/` come out as PyAV's own frames; those in `odd/` and `damaged/` come out or not, with a word on why.
"""

import os
import random
import tempfile
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import cache, partial
from itertools import product
from pathlib import Path

import av
import numpy as np
from PIL import Image

from media import damage
from media.made import coloured_video, encoding, hdr_video, moving_picture, timed_video, tone

Maker = Callable[[Path], object]
N_FRAMES, RATE = 16, 10

# Encoder: its pixel format, and the containers that take it.
CODECS = {
    "libx264": ("yuv420p", "mp4 mov mkv avi ts mpg flv nut 3gp"),
    "libx264rgb": ("rgb24", "mp4 mkv"),
    "libx265": ("yuv420p", "mp4 mkv ts"),
    "libsvtav1": ("yuv420p", "mp4 webm ivf"),
    "libvpx": ("yuv420p", "webm ogg ivf avi"),
    "libvpx-vp9": ("yuv420p", "mp4 webm ivf"),
    "mpeg1video": ("yuv420p", "mpg ts"),
    "mpeg2video": ("yuv420p", "mpg ts mxf vob"),
    "mpeg4": ("yuv420p", "mp4 avi mkv 3gp"),
    "msmpeg4": ("yuv420p", "avi"),
    "msmpeg4v2": ("yuv420p", "avi"),
    "h263": ("yuv420p", "3gp"),
    "h263p": ("yuv420p", "avi"),
    "flv": ("yuv420p", "flv"),
    "wmv1": ("yuv420p", "asf"),
    "wmv2": ("yuv420p", "asf"),
    "mjpeg": ("yuvj420p", "avi mov mkv"),
    "jpeg2000": ("rgb24", "mov avi"),
    "png": ("rgb24", "mov avi"),
    "gif": ("rgb8", "gif"),
    "prores": ("yuv422p10le", "mov mkv"),
    "prores_ks": ("yuva444p10le", "mov"),
    "cfhd": ("yuv422p10le", "mov"),
    "ffv1": ("yuv420p", "mkv avi"),
    "ffvhuff": ("yuv420p", "avi"),
    "huffyuv": ("rgb24", "avi"),
    "utvideo": ("yuv420p", "avi"),
    "magicyuv": ("yuv420p", "avi"),
    "rawvideo": ("yuv420p", "avi nut mkv"),
    "v210": ("yuv422p10le", "mov"),
    "r210": ("gbrp10le", "mov"),
    "qtrle": ("rgb24", "mov"),
    "rpza": ("rgb555le", "mov"),
    "svq1": ("yuv410p", "mov"),
    "msvideo1": ("rgb555le", "avi"),
    "zlib": ("bgr24", "avi"),
    "flashsv": ("bgr24", "flv"),
    "snow": ("yuv420p", "avi"),
    "asv1": ("yuv420p", "avi"),
    "dxv": ("rgba", "mov"),
    "targa": ("bgr24", "mov"),
}
OPTIONS = {
    "libx264": {"preset": "ultrafast", "bf": "2", "g": "6"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    "libsvtav1": {"preset": "12"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8"},
    "snow": {"strict": "experimental"},
}
FORMATS = {
    "libx264": "yuv420p10le yuv422p yuv422p10le yuv444p yuv444p10le gray gray10le yuvj420p nv12",
    "libx265": "yuv420p10le yuv420p12le yuv444p12le gbrp gbrp10le gray12le",
    "libvpx-vp9": "yuv444p yuv440p gbrp",
    "ffv1": "yuv420p16le yuv444p16le gbrp16le gray16le bgra yuva420p rgb48le yuv411p yuv410p",
}
SIZES = {"h263": (128, 96)}
RATES = {"mpeg1video": 25, "mpeg2video": 25}  # their own lists of rates have no 10


def scene(n_frames: int = N_FRAMES, size: tuple[int, int] = (96, 64)) -> list[np.ndarray]:
    """Frames (H W 3) of a blurred pattern that moves and changes, so that each one is unlike the others."""
    pattern = np.random.default_rng(7).integers(0, 256, (9, 13, 3), np.uint8)
    frames = []
    for i in range(n_frames):
        moved = np.roll(pattern, i, axis=1)
        moved[i % 9] = 255 - moved[i % 9]
        frames.append(np.asarray(Image.fromarray(moved).resize(size, Image.Resampling.BILINEAR)))
    return frames


def video(
    path: Path,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (96, 64),
    n_frames: int = N_FRAMES,
    form: str | None = None,
    flags: str = "",
    aspect: Fraction | None = None,
    rotation: int = 0,
    first: int = 0,
) -> None:
    """`scene` in a container, `form`, by its name or by the path's; `first`: the first timestamp."""
    rate = RATES.get(codec, RATE)
    with encoding(path, format=form, options={"movflags": flags} if flags else {}) as container:
        stream = container.add_stream(codec, rate=rate, options=OPTIONS.get(codec, {}))
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        container.start_encoding()  # also without frames
        for i, pixels in enumerate(scene(n_frames, size)):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = first + i, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _codecs() -> dict[str, Maker]:
    return {
        f"good/codecs/{codec}.{suffix}": partial(
            video, codec=codec, pix_fmt=pix_fmt, size=SIZES.get(codec, (96, 64))
        )
        for codec, (pix_fmt, suffixes) in CODECS.items()
        for suffix in suffixes.split()
    }


def _shapes() -> dict[str, Maker]:
    """Depths, chroma, sizes, turns and aspect ratios."""
    made: dict[str, Maker] = {}
    for pix_fmt in FORMATS["libx264"].split():
        made[f"good/formats/{pix_fmt}.mkv"] = partial(video, pix_fmt=pix_fmt)
    for codec, suffix in (("libx264", "mp4"), ("libx265", "mp4"), ("libvpx-vp9", "webm"), ("ffv1", "mkv")):
        for pix_fmt in FORMATS[codec].split():
            how = {"codec": codec, "pix_fmt": pix_fmt}
            made[f"good/formats/{pix_fmt}-{codec}.{suffix}"] = partial(video, **how)
    sizes = [(2, 2), (2, 64), (64, 2), (16, 16), (48, 64), (66, 50), (130, 98), (94, 94), (4096, 64)]
    for width, height in [*sizes, (64, 4096), (4096, 16), (1000, 562)]:
        made[f"good/sizes/{width}x{height}.mp4"] = partial(video, size=(width, height), n_frames=4)
    for width, height in [(1, 1), (3, 5), (17, 33), (97, 65), (641, 3)]:
        made[f"good/sizes/{width}x{height}.mkv"] = partial(
            video, codec="ffv1", pix_fmt="yuv444p", size=(width, height), n_frames=4
        )
    for turn, suffix in product((90, 180, 270), ("mp4", "mov", "mkv")):
        made[f"good/turned/{turn}.{suffix}"] = partial(video, rotation=turn)
    for ratio, suffix in product(("4:3", "1:2", "16:11", "60:1"), ("mp4", "mkv", "ts", "mpg")):
        aspect = Fraction(ratio.replace(":", "/"))
        made[f"good/aspects/{ratio.replace(':', 'to')}.{suffix}"] = partial(video, aspect=aspect)
    made["good/aspects/turned.mp4"] = partial(video, aspect=Fraction(4, 3), rotation=90)
    made["odd/turned/45.mp4"] = partial(video, rotation=45)
    for transfer in ("smpte2084", "arib-std-b67"):
        made[f"good/hdr/{transfer}.mp4"] = partial(hdr_video, codes=[0.5] * 3, transfer=transfer)
    for tags, full in product(("bt709", "smpte170m", "bt2020nc"), (False, True)):
        made[f"good/colours/{tags}{'-full' * full}.mp4"] = partial(_coloured, tags=tags, full=full)
    return made


def _coloured(path: Path, tags: str, full: bool) -> None:
    coloured_video(path, (200, 90, 40), tags, full=full)


def _times() -> dict[str, Maker]:
    """Frame rates and clocks of all kinds, and sources of one frame and of none."""
    bursts = [0, 50, 100, 150, 800, 1000, 1900, 2000]
    made: dict[str, Maker] = {
        f"good/times/vfr.{suffix}": partial(timed_video, times_ms=bursts) for suffix in ("mp4", "mkv", "flv")
    }
    for suffix in ["mp4", "mkv", "avi", "ts", "mpg", "flv", "nut"]:
        made[f"good/times/one.{suffix}"] = partial(video, n_frames=1)
        made[f"odd/times/none.{suffix}"] = partial(video, n_frames=0)
    for first, suffix in product((-7, 1000, 2**33 // 90_000 * RATE), ("mp4", "mkv", "ts")):
        made[f"good/times/from{first}.{suffix}"] = partial(video, first=first)
    made["good/times/fragments.mp4"] = partial(video, flags="frag_keyframe+empty_moov")
    made["good/times/faststart.mp4"] = partial(video, flags="faststart")
    for gap_ms, suffix in product((300_000, 2_000_000, 864_000_000, 2**40), ("mkv", "mp4")):
        times = [0, 100, gap_ms, gap_ms + 100]
        if suffix == "mkv" or gap_ms < 2**29:  # the range of mp4
            made[f"odd/times/gap-{gap_ms}.{suffix}"] = partial(timed_video, times_ms=times)
    return made


def _streams() -> dict[str, Maker]:
    """Sound, cover pictures, attachments, several videos, sizes that change."""
    made: dict[str, Maker] = {
        f"odd/streams/sound.{suffix}": tone for suffix in ["mp4", "m4a", "mkv", "mov", "avi", "ts", "flv"]
    }
    for suffix in ("mp4", "mkv"):
        made[f"odd/streams/cover.{suffix}"] = partial(_with_picture, codec="aac")
    made["odd/streams/cover.mp3"] = partial(_with_picture, codec="mp3")
    for codec in ("libx264", "aac"):
        made[f"odd/streams/attachment-{codec}.mkv"] = partial(_with_attachment, codec=codec)
    for suffix in ("mp4", "mkv", "ts", "avi"):
        made[f"odd/streams/two.{suffix}"] = _two_videos
    for suffix in ("ts", "mpg"):
        made[f"odd/streams/joined.{suffix}"] = partial(_joined, suffix=suffix)
    return made


def _with_picture(path: Path, codec: str) -> None:
    """Sound with a cover picture."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream(codec, rate=44_100)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 96, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), "fltp", "mono")
        frame.sample_rate = 44_100
        container.mux(sound.encode(frame))
        container.mux(cover.encode(av.VideoFrame.from_ndarray(scene(1)[0], "rgb24")))
        container.mux([*sound.encode(), *cover.encode()])


def _with_attachment(path: Path, codec: str) -> None:
    """A font next to a video, or next to sound only."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE if codec == "libx264" else 44_100)
        container.add_attachment("font.ttf", "application/x-truetype-font", b"\0\1\0\0" * 300)
        if codec == "libx264":
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            for pixels in scene():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        else:
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            sound.sample_rate = 44_100
            container.mux(stream.encode(sound))
        container.mux(stream.encode())


def _two_videos(path: Path) -> None:
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=RATE) for _ in range(2)]
        for stream, size in zip(streams, ((96, 64), (128, 96)), strict=True):
            stream.width, stream.height = size
        for i in range(N_FRAMES):
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(scene(1, (stream.width, stream.height))[0], "rgb24")
                frame.pts, frame.time_base = i, Fraction(1, RATE)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())


def _joined(path: Path, suffix: str) -> None:
    """Two streams of different sizes, one after the other."""
    codec = "libx264" if suffix == "ts" else "mpeg2video"
    parts = [base_of(partial(video, codec=codec, size=size), suffix) for size in ((96, 64), (128, 96))]
    path.write_bytes(b"".join(parts))


def _picture(path: Path, *, mode: str = "RGB", size: tuple[int, int] = (96, 64), **how: object) -> None:
    image = Image.fromarray(scene(1)[0]).resize(size)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L"), np.uint16) << 8)
    elif mode != "RGB":
        image = image.convert(mode)
    image.save(path, **how)


def _pictures() -> dict[str, Maker]:
    made: dict[str, Maker] = {}
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        made[f"odd/pictures/{mode.replace(';', '-')}.png"] = partial(_picture, mode=mode)
    for mode in ("L", "RGB", "CMYK"):
        made[f"odd/pictures/{mode}.jpg"] = partial(_picture, mode=mode)
        made[f"odd/pictures/{mode}-progressive.jpeg"] = partial(_picture, mode=mode, progressive=True)
    for suffix in ["webp", "bmp", "avif", "tiff", "ico", "ppm", "tga", "pcx", "jp2", "gif", "sgi", "dds"]:
        made[f"odd/pictures/a.{suffix}"] = _picture
    made["odd/pictures/lossless.webp"] = partial(_picture, mode="RGBA", lossless=True)
    for width, height in [(1, 1), (2, 2), (1, 5000), (5000, 1), (8000, 8)]:
        made[f"odd/pictures/{width}x{height}.png"] = partial(_picture, size=(width, height))
    for side in (9000, 14_000):  # a bomb is small as a file
        made[f"odd/pictures/bomb-{side}.png"] = partial(_bomb, side=side)
    for suffix in ("gif", "apng", "webp"):
        made[f"odd/pictures/moving.{suffix}"] = partial(moving_picture, durations_ms=[100, 200, 0, 10, 300])
        made[f"odd/pictures/still.{suffix}"] = partial(moving_picture, durations_ms=[100])
    return made


def _bomb(path: Path, side: int) -> None:
    Image.new("1", (side, side)).save(path)


NAMES = [
    "ünïcödé.mp4",
    "日本語の動画.mp4",
    "🎬🎥.mp4",
    "e\u0301 combining.mp4",
    "right\u202eto left.mp4",
    "line\nbreak.mp4",
    "tab\there.mp4",
    " leading space.mp4",
    "-dash.mp4",
    "quote'\".mp4",
    "per%20cent.mp4",
    "hash#1?x=2&y.mp4",
    "back\\slash.mp4",
    "star*[a-z]{x}.mp4",
    "$HOME `id` ;.mp4",
    "col::on.mp4",
    "file:name.mp4",
    "pipe|.mp4",
    "UPPER.MP4",
    "no suffix",
    "two.dots..mp4",
    "endless" * 35 + ".mp4",  # 249 bytes
    "é" * 125 + ".mp4",  # 254 bytes
    "/".join(["deep"] * 120) + "/a.mp4",
    "a.tar#b.mp4@512+1024",  # resembles the position of a tar's member
]

PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n/etc/hostname\n#EXT-X-ENDLIST\n",
    "list.mp4": "ffconcat version 1.0\nfile '/etc/hostname'\n",
    "list.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"/>\n',
    "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    "subtitles.mp4": "1\n00:00:00,000 --> 00:00:02,000\nnot a video\n\n",
    "drawing.svg": '<svg xmlns="http://www.w3.org/2000/svg" width="96" height="64"/>',
    "page.mp4": "<!doctype html><title>404 Not Found</title>",
    "answer.mp4": '{"error": {"code": 403, "message": "expired"}}',
    "paper.pdf": "%PDF-1.4\n" * 50,
    "long.mp4": "no video at all\n" * 5000,
    "art.txt": "\x1b[31m" * 400,
}


def _files() -> dict[str, Maker]:
    """Odd names, wrong suffixes, and files that are no media at all."""
    made: dict[str, Maker] = {f"odd/names/{name}": partial(_copy, of="h264.mp4") for name in NAMES}
    for suffix in ["avi", "mkv", "jpg", "png", "txt", "tar", "pdf", "zip"]:
        made[f"odd/suffixes/{suffix}-is-mp4.{suffix}"] = partial(_copy, of="h264.mp4")
    for name in ("h264.mkv", "raw.avi", "h264.ts", "a.gif", "a.png", "a.jpg", "a.webp", "vp9.webm"):
        made[f"odd/suffixes/{name}-is.mp4"] = partial(_copy, of=name)
    for name, text in PLAYLISTS.items():
        made[f"odd/texts/{name}"] = partial(Path.write_text, data=text)
    for suffix in ("mp4", "mkv", "jpg", "gif", "ts"):
        made[f"odd/empty/zero.{suffix}"] = Path.touch
        for n_bytes in (1, 12, 5000):
            noise = random.Random(n_bytes).randbytes(n_bytes)
            made[f"odd/empty/noise-{n_bytes}.{suffix}"] = partial(Path.write_bytes, data=noise)
        made[f"odd/empty/zeros.{suffix}"] = partial(_sparse, n_bytes=64 << 20)
    for form, suffix in (("rm", "rm"), ("yuv4mpegpipe", "y4m"), ("h264", "h264"), ("swf", "swf")):
        codec = {"rm": "rv10", "y4m": "rawvideo", "swf": "flv"}.get(suffix, "libx264")
        made[f"odd/containers/{codec}.{suffix}"] = partial(video, codec=codec, form=form)
    return made


def _copy(path: Path, of: str) -> None:
    path.write_bytes(base(of))


def _sparse(path: Path, n_bytes: int) -> None:
    path.touch()
    os.truncate(path, n_bytes)


CUTS = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97)
FLIPS = tuple(product((1, 8, 64), range(2)))
BASES: dict[str, Maker] = {
    "h264.mp4": video,
    "fragments.mp4": partial(video, flags="frag_keyframe+empty_moov"),
    "first.mp4": partial(video, flags="faststart"),
    "prores.mov": partial(video, codec="prores", pix_fmt="yuv422p10le"),
    "h264.mkv": video,
    "hevc.mkv": partial(video, codec="libx265"),
    "vp9.webm": partial(video, codec="libvpx-vp9"),
    "av1.ivf": partial(video, codec="libsvtav1"),
    "mpeg4.avi": partial(video, codec="mpeg4"),
    "raw.avi": partial(video, codec="rawvideo"),
    "h264.ts": video,
    "mpeg2.mpg": partial(video, codec="mpeg2video"),
    "mpeg2.mxf": partial(video, codec="mpeg2video"),
    "h264.flv": video,
    "vp8.ogg": partial(video, codec="libvpx"),
    "vp9.ivf": partial(video, codec="libvpx-vp9"),
    "raw.nut": partial(video, codec="rawvideo"),
    "h264.asf": video,
    "a.gif": partial(moving_picture, durations_ms=[100] * 12),
    "a.apng": partial(moving_picture, durations_ms=[100] * 12),
    "a.webp": partial(moving_picture, durations_ms=[100] * 12),
    "a.jpg": _picture,
    "a.png": _picture,
    "a.bmp": _picture,
    "a.avif": _picture,
}
"""Whole files, to be damaged."""

MARKERS = {
    "h264.mp4": "ftyp moov mvhd trak tkhd edts mdhd hdlr stbl stsd avcC stts ctts stss stsc stsz stco mdat",
    "fragments.mp4": "moof tfhd tfdt trun mfra trex",
    "prores.mov": "icpf stsd",
    "mpeg4.avi": "RIFF hdrl avih strh strf movi idx1 00dc",
    "raw.avi": "strh strf",
    "a.png": "IHDR IDAT IEND",
    "a.apng": "acTL fcTL fdAT",
    "a.webp": "VP8X ANIM ANMF VP8L",
    "a.avif": "meta iloc ispe av1C",
    "vp8.ogg": "OggS OVP80",
    "vp9.ivf": "DKIF",
    "h264.flv": "onMetaData duration #1700 #1701",
    "raw.nut": "nut/multimedia NM NS NK",
    "h264.mkv": "#1a45dfa3 #18538067 #114d9b74 #1549a966 #1654ae6b #1c53bb6b #1f43b675",
    "vp9.webm": "#1549a966 #1654ae6b #1c53bb6b #1f43b675",
    "h264.ts": "#474000 #475000 #474100 #000001e0",
    "mpeg2.mpg": "#000001ba #000001bb #000001e0 #000001b3",
    "mpeg2.mxf": "#060e2b34 #060e2b3401020101 #060e2b3402530101",
    "h264.asf": "#3026b275 #a1dcab8c #9107dcb7 #3626b275",
    "a.gif": "GIF89a #21f904 #2c0000",
    "a.jpg": "#ffdb #ffc0 #ffc4 #ffda",
}
"""The words of each format, in hexadecimal after a #, at which it is hurt: header, index, sizes and data."""

LIES = """
h264.mp4      avc1             28  00000000 3e803e80 ffffffff
h264.mp4      tkhd             80  0000000000000000 7fffffff7fffffff
h264.mp4      mdhd             16  00000000 00000001 7fffffff ffffffff
h264.mp4      mdhd             20  00000000 00000001 7fffffff ffffffff
h264.mp4      stts              8  00000000 00ffffff ffffffff
h264.mp4      stts             12  7fffffff7fffffff 0000001000000000 00000010ffffffff
h264.mp4      stsz             12  00000000 00ffffff ffffffff
h264.mp4      stsz             16  00000000 7fffffff ffffffff
h264.mp4      stco             12  00000000 7fffffff ffffffff
prores.mov    apcn             28  00000000 3e803e80 ffffffff
prores.mov    icpf             12  00000000 3e803e80 ffffffff
h264.mkv      #b08160ba8140     0  b0847fffffff b08100ba8100
h264.mkv      #448988           3  0000000000000000 7ff8000000000000 7ff0000000000000
h264.mkv      #448988           3  426d1a94a2000000 fe37e43c8800759c
h264.mkv      #2ad7b183         4  000000 ffffff
raw.avi       strf              8  0000000000000000 803e0000803e0000 ffffff7fffffff7f ffffffffffffffff
raw.avi       avih              8  00000000 01000000 ffffffff
raw.avi       strh             28  0000000000000000 ffffffff01000000 01000000ffffffff
raw.avi       strh             40  00000000 ffffff7f ffffffff
vp9.ivf       VP90              4  00000000 803e803e ffffffff
vp9.ivf       VP90              8  0000000000000000 0100000001000000 ffffffff01000000 01000000ffffffff
vp9.ivf       VP90             24  00000000 ffffff7f ffffffff
vp9.ivf       VP90             28  ffffffffffffff7f 0000000000000080
h264.flv      duration          9  0000000000000000 7ff8000000000000 7ff0000000000000 426d1a94a2000000
a.gif         GIF89a            6  00000000 803e803e ffffffff
a.gif         #21f904           4  0000 0100 ffff
a.jpg         #ffc0             5  00000000 3e803e80 ffffffff
a.png         IHDR              4  0000000000000000 00003e8000003e80 7fffffff7fffffff ffffffffffffffff
a.apng        acTL              4  00000000 ffffffff
a.apng        fcTL             24  00000000 ffff0001 0001ffff
a.bmp         BM               18  0000000000000000 803e0000803e0000 ffffff7fffffff7f 0000008000000080
a.avif        ispe              8  0000000000000000 00003e8000003e80 ffffffffffffffff
a.webp        VP8X             12  000000000000 ffffffffffff
a.webp        ANMF             20  000000 ffffff
"""
"""What is written how many bytes after the beginning of a word: sizes, rates, times, counts, places."""


@cache
def base(name: str) -> bytes:
    return base_of(BASES[name], Path(name).suffix.removeprefix("."))


def base_of(make: Maker, suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{suffix}"
        make(path)
        return path.read_bytes()


def _damaged() -> dict[str, Maker]:
    hurts: dict[str, dict[str, Callable[[bytes], bytes]]] = {
        name: {f"cut-{share}": partial(damage.cut, share=share) for share in CUTS}
        | {f"flipped-{n}-{seed}": partial(damage.flipped, n_bytes=n, seed=seed) for n, seed in FLIPS}
        | {"headless": damage.headless, "hole": damage.hole, "doubled": damage.doubled}
        for name in BASES
    }
    for name, words in MARKERS.items():
        for i, word in enumerate(words.split()):
            for what, hurt in damage.SURGERY.items():
                hurts[name][f"{i:02d}-{what}"] = partial(hurt, marker=_bytes(word))
    for name, word, offset, *values in map(str.split, LIES.strip().splitlines()):
        for value in values:
            lie = partial(damage.written, marker=_bytes(word), offset=int(offset), value=bytes.fromhex(value))
            hurts[name][f"{word.replace('/', '-')}-{offset}-{value}"] = lie
    return {
        f"damaged/{name}/{what}{Path(name).suffix}": partial(_hurt, of=name, hurt=hurt)
        for name, of_name in hurts.items()
        for what, hurt in of_name.items()
    }


def _bytes(word: str) -> bytes:
    return bytes.fromhex(word[1:]) if word.startswith("#") else word.encode()


def _hurt(path: Path, of: str, hurt: Callable[[bytes], bytes]) -> None:
    path.write_bytes(hurt(base(of)))


MAKERS: dict[str, Maker] = _codecs() | _shapes() | _times() | _streams() | _pictures() | _files() | _damaged()


def write(folder: Path, names: Iterable[str]) -> None:
    """Makes these files in `folder`."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        MAKERS[name](path)


def write_no_files(folder: Path) -> set[str]:
    """Makes entries that are listed like files but are none, or other files; returns the names."""
    place = folder / "odd" / "links"
    place.mkdir(parents=True)
    links = {"dangling": "nowhere", "circle": "circle2.mp4", "circle2": "circle.mp4", "itself": "itself.mp4"}
    links |= {"folder": "..", "device": "/dev/zero", "pipe": "a pipe.mp4", "good": "../../real.mp4"}
    for name, target in links.items():
        (place / f"{name}.mp4").symlink_to(target)
    video(folder / "real.mp4")
    os.mkfifo(place / "a pipe.mp4")
    (place / "empty folder.mp4").mkdir()
    (place / os.fsdecode(b"latin-\xe9.mp4")).write_bytes(base("h264.mp4"))
    return {
        "real.mp4",
        "odd/links/a pipe.mp4",
        r"odd/links/latin-\xe9.mp4",
        *(f"odd/links/{n}.mp4" for n in links),
    }

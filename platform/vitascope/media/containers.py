"""Open a container: its format, track and decoder.

PyAV opens it. The video track is the one that players show; PyAV's `streams.best` may take an
alpha or a depth track.
"""

import errno
from typing import Any, NamedTuple

import av

from vitascope.ledger import Reason, Rejected
from vitascope.media import boxes, formats, tars
from vitascope.stores.patience import Unavailable

MOV = "mov,mp4,m4a,3gp,3g2,mj2"
MATROSKA = "matroska,webm"
INDEXED = (MOV, MATROSKA)
"""Containers with an index of all packets."""

BARE = ("h264", "hevc", "m4v", "mpegvideo", "obu", "mjpeg")
"""Streams without a container: no timestamps, and no seeking."""

_MAX_PIXELS = 2**26  # 8192 x 8192; a larger frame is a lying header
# Not on the list are playlists (hls, concat, dash), which make the library read any file or address that they
# name; text formats, which would render any text file as a video; and those that take noise for video (h263).
_READ = (*INDEXED, "avi", "mpeg", "mpegts", "flv", "asf", "ogg", "mxf", "ivf", "nut", "dv")
_SOUND = ("mp3", "wav", "flac", "aac")  # opened to report that they hold no video
_CONTAINERS = ",".join((*_READ, *BARE, "yuv4mpegpipe", *_SOUND))

_Disposition = av.stream.Disposition
_ASIDE = (
    _Disposition.attached_pic
    | _Disposition.timed_thumbnails
    | _Disposition.dependent
    | _Disposition.metadata
    | _Disposition.multilayer
)
_HEVC_SETS = (32, 33, 34)  # types of NAL units: VPS, SPS, PPS
_OF_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # ffmpeg's own decoders ignore a WebM's alpha


class Source(NamedTuple):
    """An open container, its video stream and its decoder."""

    container: Any
    stream: Any
    decoder: Any

    @property
    def about(self) -> str:
        """Codec and container, for a person."""
        return f"{self.decoder.name} in {self.container.format.name.partition(',')[0]}"


def open_container(uri: str, hwaccel: Any = None) -> Source:
    """A container open in PyAV.

    Raises:
        Rejected: UNREADABLE, NO_VIDEO_STREAM, or DECODE_FAILED if no decoder knows its codec.
        Unavailable: the store does not answer.
    """
    try:
        file = tars.open_file(uri)
        # Pictures are opened elsewhere, so this is Motion JPEG. ffmpeg takes a short one for a picture.
        form = "mjpeg" if file.read(3) == b"\xff\xd8\xff" else None
        file.seek(0)
        options = {"format_whitelist": _CONTAINERS}
        container = av.open(file, format=form, metadata_errors="ignore", options=options, hwaccel=hwaccel)
    except Unavailable:
        raise
    except av.error.FFmpegError as error:
        raise Rejected(Reason.UNREADABLE, f"no decoder opens it ({_why_not_open(error)})") from None
    except OSError as error:
        raise Rejected(Reason.UNREADABLE, f"it cannot be opened ({error.strerror or error})") from None
    stream = _shown(container, uri)
    if stream.codec_context is None:
        raise Rejected(Reason.DECODE_FAILED, "no decoder knows its codec")
    decoder = _decoder(stream)
    decoder.thread_count = 1  # a task has one core
    decoder.options = {"max_pixels": str(_MAX_PIXELS)}
    return Source(container, stream, decoder)


def parameter_sets(decoder: Any) -> bytes:
    """The parameter sets of a header as in mp4 (ISO/IEC 14496-15), as a packet; empty if it has none."""
    header = bytes(decoder.extradata or b"")
    if decoder.name == "h264" and header[:1] == b"\1":
        return header  # which the decoder takes as a packet
    if decoder.name != "hevc" or header[:1] != b"\1" or len(header) < 23 or header[21] & 3 == 0:
        return b""
    n_length, sets, at = (header[21] & 3) + 1, b"", 23
    for _ in range(header[22]):
        is_set = int.from_bytes(header[at : at + 1], "big") & 0x3F in _HEVC_SETS
        n_units, at = int.from_bytes(header[at + 1 : at + 3], "big"), at + 3
        for _ in range(n_units):
            unit = header[at + 2 : at + 2 + int.from_bytes(header[at : at + 2], "big")]
            sets += len(unit).to_bytes(n_length, "big") + unit if is_set else b""
            at += 2 + len(unit)
    return sets


def words(error: BaseException) -> str:
    """The text of an exception, for a person.

    ffmpeg's functions return -1 for "bad data", and other small numbers for reasons of their own, which PyAV
    takes for the system's: a damaged block would be a PermissionError.
    """
    if not isinstance(error, av.error.FFmpegError):
        return f"{type(error).__name__}: {error}"
    number = error.errno or 0
    if number == errno.ENOMEM:
        return "it takes more memory than a decoder may have"
    if 0 < number < 256:
        return f"its data are damaged (ffmpeg's error -{number})"
    return str(error.strerror or error)


def _why_not_open(error: Any) -> str:
    if error.errno == errno.EINVAL:  # a format that is not on the list
        return f"its format is not read; these are: {formats.READ}"
    if isinstance(error, av.error.InvalidDataError):
        return f"its header is damaged, or its format is none of those that are read: {formats.READ}"
    return words(error)


def _shown(container: Any, uri: str) -> Any:
    """The video stream that players show: of those marked as default, or of all, the largest.

    Covers, thumbnails, alpha, depth and descriptions never count.
    """
    videos = [stream for stream in container.streams.video if not stream.disposition & _ASIDE]
    if len(videos) > 1 and container.format.name == MOV:
        with tars.open_file(uri) as file:
            aside = boxes.asides(file)
        videos = [stream for stream in videos if stream.id not in aside]
    if not videos:
        kinds = {stream.type for stream in container.streams}
        kinds = {"pictures that are not shown as video" if kind == "video" else kind for kind in kinds}
        raise Rejected(Reason.NO_VIDEO_STREAM, f"holds only {', '.join(sorted(kinds)) or 'no streams'}")
    return max(videos, key=_rank)


def _rank(stream: Any) -> tuple[bool, bool, int]:
    codec = stream.codec_context
    size = codec.width * codec.height if codec else 0
    return codec is not None, bool(stream.disposition & _Disposition.default), size


def _decoder(stream: Any) -> Any:
    codec = stream.codec_context
    if codec.name not in _OF_ALPHA or stream.metadata.get("alpha_mode") != "1":
        return codec
    try:
        return av.CodecContext.create(_OF_ALPHA[codec.name], "r")
    except av.codec.codec.UnknownCodecError:
        what = f"{codec.name} with transparency needs ffmpeg's {_OF_ALPHA[codec.name]}, which is not there"
        raise Rejected(Reason.DECODE_FAILED, what) from None

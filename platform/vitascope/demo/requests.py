"""Requests that follow from the user's own videos."""

from typing import NamedTuple

from vitascope.records import VideoSize

MOST_OF_A_MODE = 3


class Example(NamedTuple):
    """A sample, and the file of its clip: a `video` or an `image`."""

    clip_id: str
    caption: str
    size: VideoSize
    kind: str
    uri: str


def requests_for(samples: list[Example], fps: float) -> list[dict[str, object]]:
    """A request file's documents: new videos for the samples' captions, and extended videos, in their sizes.

    Args:
        fps: of the outputs: the samples' frame rate.
    """
    varied = {sample.size: sample for sample in samples}.values()
    stills = [sample for sample in varied if sample.kind == "image"]
    videos = [sample for sample in varied if sample.kind == "video" and sample.size.n_frames > 5]
    images = [_request(sample, "image", fps) for sample in stills]
    texts = [_request(sample, "text_to_video", fps) for sample in videos]
    begun = [_request(sample, "extend_forward", fps) | {"video": sample.uri} for sample in videos]
    ended = [_request(sample, "extend_backward", fps) | {"video": sample.uri} for sample in videos]
    pictures = [
        _request(sample, "image_to_video", fps) | {"image": sample.uri, "seconds": 9 / fps}
        for sample in stills
    ]
    modes = (images, texts, pictures, begun, ended)
    return [request for mode in modes for request in mode[:MOST_OF_A_MODE]]


def _request(sample: Example, name: str, fps: float) -> dict[str, object]:
    mode = "text_to_video" if name == "image" else name
    return {
        "custom_id": f"{name}-{sample.clip_id}",
        "prompt": sample.caption,
        "mode": mode,
        "width": sample.size.width,
        "height": sample.size.height,
        "seconds": 0 if name == "image" else sample.size.n_frames / fps,
        "fps": fps,
    }

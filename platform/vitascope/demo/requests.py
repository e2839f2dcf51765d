"""Requests that follow from the user's own videos."""

from typing import Any

Row = dict[str, Any]
MOST_OF_A_MODE = 3


def requests_for(samples: list[Row], clips: list[Row], fps: float) -> list[Row]:
    """A request file's documents: new videos for the samples' captions, and extended videos, in their sizes.

    Args:
        samples: rows of records.SAMPLES.
        clips: rows of table.CLIPS, which name the files.
        fps: of the outputs: the samples' frame rate.
    """
    clip_of = {clip["clip_id"]: clip for clip in clips}
    varied = _one_of_each_size(samples)
    images = [
        _request(sample, "image", fps) for sample in varied if clip_of[sample["clip_id"]]["kind"] == "image"
    ]
    videos = [s for s in varied if clip_of[s["clip_id"]]["kind"] == "video" and s["n_frames"] > 5]
    texts = [_request(sample, "text_to_video", fps) for sample in videos]
    begun = [_media_request(sample, clip_of, "extend_forward", fps) for sample in videos]
    ended = [_media_request(sample, clip_of, "extend_backward", fps) for sample in videos]
    pictures = [
        _request(sample, "image_to_video", fps)
        | {"image": clip_of[sample["clip_id"]]["uri"], "seconds": 9 / fps}
        for sample in varied
        if clip_of[sample["clip_id"]]["kind"] == "image"
    ]
    modes = (images, texts, pictures, begun, ended)
    return [request for mode in modes for request in mode[:MOST_OF_A_MODE]]


def _one_of_each_size(samples: list[Row]) -> list[Row]:
    by_size = {(s["n_frames"], s["height"], s["width"]): s for s in samples}
    return list(by_size.values())


def _request(sample: Row, name: str, fps: float) -> Row:
    mode = "text_to_video" if name == "image" else name
    return {
        "custom_id": f"{name}-{sample['clip_id']}",
        "prompt": sample["caption"],
        "mode": mode,
        "width": sample["width"],
        "height": sample["height"],
        "seconds": 0 if name == "image" else sample["n_frames"] / fps,
        "fps": fps,
    }


def _media_request(sample: Row, clip_of: dict[str, Row], mode: str, fps: float) -> Row:
    return _request(sample, mode, fps) | {"video": clip_of[sample["clip_id"]]["uri"]}

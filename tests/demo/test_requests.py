"""The requests made for a user's own videos are ones that generation accepts."""

from vitascope import storage
from vitascope.demo.requests import Example, requests_for
from vitascope.encode.buckets import Patching
from vitascope.encode.settings import STRIDES
from vitascope.generate.parse import Limits, parse
from vitascope.generate.settings import GenerateSettings
from vitascope.records import VideoSize


def sample(clip_id: str, n_frames: int, height: int, width: int) -> Example:
    kind, size = "image" if n_frames == 1 else "video", VideoSize(n_frames, height, width)
    return Example(clip_id, f"what {clip_id} shows", size, kind, f"/videos/{clip_id}")


def test_every_mode_of_media_is_asked_for_in_the_samples_sizes() -> None:
    samples = [
        sample("a", 9, 64, 96),
        sample("b", 9, 64, 96),
        sample("c", 17, 96, 64),
        sample("d", 1, 64, 64),
    ]
    limits = Limits(GenerateSettings(), Patching(STRIDES["dct"], patch=2), folder="/videos")
    documents = requests_for(samples, fps=8.0)
    requests = [parse(storage.json_lines([document]).decode(), limits) for document in documents]
    kinds = [request.kind for request in requests]
    assert set(kinds) == {"image", "text_to_video", "image_to_video", "extend_forward", "extend_backward"}
    assert len({request.custom_id for request in requests}) == len(requests)
    sizes = {str(request.size) for request in requests if request.kind == "text_to_video"}
    assert sizes == {"9x64x96", "17x96x64"}

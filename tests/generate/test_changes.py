"""Differences between an output and its request are reported."""

from collections.abc import Callable

import pytest

from vitascope.encode.buckets import Patching
from vitascope.encode.settings import STRIDES, EncodeSettings
from vitascope.encode.text import make_text_encoder
from vitascope.generate.changes import MEANING, Change, changes
from vitascope.generate.request import Request

PATCHING = Patching(STRIDES["dct"], patch=2)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"seconds": 0}, {}),
        ({"seconds": 9 / 12, "fps": 12}, {}),
        ({"seconds": 0.3}, {Change.FRAMES_ROUNDED: "0.3 s at 8 fps are 2.4 frames, the output has 2"}),
        (
            {"width": 70},
            {Change.SIZE_CROPPED: "made as 9x48x80 (frames x height x width), cropped to 9x48x70"},
        ),
        ({"seconds": 10 / 8}, {Change.SIZE_CROPPED: "made as 13x48x64"}),
    ],
)
def test_frames_and_sizes(request_of: Callable[..., Request], fields: dict, expected: dict) -> None:
    found = changes(request_of(**fields), PATCHING, (5, 0), 128)
    found.pop(Change.SIZE_CROPPED, None) if Change.SIZE_CROPPED not in expected else None
    assert found.keys() == expected.keys()
    assert all(found[change].startswith(text) for change, text in expected.items())


PICTURE = {"image": "a.png"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (PICTURE | {"mode": "image_to_video"}, {}),
        (PICTURE | {"mode": "first_last", "image_last": "b.png", "seconds": 10 / 8}, {}),
        (
            PICTURE | {"mode": "first_last", "image_last": "b.png"},
            {Change.PICTURE_HELD: "image_last is shown for 4 frames"},
        ),
        (PICTURE | {"mode": "loop"}, {}),
        (PICTURE | {"mode": "loop", "seconds": 11 / 8}, {Change.PICTURE_HELD: "image is shown for 2 frames"}),
        ({"mode": "loop", "seconds": 2}, {}),
        (
            {"mode": "infill", "video": "a.mp4", "keep": [{"seconds": 0, "until": 0.5}]},
            {Change.KEPT_CUT: "of 4 frames of keep[0], 1 are kept"},
        ),
        (
            {"mode": "infill", "keep": [{"seconds": 0.25, "image": "a.png"}]},
            {Change.PICTURE_HELD: "keep[0] is shown for 4 frames"},
        ),
        (
            {"mode": "interpolate", "video": "a.mp4"},
            {Change.MOMENTS_MOVED: "between two frames of the video, at 0.60 of the way"},
        ),
        ({"mode": "interpolate", "video": "a.mp4", "factor": 5}, {}),
        ({"mode": "video_to_video", "video": "a.mp4"}, {}),
    ],
)
def test_what_was_done_with_media(request_of: Callable[..., Request], fields: dict, expected: dict) -> None:
    found = changes(request_of(**fields), PATCHING, (5, 0), 128)
    found.pop(Change.SIZE_CROPPED, None)
    assert found == expected


def test_frames_that_a_mode_does_not_show_are_not_cropped(request_of: Callable[..., Request]) -> None:
    for fields in ({"mode": "loop", "seconds": 2}, {"mode": "interpolate", "video": "a.mp4", "factor": 5}):
        assert changes(request_of(**fields), PATCHING, (5, 0), 128) == {}


def test_prompts_that_are_cut(request_of: Callable[..., Request]) -> None:
    encoder = make_text_encoder(EncodeSettings(max_text_tokens=16))
    texts = ["a cat " * 100, "", "a dog"]
    n_tokens = encoder.count(texts)
    assert [len(states) for states in encoder.encode(texts)] == [16, 0, n_tokens[2]]
    assert n_tokens[:2] == [202, 0]
    found = changes(request_of(), PATCHING, (n_tokens[0], 0), 16)
    assert found == {Change.PROMPT_CUT: "it has 202 tokens, of which the text encoder reads the first 16"}
    assert changes(request_of(), PATCHING, (16, 17), 16).keys() == {Change.NEGATIVE_PROMPT_CUT}


def test_each_has_a_meaning() -> None:
    assert MEANING.keys() == set(Change)

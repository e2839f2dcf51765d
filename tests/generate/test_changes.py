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

"""The conditioning frames of each mode, and their positions in the output."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from vitascope.encode.buckets import Patching
from vitascope.encode.codecs import make_codec
from vitascope.encode.settings import STRIDES, EncodeSettings
from vitascope.generate.conditions import blank, canvas, crop, latent_given, layout
from vitascope.generate.request import Request
from vitascope.ledger import Reason, Rejected

PATCHING = Patching(STRIDES["dct"], patch=2)

Make = Callable[..., Request]
EXTEND = {"video": "a.mp4"}
JOIN = EXTEND | {"mode": "join", "video_after": "b.mp4"}


@pytest.mark.parametrize(
    ("fields", "available", "first", "last", "latent"),
    [
        ({}, (), 0, 0, "0000"),
        ({"mode": "image_to_video", "image": "a.png"}, (1,), 1, 0, "1000"),
        (EXTEND | {"mode": "extend_forward"}, (99,), 5, 0, "1100"),
        (EXTEND | {"mode": "extend_forward"}, (4,), 1, 0, "1000"),
        (EXTEND | {"mode": "extend_backward"}, (99,), 0, 8, "0011"),
        (EXTEND | {"mode": "extend_backward"}, (7,), 0, 4, "0001"),
        (JOIN, (99, 99), 1, 4, "1001"),
    ],
)
def test_what_is_given_in_13_frames(
    request_of: Make, fields: dict, available: tuple[int, ...], first: int, last: int, latent: str
) -> None:
    place = layout(request_of(seconds=13 / 8, **fields), PATCHING, available)
    assert (place.n_first, place.n_last) == (first, last)
    given = latent_given(place.given, 4)
    assert "".join(str(int(g)) for g in given) == latent


def test_joining_gives_a_third_at_either_end(request_of: Make) -> None:
    place = layout(request_of(seconds=33 / 8, **JOIN), PATCHING, (99, 99))
    assert (place.n_first, place.n_last) == (9, 12)
    short = layout(request_of(seconds=33 / 8, **JOIN), PATCHING, (3, 5))
    assert (short.n_first, short.n_last) == (1, 4)


def test_a_latent_frame_is_given_only_if_all_its_frames_are() -> None:
    assert latent_given(np.array([1, 1, 1, 1, 0, 1, 1, 1, 1], bool), 4).tolist() == [True, False, True]


def test_an_end_of_fewer_than_four_frames_is_refused(request_of: Make) -> None:
    request = request_of(mode="extend_backward", **EXTEND)
    with pytest.raises(Rejected, match="has 3 at 8 fps") as refused:
        layout(request, PATCHING, (3,))
    assert refused.value.reason == Reason.TOO_SHORT


LEAST = {"text_to_video": 1, "image_to_video": 2, "extend_forward": 2, "extend_backward": 5, "join": 6}
"""Frames of an output with conditioning and generated ones."""


@pytest.mark.parametrize("n_frames", range(1, 20))
@pytest.mark.parametrize("mode", LEAST)
def test_the_output_holds_given_and_made_frames_whatever_its_length(
    request_of: Make, mode: str, n_frames: int
) -> None:
    media = {"image_to_video": {"image": "a"}, "text_to_video": {}, "join": JOIN}.get(mode, EXTEND)
    fields = media | {"mode": mode, "seconds": n_frames / 8}
    if n_frames < LEAST[mode]:
        with pytest.raises(Rejected, match=f"needs at least {LEAST[mode]} frames"):
            request_of(**fields)
        return
    request = request_of(**fields)
    place = layout(request, PATCHING, (99, 99))
    frames = np.broadcast_to(place.given[:, None, None, None], (place.made.n_frames, 48, 64, 3))
    given = np.stack(list(crop(frames, request, len(frames))))[:, 0, 0, 0]
    assert len(given) == n_frames
    assert not given.all()
    assert given[0] == (mode in ("image_to_video", "extend_forward", "join"))
    assert given[-1] == (mode in ("extend_backward", "join"))


def codec() -> Any:
    """All coefficients kept: decoding returns the input."""
    return make_codec(EncodeSettings(dct_channels=768))


@pytest.mark.parametrize("mode", ["extend_forward", "extend_backward", "join"])
def test_given_frames_come_out_where_they_belong(request_of: Make, mode: str) -> None:
    media = JOIN if mode == "join" else EXTEND
    request = request_of(**media | {"mode": mode, "seconds": 18 / 8, "width": 60, "height": 50})
    place = layout(request, PATCHING, (99, 99))
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (place.n_first + place.n_last, 50, 60, 3), np.uint8)
    filled = canvas(place, frames, codec())
    assert filled.latent.shape == (6, 8, 8, 768)
    assert filled.given.tolist() == latent_given(place.given, 4).tolist()
    decoded = (frame for group in codec().decode(filled.latent) for frame in group.numpy())
    output = np.stack(list(crop(decoded, request, place.made.n_frames)))
    assert output.shape == (18, 50, 60, 3)
    n_last = min(place.n_last, 18 - (place.made.n_frames - place.n_last)) if mode == "join" else place.n_last
    close = {"atol": 1}  # rounding to uint8
    np.testing.assert_allclose(output[: place.n_first].astype(int), frames[: place.n_first], **close)
    end = frames[place.n_first :][:n_last]
    np.testing.assert_allclose(output[18 - n_last :].astype(int), end, **close)


def test_the_blank_canvas_of_an_image(request_of: Make) -> None:
    empty = blank(request_of(seconds=0, width=70), PATCHING, channels=12)
    assert empty.latent.shape == (1, 6, 10, 12)
    assert not empty.given.any()

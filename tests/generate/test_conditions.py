"""The conditioning latent of each mode, and the output's frames."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from vitascope.encode.buckets import Patching
from vitascope.encode.codecs import make_codec
from vitascope.encode.settings import STRIDES, EncodeSettings
from vitascope.generate.conditions import blank, canvas, crop
from vitascope.generate.layout import Layout, layout
from vitascope.generate.request import Request

PATCHING = Patching(STRIDES["dct"], patch=2)

Make = Callable[..., Request]
EXTEND = {"video": "a.mp4"}
JOIN = EXTEND | {"video_after": "b.mp4"}


@functools.cache
def codec() -> Any:
    """All coefficients kept: decoding returns the input."""
    return make_codec(EncodeSettings(dct_channels=768))


KEEP = [{"seconds": 5 / 8, "until": 15 / 8}, {"seconds": 17 / 8, "image": "c.png"}]
FIELDS = {
    "image_to_video": {"image": "a.png"},
    "extend_forward": EXTEND,
    "extend_backward": EXTEND,
    "join": JOIN,
    "first_last": {"image": "a.png", "image_last": "b.png"},
    "loop": {"image": "a.png"},
    "infill": EXTEND | {"keep": KEEP},
    "interpolate": EXTEND,
}


@pytest.mark.parametrize("size", [(60, 50), (64, 48)])
@pytest.mark.parametrize("mode", FIELDS)
def test_given_frames_come_out_where_they_belong(request_of: Make, mode: str, size: tuple[int, int]) -> None:
    """As the codec gives them back, to the last bit; and this one keeps all of them."""
    fields = {"mode": mode, "seconds": 18 / 8, "width": size[0], "height": size[1]}
    request = request_of(**FIELDS[mode] | fields)
    available = {"video": 99, "video_after": 99} | {name: 1 for name in request.media if "video" not in name}
    place = layout(request, PATCHING, available)
    n_frames = sum(piece.n_frames for piece in place.pieces)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (n_frames, size[1], size[0], 3), np.uint8)
    filled = canvas(place, frames, codec())
    assert filled.given.tolist() == place.given.tolist()
    made = torch.where(filled.given[:, None, None, None], filled.latent, torch.randn_like(filled.latent))
    output, back = (decoded(latent, request, place) for latent in (made, filled.latent))
    assert output.shape == (18, size[1], size[0], 3)
    given = place.in_output >= 0
    assert 0 < given.sum() < 18
    assert np.array_equal(output[given], back[given])
    source = frames[place.source[list(place.shown)][given]]
    np.testing.assert_allclose(output[given].astype(int), source, atol=1)  # rounding to uint8
    assert np.abs(output[~given].astype(int) - back[~given]).mean() > 5


def decoded(latent: torch.Tensor, request: Request, place: Layout) -> np.ndarray:
    frames = (frame for group in codec().decode(latent) for frame in group.numpy())
    return np.stack(list(crop(frames, request, place)))


def test_a_source_to_be_made_anew_is_encoded_whole(request_of: Make) -> None:
    request = request_of(mode="video_to_video", **EXTEND, seconds=10 / 8)
    place = layout(request, PATCHING, {"video": 12})
    frames = np.random.default_rng(0).integers(0, 256, (10, 48, 64, 3), np.uint8)
    filled = canvas(place, frames, codec())
    assert not filled.given.any()
    np.testing.assert_allclose(decoded(filled.latent, request, place).astype(int), frames, atol=1)


def test_the_blank_canvas_of_an_image(request_of: Make) -> None:
    empty = blank(request_of(seconds=0, width=70), PATCHING, channels=12)
    assert empty.latent.shape == (1, 6, 10, 12)
    assert not empty.given.any()


def test_the_blank_canvas_of_a_loop_says_what_is_the_same(request_of: Make) -> None:
    empty = blank(request_of(mode="loop", seconds=2), PATCHING, channels=12)
    assert empty.latent.shape == (7, 6, 8, 12)
    assert empty.tied is not None
    assert empty.tied.tolist() == [0, 1, 2, 3, 4, 1, 2]

"""Which frames come from the media, in every mode, for codecs of any stride."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitascope.encode.buckets import Patching
from vitascope.encode.settings import STRIDES, Strides
from vitascope.generate.layout import Layout, between, layout, n_between
from vitascope.generate.parse import Limits, parse
from vitascope.generate.request import MEDIA, Mode, Request
from vitascope.generate.settings import GenerateSettings
from vitascope.ledger import Reason, Rejected

PATCHING = Patching(STRIDES["dct"], patch=2)

Make = Callable[..., Request]
EXTEND = {"video": "a.mp4"}
JOIN = EXTEND | {"mode": "join", "video_after": "b.mp4"}
ENDS = {"mode": "first_last", "image": "a.png", "image_last": "b.png"}


def asked(fields: dict[str, Any], n_frames: int, patching: Patching = PATCHING) -> Request:
    """A checked request of so many frames at 8 fps."""
    settings = GenerateSettings(media_from=("/",), token_budget=10**6, max_frames=1000)
    document = {"custom_id": "a", "prompt": "a cat", "width": 64, "height": 64, "seconds": n_frames / 8}
    return parse(json.dumps(document | fields), Limits(settings, patching=patching, folder="/media"))


def shown(place: Layout) -> str:
    """The output's frames: the number of the piece that each is from, or a dot."""
    return "".join("." if number < 0 else str(number) for number in place.in_output)


def latents(place: Layout) -> str:
    return "".join(str(int(given)) for given in place.given)


@pytest.mark.parametrize(
    ("fields", "n_frames", "available", "frames", "latent"),
    [
        ({}, 13, {}, ".............", "0000"),
        ({"mode": "image_to_video", "image": "a.png"}, 13, {"image": 1}, "0............", "1000"),
        (EXTEND | {"mode": "extend_forward"}, 13, {"video": 99}, "00000........", "1100"),
        (EXTEND | {"mode": "extend_forward"}, 13, {"video": 4}, "0............", "1000"),
        (EXTEND | {"mode": "extend_backward"}, 13, {"video": 99}, ".....00000000", "0011"),
        (EXTEND | {"mode": "extend_backward"}, 13, {"video": 7}, ".........0000", "0001"),
        (EXTEND | {"mode": "extend_backward"}, 11, {"video": 99}, "...00000000", "0011"),
        (JOIN, 13, {"video": 99, "video_after": 99}, "0........1111", "1001"),
        (JOIN, 11, {"video": 99, "video_after": 99}, "0........11", "1001"),
        (ENDS, 13, {"image": 1, "image_last": 1}, "0........1111", "1001"),
        (ENDS, 10, {"image": 1, "image_last": 1}, "0........1", "1001"),
        ({"mode": "loop"}, 8, {}, "........", "00000"),
        ({"mode": "loop", "image": "a.png"}, 9, {"image": 1}, "0........", "1001"),
        ({"mode": "loop", "image": "a.png"}, 11, {"image": 1}, "0........11", "1001"),
        (EXTEND | {"mode": "interpolate"}, 5, {"video": 5}, "0.0.0", "10101"),
        (EXTEND | {"mode": "interpolate", "factor": 5}, 6, {"video": 6}, "0....0", "101"),
        (EXTEND | {"mode": "interpolate", "factor": 6}, 7, {"video": 7}, "0.....0", "1001"),
        (EXTEND | {"mode": "video_to_video"}, 9, {"video": 9}, ".........", "000"),
        ({"mode": "image_to_image", "image": "a.png"}, 1, {"image": 1}, ".", "0"),
    ],
)
def test_what_is_given(
    fields: dict[str, Any], n_frames: int, available: dict[str, int], frames: str, latent: str
) -> None:
    place = layout(asked(fields, n_frames), PATCHING, available)
    assert (shown(place), latents(place)) == (frames, latent)
    plenty = layout(asked(fields, n_frames), PATCHING)
    assert plenty.made == place.made


@pytest.mark.parametrize(
    ("keep", "n_frames", "frames", "latent"),
    [
        ([{"seconds": 0, "image": "a.png"}], 13, "0............", "1000"),
        ([{"seconds": 3 / 8, "image": "a.png"}], 13, ".0000........", "0100"),
        ([{"seconds": 11 / 8, "image": "a.png"}], 11, ".........00", "0001"),
        ([{"seconds": 0, "until": 6 / 8}, {"seconds": 9 / 8, "until": 13 / 8}], 13, "00000....1111", "1101"),
        ([{"seconds": 1 / 8, "until": 7 / 8}], 13, ".0000........", "0100"),
        ([{"seconds": 4 / 8, "until": 11 / 8}], 11, ".....000000", "0011"),
        (
            [{"seconds": 1, "image": "a.png"}, {"seconds": 0, "until": 5 / 8}],
            13,
            "111110000....",
            "1110",
        ),
    ],
)
def test_what_is_kept(keep: list[dict[str, Any]], n_frames: int, frames: str, latent: str) -> None:
    video = {"video": "a.mp4"} if any("until" in part for part in keep) else {}
    place = layout(asked({"mode": "infill", "keep": keep} | video, n_frames), PATCHING)
    assert (shown(place), latents(place)) == (frames, latent)


def test_joining_gives_a_third_at_either_end() -> None:
    request = asked(JOIN, 33)
    first, last = layout(request, PATCHING, {"video": 99, "video_after": 99}).pieces
    assert (first.n_frames, first.first, last.n_frames, last.first) == (9, 90, 12, 0)
    first, last = layout(request, PATCHING, {"video": 3, "video_after": 5}).pieces
    assert (first.n_frames, first.first, last.n_frames, last.first) == (1, 2, 4, 0)


def test_a_loop_shows_its_tied_frames_at_the_end_only() -> None:
    place = layout(asked({"mode": "loop"}, 12), PATCHING)
    assert place.tied is not None
    assert place.tied.tolist() == [0, 1, 2, 3, 1, 2]
    assert list(place.shown) == list(range(9, 21))
    assert layout(asked({}, 12), PATCHING).tied is None


def test_frames_in_between_are_those_nearest_to_their_moments() -> None:
    assert (between(5, 4), between(2, 4), between(3, 4), between(6, 4)) == (
        [1, 2, 3, 4],
        [3],
        [2, 3],
        [2, 3, 5, 6, 8],
    )
    for stride in (1, 2, 4, 8):
        for factor in range(2, 17):
            found = between(factor, stride)
            assert len(set(found)) == factor - 1
            assert set(found) <= set(range(1, n_between(factor, stride) + 1))
    assert between(7, 1) == [1, 2, 3, 4, 5, 6]


TOO_SHORT = [
    (EXTEND | {"mode": "extend_backward"}, 9, {"video": 3}, "ends with at least 4 frames of 'video'"),
    (JOIN, 9, {"video": 9, "video_after": 3}, "4 frames of 'video_after', which has 3 at 8 fps"),
    (EXTEND | {"mode": "video_to_video"}, 9, {"video": 8}, "takes at least 9 frames of 'video'"),
    (EXTEND | {"mode": "interpolate"}, 9, {"video": 8}, "needs at least 9 frames of 'video'"),
    (
        EXTEND | {"mode": "infill", "keep": [{"seconds": 5 / 8, "until": 9 / 8}]},
        13,
        {"video": 8},
        "keeps at least 9 frames of 'video'",
    ),
]


@pytest.mark.parametrize(("fields", "n_frames", "available", "said"), TOO_SHORT)
def test_media_that_are_too_short_are_refused(
    fields: dict[str, Any], n_frames: int, available: dict[str, int], said: str
) -> None:
    with pytest.raises(Rejected, match=said) as refused:
        layout(asked(fields, n_frames), PATCHING, available)
    assert refused.value.reason == Reason.TOO_SHORT


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ([{"seconds": 2 / 8, "until": 6 / 8}], r"frame 0, then 4 at a time from 1 on, and it holds 2 to 5"),
        ([{"seconds": 3, "image": "a.png"}], r"keep\[0\] is later than the end of the output at 1.625 s"),
        ([{"seconds": 0, "until": 2}], "later than the end"),
        ([{"seconds": 0, "until": 13 / 8}], "none is left to be made"),
        (
            [{"seconds": 2 / 8, "image": "a.png"}, {"seconds": 3 / 8, "image": "b.png"}],
            r"keep\[0\] and keep\[1\] both need the frames 1 to 4, which are made together",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_before_media_are_read(keep: list[dict[str, Any]], said: str) -> None:
    video = {"video": "a.mp4"} if any("until" in part for part in keep) else {}
    with pytest.raises(Rejected, match=said) as refused:
        asked({"mode": "infill", "keep": keep} | video, 13)
    assert refused.value.reason == Reason.INVALID_REQUEST


STRIDED = [Patching(Strides(time, 8), patch=2) for time in (1, 2, 4, 8)]
OF_MODE: dict[Mode, dict[str, Any]] = {
    mode: {field: f"{field}.x" for field in fields if field != "keep"} | {"mode": str(mode)}
    for mode, fields in MEDIA.items()
}


@st.composite
def requests(draw: st.DrawFn) -> tuple[Request, Patching, dict[str, int]]:
    """A request of any mode that is accepted, and media that are long enough."""
    patching = draw(st.sampled_from(STRIDED))
    mode = draw(st.sampled_from(list(Mode)))
    fields = dict(OF_MODE[mode])
    n_frames = draw(st.integers(1, 60))
    stride = patching.strides.time
    if mode is Mode.LOOP and draw(st.booleans()):
        fields["image"] = "a.png"
    elif mode is Mode.LOOP:
        n_frames = stride * draw(st.integers(2, 9))
    if mode is Mode.IMAGE_TO_IMAGE:
        n_frames = 1
    if mode is Mode.INTERPOLATE:
        fields["factor"] = draw(st.integers(2, 16))
    if mode is Mode.INFILL:
        begin = draw(st.integers(0, n_frames - 1))
        end = draw(st.integers(begin + 1, n_frames))
        picture = {"image": "a.png", "seconds": draw(st.integers(0, n_frames)) / 8}
        stretch = {"seconds": begin / 8, "until": end / 8}
        fields["keep"] = draw(st.sampled_from([[picture], [stretch], [stretch, picture]]))
        if stretch in fields["keep"]:
            fields["video"] = "a.mp4"
    least = {Mode.EXTEND_BACKWARD: stride, Mode.JOIN: stride}.get(mode, n_frames + 20)
    available = {name: draw(st.integers(least, least + 40)) for name in ("video", "video_after")}
    try:
        return asked(fields, n_frames, patching), patching, available
    except Rejected:
        return draw(st.nothing())


@settings(max_examples=400, deadline=None)
@given(requests())
def test_whatever_is_asked_for_whole_latent_frames_are_given_and_something_is_made(
    case: tuple[Request, Patching, dict[str, int]],
) -> None:
    request, patching, available = case
    stride = patching.strides.time
    available |= {name: 1 for name in request.media if name not in available}
    place = layout(request, patching, available)
    assert place.made.n_frames % stride == 1 % stride
    assert list(place.shown) == sorted(set(place.shown))
    assert len(place.shown) == request.size.n_frames
    assert (place.shown[0] >= 0, place.shown[-1] < place.made.n_frames) == (True, True)
    given = place.given
    assert not given.all()
    assert given.any() == (bool(request.media) and place.is_kept)
    groups = [range(1)] + [range(1 + stride * i, 1 + stride * (i + 1)) for i in range(len(given) - 1)]
    visible = set(place.shown)
    source = place.source
    for whole, frames in zip(given, groups, strict=True):
        kept = [place.is_kept and source[f] >= 0 for f in frames]
        assert whole == (any(kept) and all(k or f not in visible for k, f in zip(kept, frames, strict=True)))
        # A latent frame of which a part is a conditioning frame would be remade, and its part would not be.
        assert whole or not any(kept)
    for piece in place.pieces:
        last = piece.first + piece.step * (piece.n_frames - 1)
        assert piece.first >= 0
        assert last < max(1, available[piece.media])
    if place.pieces:
        assert (place.nearest >= 0).all()
        nearest = place.nearest[source >= 0]
        assert (nearest == source[source >= 0]).all()


LEAST = {
    "text_to_video": 1,
    "image_to_video": 2,
    "extend_forward": 2,
    "extend_backward": 5,
    "join": 6,
    "first_last": 6,
    "interpolate": 2,
    "video_to_video": 1,
}
"""Frames of an output with conditioning and generated ones."""


@pytest.mark.parametrize("n_frames", range(1, 20))
@pytest.mark.parametrize("mode", LEAST)
def test_the_output_holds_given_and_made_frames_whatever_its_length(mode: str, n_frames: int) -> None:
    fields = OF_MODE[Mode(mode)]
    if n_frames < LEAST[mode]:
        with pytest.raises(Rejected, match=f"needs at least {LEAST[mode]} frames"):
            asked(fields, n_frames)
        return
    found = shown(layout(asked(fields, n_frames), PATCHING))
    assert len(found) == n_frames
    assert "." in found
    begins = ("image_to_video", "extend_forward", "join", "first_last", "interpolate")
    assert (found[0] != ".") == (mode in begins)
    if mode != "interpolate":
        assert (found[-1] != ".") == (mode in ("extend_backward", "join", "first_last"))


def test_made_sizes_of_long_videos_are_planned_quickly() -> None:
    place = layout(asked(JOIN, 900), PATCHING, {"video": 10**6, "video_after": 10**6})
    assert place.made.n_frames == 901
    assert np.count_nonzero(place.given) == 1 + (place.pieces[0].n_frames - 1) // 4 + (
        place.pieces[1].n_frames // 4
    )

"""Long videos are cut into chunks: every latent frame once, no window above the limit."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitascope.encode.buckets import Patching
from vitascope.encode.settings import STRIDES
from vitascope.generate.chunks import LEAST_LATENT, N_KEPT, after, alone, at_once, chunks_of, cut
from vitascope.generate.denoise.sampling import Sampling
from vitascope.generate.parse import Limits, n_tokens, parse
from vitascope.generate.request import Mode, Request
from vitascope.generate.settings import GenerateSettings
from vitascope.ledger import Reason, Rejected
from vitascope.records import VideoSize
from vitascope.storage import dumps

PATCHING = Patching(STRIDES["dct"], patch=2)
OF_A_FRAME = 3 * 4
"""Patches of a latent frame of 64x48 px."""
Make = Callable[..., Request]


def request(limits: Limits | None = None, **fields: Any) -> Request:
    limits = limits or Limits(GenerateSettings(max_tokens=10**6), PATCHING, "/media")
    document = {"custom_id": "a", "prompt": "a cat", "width": 64, "height": 48, "seconds": 60, "guidance": 1}
    return parse(dumps(document | fields), limits)


def limits(sampling: Sampling | None = None, **settings: Any) -> Limits:
    return Limits(GenerateSettings(**settings), PATCHING, "/media", sampling or Sampling())


@given(st.integers(1, 3000), st.integers(LEAST_LATENT, 400))
def test_every_latent_frame_is_made_once_and_no_window_is_too_long(n_latent: int, window: int) -> None:
    chunks = cut(n_latent, window)
    made = [frame for chunk in chunks for frame in range(chunk.start, chunk.stop)]
    assert made == list(range(n_latent))
    assert max(chunk.n_window for chunk in chunks) <= window
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert chunks[0].n_given == 0
    for chunk in chunks[1:]:
        assert chunk.n_before >= 1
        assert N_KEPT + chunk.n_before <= chunk.start  # frames of two kinds, and all were made before
        assert chunk.n_given < chunk.n_window


@given(st.integers(1, 3000), st.integers(LEAST_LATENT, 400))
def test_there_are_no_more_chunks_than_needed_and_later_ones_are_equal(n_latent: int, window: int) -> None:
    chunks = cut(n_latent, window)
    lengths = [chunk.stop - chunk.start for chunk in chunks[1:]]
    if lengths:
        assert max(lengths) - min(lengths) <= 1
        most = window - chunks[1].n_given
        assert len(lengths) == -(-(n_latent - window) // most)
    else:
        assert n_latent <= window


def test_a_window_without_room_for_a_new_frame_is_refused() -> None:
    assert len(cut(2, 2)) == 1
    with pytest.raises(ValueError, match="at least 3 latent frames, got 2"):
        cut(3, 2)


def test_a_request_that_fits_is_made_at_once_and_keeps_its_name() -> None:
    plain = request(seconds=5)
    assert plain.chunk_frames is None
    assert request(seconds=5, chunk_frames=41) == plain
    assert [(c.start, c.stop) for c in chunks_of(plain, PATCHING)] == [(0, 11)]
    assert plain.name("m") == Request.model_validate(plain.model_dump(exclude={"chunk_frames"})).name("m")


def test_a_longer_one_has_chunks_of_what_the_model_was_trained_on_and_another_name() -> None:
    trained = limits(Sampling(most_frames=33), max_tokens=10**6)
    long = request(trained)
    assert long.chunk_frames == 33
    assert n_tokens(long, PATCHING) == 9 * OF_A_FRAME
    assert at_once(long) == VideoSize(33, 48, 64)
    names = {r.name("m") for r in (long, request(), request(trained, chunk_frames=65), request(seconds=59))}
    assert len(names) == 4
    chosen = limits(Sampling(most_frames=33), max_tokens=10**6, chunk_frames=24)
    assert request(chosen).chunk_frames == 21  # whole latent frames


def test_chunks_are_as_long_as_a_pass_takes() -> None:
    short = limits(max_tokens=10 * OF_A_FRAME + 5)
    assert request(short).chunk_frames == 37
    guided = request(short, guidance=2)
    assert guided.chunk_frames == 17
    assert n_tokens(guided, PATCHING) <= short.settings.max_tokens


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "join", "video": "a", "video_after": "b"}, "mode join is made as a whole, only text_to"),
        ({"chunk_frames": 61}, "61x48x64 at guidance 1 takes 192 patches"),
        ({"width": 640, "height": 480}, "made .*smaller or shorter|takes .* patches"),
    ],
)
def test_what_no_pass_takes_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(Rejected, match=message) as refused:
        request(limits(max_tokens=150), **fields)
    assert refused.value.reason == Reason.TOO_MANY_TOKENS


def test_a_model_that_cannot_extend_makes_no_chunks() -> None:
    first = Sampling(modes=("text_to_video", "image_to_video"), most_frames=33)
    assert request(limits(first, max_tokens=10**6)).chunk_frames is None
    with pytest.raises(Rejected, match=r'train\.conditioning_frames = "all"'):
        request(limits(first, max_tokens=150))
    with pytest.raises(Rejected, match="chunk_frames is for text_to_video"):
        request(limits(first, max_tokens=10**6), chunk_frames=33)


def test_a_wrong_window_is_refused() -> None:
    with pytest.raises(Rejected, match="chunk_frames is at least 9 with this model, got 8"):
        request(chunk_frames=8)
    with pytest.raises(Rejected, match="chunk_frames"):
        request(chunk_frames=True)
    with pytest.raises(Rejected, match=r"generate\.chunk_frames is at least 9 with this model, got 8"):
        request(limits(Sampling(), chunk_frames=8))


def test_a_chunk_knows_how_much_work_follows() -> None:
    long = request(seconds=20, chunk_frames=33)
    chunks = chunks_of(long, PATCHING)
    later = [after(chunk, long, PATCHING) for chunk in chunks]
    assert later[-1] == 0
    for n, more in zip(range(len(chunks) - 1, 0, -1), later, strict=False):
        assert abs(more - n) <= n / 3


def test_each_chunk_is_a_request_of_its_window_with_noise_of_its_own() -> None:
    long = request(mode="image_to_video", image="a.png", seconds=20, fps=7.3, chunk_frames=33)
    chunks = chunks_of(long, PATCHING)
    parts = [alone(long, chunk, PATCHING) for chunk in chunks]
    assert len({part.seed for part in parts}) == len(parts) > 3
    assert (parts[0].seed, parts[0].mode) == (long.seed, Mode.IMAGE_TO_VIDEO)
    for chunk, part in zip(chunks, parts, strict=True):
        assert PATCHING.latent_shape(PATCHING.covering(part.size))[0] == chunk.n_window
        assert part.size == PATCHING.covering(part.size)
        assert len(chunks_of(part, PATCHING)) == 1

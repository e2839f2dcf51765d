"""Requests: defaults, and what is refused and how."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vitascope.encode.buckets import Patching
from vitascope.encode.settings import STRIDES
from vitascope.generate.denoise.sampling import MODES, OURS, Sampling
from vitascope.generate.parse import Limits, n_tokens, parse
from vitascope.generate.request import Mode, Request
from vitascope.generate.settings import GenerateSettings
from vitascope.ledger import Reason, Rejected
from vitascope.records import VideoSize

PATCHING = Patching(STRIDES["dct"], patch=2)

GOOD = {"custom_id": "cat/1", "prompt": "a cat", "width": 640, "height": 360, "seconds": 2, "fps": 8}
LIMITS = Limits(
    GenerateSettings(max_frames=65, steps=20, guidance=3.0), patching=PATCHING, folder="s3://bucket/in"
)


def line(**fields: Any) -> str:
    return json.dumps(GOOD | fields)


def test_defaults_come_from_the_settings_and_the_seed_from_the_id() -> None:
    request = parse(line(), LIMITS)
    assert (request.steps, request.guidance, request.mode) == (20, 3.0, Mode.TEXT_TO_VIDEO)
    assert request.seed == parse(line(width=320), LIMITS).seed
    assert request.seed != parse(line(custom_id="cat/2"), LIMITS).seed
    assert parse(line(seed=5, steps=3), LIMITS).seed == 5


TWO_EXPERTS = Sampling(
    solver="unipc", steps=50, guidance=5.0, shift=3.0, boundary=0.9, modes=("text_to_video",)
)


def test_what_the_settings_leave_open_comes_from_the_model() -> None:
    def of(settings: GenerateSettings, **fields: Any) -> tuple[Any, ...]:
        request = parse(line(**fields), replace(LIMITS, settings=settings, sampling=TWO_EXPERTS))
        return request.solver, request.steps, request.guidance, request.guidance_2, request.shift

    assert of(GenerateSettings()) == ("unipc", 50, 5.0, None, 3.0)
    chosen = GenerateSettings(solver="euler", steps=9, guidance=2.0, guidance_2=1.5, shift=4.0)
    assert of(chosen) == ("euler", 9, 2.0, 1.5, 4.0)
    assert of(chosen, solver="unipc", guidance_2=6, shift=0.5) == ("unipc", 9, 2.0, 6.0, 0.5)


def test_each_expert_has_its_guidance_and_a_pass_has_room_for_the_guided_one() -> None:
    limits = replace(LIMITS, settings=GenerateSettings(), sampling=TWO_EXPERTS)
    request = parse(line(guidance=1, guidance_2=3, negative_prompt="rain"), limits)
    assert request.scales == (1.0, 3.0)
    assert parse(line(guidance=3), limits).scales == (3.0, 3.0)
    unguided = parse(line(guidance=1), limits)
    assert n_tokens(request, PATCHING) == 2 * n_tokens(unguided, PATCHING)


@pytest.mark.parametrize(
    ("fields", "sampling", "said"),
    [
        ({"guidance_2": 3}, OURS, "guidance_2 is for models with two experts, and this one has one"),
        ({"guidance_2": True}, TWO_EXPERTS, "guidance_2: expected a number"),
        ({"mode": "image_to_video", "image": "a.png"}, TWO_EXPERTS, "this model makes text_to_video, got"),
        ({"solver": "heun"}, OURS, "solver: Input should be 'euler', 'dpmpp_2m' or 'unipc', got 'heun'"),
        ({"shift": 0}, OURS, "shift"),
        ({"quality": "good"}, OURS, "quality: Input should be 'exact', 'high' or 'fast', got 'good'"),
        *(
            ({"guidance_interval": wrong}, OURS, "guidance_interval: expected a low and a higher noise level")
            for wrong in (0.5, [0.5], [0.5, 0.5], [0.7, 0.2], [0, 1.1], [False, 1], ["0", "a"], [0.1, 0.2, 1])
        ),
    ],
)
def test_what_a_model_has_not_is_refused(fields: dict[str, Any], sampling: Sampling, said: str) -> None:
    with pytest.raises(Rejected, match=said):
        parse(line(**fields), replace(LIMITS, settings=GenerateSettings(), sampling=sampling))


@pytest.mark.parametrize(("seconds", "fps", "frames"), [(2, 8, 16), (0, 8, 1), (0.01, 8, 1), (1.3, 10, 13)])
def test_frames_are_seconds_times_fps_and_at_least_one(seconds: float, fps: float, frames: int) -> None:
    request = parse(line(seconds=seconds, fps=fps), LIMITS)
    assert request.size == VideoSize(frames, 360, 640)
    assert request.kind == ("image" if frames == 1 else "text_to_video")


def test_a_mode_has_its_own_defaults_and_only_media_of_its_own() -> None:
    remade = parse(line(mode="video_to_video", video="a.mp4"), LIMITS)
    assert (remade.strength, remade.n_passes, remade.factor) == (0.6, 12, None)
    between = parse(line(mode="interpolate", video="a.mp4", width=160), LIMITS)
    assert (between.strength, between.n_passes, between.factor) == (None, 20, 2)
    kept = parse(line(mode="infill", keep=[{"image": "a.png", "seconds": 1}]), LIMITS)
    assert kept.media == {"keep[0]": "s3://bucket/in/a.png"}


@pytest.mark.parametrize("trained_with", ["none", "first"])
def test_models_without_conditioning_frames_make_what_needs_none(trained_with: Any) -> None:
    limits = replace(LIMITS, sampling=Sampling(modes=MODES[trained_with]))
    assert parse(line(mode="loop"), limits)
    assert parse(line(mode="video_to_video", video="a.mp4"), limits)
    assert parse(line(mode="image_to_image", image="a.png", seconds=0), limits)
    with pytest.raises(Rejected, match="not trained to end with a picture"):
        parse(line(mode="loop", image="a.png"), limits)
    for mode in ("first_last", "infill", "interpolate"):
        with pytest.raises(Rejected, match="this model makes text_to_video and loop"):
            parse(line(mode=mode), limits)


def test_requests_of_earlier_releases_keep_their_names() -> None:
    """Names of that release, before it had further modes."""
    document = {"custom_id": "a", "prompt": "a cat", "width": 64, "height": 48, "seconds": 1, "seed": 5}
    names = [
        parse(json.dumps(document | fields), LIMITS).name("m")
        for fields in ({}, {"mode": "join", "video": "a.mp4", "video_after": "b.mp4"})
    ]
    assert names == ["a-35a0a8c1b5eebeac", "a-48184bc37099c8d0"]


def test_relative_media_lie_beside_the_request_file() -> None:
    found = parse(line(mode="image_to_video", image="a/cat.png"), LIMITS).image
    assert found == "s3://bucket/in/a/cat.png"


@pytest.mark.parametrize(
    ("fields", "reason", "said"),
    [
        ({"promt": "x"}, Reason.INVALID_REQUEST, "did you mean 'prompt'"),
        ({"prompt": "  "}, Reason.INVALID_REQUEST, "the prompt is empty"),
        ({"custom_id": ""}, Reason.INVALID_REQUEST, "custom_id"),
        ({"mode": "video_to_text"}, Reason.INVALID_REQUEST, "'extend_forward'"),
        ({"width": 8}, Reason.INVALID_REQUEST, "width"),
        ({"width": 639}, Reason.INVALID_REQUEST, "must be even"),
        ({"width": 4096, "height": 2160}, Reason.INVALID_REQUEST, "at most 921600 pixels"),
        ({"seconds": 60}, Reason.INVALID_REQUEST, "at most 65 frames, got 480"),
        ({"seconds": float("inf")}, Reason.INVALID_REQUEST, "seconds"),
        ({"guidance": 0.5}, Reason.INVALID_REQUEST, "guidance"),
        ({"seconds": 1e308}, Reason.INVALID_REQUEST, "seconds: Input should be less than or equal to 86400"),
        ({"seconds": 1e307, "fps": 100}, Reason.INVALID_REQUEST, "seconds"),
        ({"guidance": 1e308}, Reason.INVALID_REQUEST, "guidance"),
        ({"seed": 2**63}, Reason.INVALID_REQUEST, "seed"),
        ({"width": 10**4000}, Reason.INVALID_REQUEST, "width"),
        ({"seconds": True}, Reason.INVALID_REQUEST, "seconds: expected a number, got True"),
        ({"width": True}, Reason.INVALID_REQUEST, "width: expected a number, got True"),
        ({"prompt": "x" * 10_001}, Reason.INVALID_REQUEST, "prompt: String should have at most 10000"),
        ({"x" * 500_000: 1}, Reason.INVALID_REQUEST, "unknown key 'xxx"),
        ({"custom_id": [[[[[[[[]]]]]]]]}, Reason.INVALID_REQUEST, "custom_id"),
        ({"mode": "image_to_video", "image": "a/" * 5_000}, Reason.INVALID_REQUEST, "image"),
        ({"guidance": 1, "negative_prompt": "blurry"}, Reason.INVALID_REQUEST, "no effect"),
        ({"mode": "image_to_video"}, Reason.MEDIA_MISSING, "needs 'image'"),
        ({"mode": "first_last", "image": "a.png"}, Reason.MEDIA_MISSING, "'image_last' is not given"),
        ({"mode": "infill"}, Reason.MEDIA_MISSING, "mode infill needs 'keep'"),
        ({"mode": "infill", "keep": [{"seconds": 0, "until": 1}]}, Reason.MEDIA_MISSING, "'video' is not"),
        (
            {"mode": "infill", "keep": [{"seconds": 0}]},
            Reason.INVALID_REQUEST,
            "keep.0: name an image",
        ),
        (
            {"mode": "infill", "keep": [{"seconds": 2, "until": 1}]},
            Reason.INVALID_REQUEST,
            "must be later",
        ),
        ({"mode": "infill", "keep": [{"image": "a", "second": 2}]}, Reason.INVALID_REQUEST, "'seconds'"),
        (
            {"mode": "infill", "keep": [{"image": "/etc/a", "seconds": 1}]},
            Reason.INVALID_REQUEST,
            "lies outside",
        ),
        ({"mode": "infill", "keep": "a.png"}, Reason.INVALID_REQUEST, "keep"),
        (
            {"mode": "infill", "video": "a.mp4", "keep": [{"image": "a.png", "seconds": 1}]},
            Reason.INVALID_REQUEST,
            "'video' has no use",
        ),
        (
            {"mode": "loop", "seconds": 1.25},
            Reason.INVALID_REQUEST,
            "set seconds to 1 or 1.5",
        ),
        (
            {"mode": "loop", "seconds": 0.5},
            Reason.INVALID_REQUEST,
            "needs at least 8 frames, got 4",
        ),
        ({"mode": "image_to_image", "image": "a.png"}, Reason.INVALID_REQUEST, "set seconds to 0"),
        ({"strength": 0.5}, Reason.INVALID_REQUEST, "text_to_video makes no use of 'strength'"),
        ({"factor": 2}, Reason.INVALID_REQUEST, "text_to_video makes no use of 'factor'"),
        ({"mode": "video_to_video", "video": "a.mp4", "strength": 1}, Reason.INVALID_REQUEST, "strength"),
        ({"mode": "video_to_video", "video": "a.mp4", "strength": True}, Reason.INVALID_REQUEST, "a number"),
        ({"mode": "join", "video": "a.mp4"}, Reason.MEDIA_MISSING, "'video_after' is not given"),
        ({"image": "cat.png"}, Reason.INVALID_REQUEST, "makes no use of 'image'"),
        ({"mode": "image_to_video", "image": "a.png", "seconds": 0}, Reason.INVALID_REQUEST, "at least 2"),
        ({"mode": "extend_backward", "video": "a.mp4", "seconds": 0.5}, Reason.INVALID_REQUEST, "at least 5"),
        ({"width": 1280, "height": 720, "seconds": 8}, Reason.TOO_MANY_TOKENS, "generate.max_tokens"),
    ],
)
def test_a_wrong_request_is_refused_with_its_reason(fields: dict, reason: Reason, said: str) -> None:
    with pytest.raises(Rejected) as refused:
        parse(line(**fields), LIMITS)
    assert refused.value.reason == reason
    assert said in refused.value.detail
    assert len(refused.value.detail) < 500


LINE = line().encode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((t, "valid JSON") for t in (b"{", b"", b"{}{}", b"{'a': 1}", b'{"custom_id": "\\ud800"}')),
        *((t, "expected a JSON object") for t in (b"[1]", b"null", b'"text"', b"1e400", b"NaN")),
        *((t, "custom_id: Field required") for t in (b"{}", b'{"seed": 1}')),
        *((t, "nested too deeply") for t in (b"[" * 100_000, b'{"a":' * 100_000)),
        *((t, "not UTF-8") for t in (b"\xff\xfe{", line().encode("utf-16"), b'{"prompt": "\xed\xa0\x80"}')),
        (LINE.replace(b"2", b"9" * 5000), "a number has thousands of digits"),
        (LINE.replace(b'"seconds": 2', b'"seconds": 1e400'), "seconds"),
        (LINE.replace(b'"seconds": 2', b'"seconds": NaN'), "seconds"),
        (LINE.replace(b'"seconds": 2', b'"seconds": 2, "seconds": 3'), "'seconds' is given more than once"),
        (LINE.replace(b"a cat", b"a cat" * 2_000_000), "more than 1,048,576 bytes"),
        (
            b'{"custom_id": "a", "prompt": ' + b"[" * 900 + b"]" * 900 + b"}",
            "",
        ),  # the stack limits how deep it is checked
    ],
)
def test_a_line_that_is_no_request_is_refused(text: bytes, said: str) -> None:
    with pytest.raises(Rejected) as refused:
        parse(text, LIMITS)
    assert refused.value.reason == Reason.INVALID_REQUEST
    assert said in refused.value.detail
    assert len(refused.value.detail) < 500


@pytest.mark.parametrize("text", [b"\xef\xbb\xbf" + LINE, LINE + b"\r\n", LINE.replace(b"2,", b"2.0,")])
def test_how_editors_and_other_languages_write_a_line_makes_no_difference(text: bytes) -> None:
    assert parse(text, LIMITS) == parse(LINE, LIMITS)


def test_what_checking_a_line_raises_is_that_lines_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OverflowError("9" * 1000)

    monkeypatch.setattr(Patching, "covering", fail)
    with pytest.raises(Rejected, match="cannot be checked \\(OverflowError: '999") as refused:
        parse(line(), LIMITS)
    assert len(refused.value.detail) < 300


def test_a_line_without_an_id_is_refused() -> None:
    with pytest.raises(Rejected, match="custom_id"):
        parse(b"{}", LIMITS)


def test_an_image_may_have_odd_sides() -> None:
    assert parse(line(width=101, height=67, seconds=0), LIMITS).size == VideoSize(1, 67, 101)


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        (VideoSize(1, 16, 16), VideoSize(1, 16, 16)),
        (VideoSize(2, 17, 32), VideoSize(5, 32, 32)),
        (VideoSize(9, 360, 640), VideoSize(9, 368, 640)),
        (VideoSize(10, 33, 31), VideoSize(13, 48, 32)),
    ],
)
def test_sizes_snap_up_to_what_the_model_makes(asked: VideoSize, made: VideoSize) -> None:
    assert PATCHING.covering(asked) == made


def test_quality_is_that_of_the_settings_unless_a_request_says_otherwise() -> None:
    limits = replace(LIMITS, settings=GenerateSettings(quality="fast"))
    assert parse(line(), LIMITS).quality == "exact"
    assert parse(line(), limits).quality == "fast"
    assert parse(line(quality="exact"), limits).quality == "exact"


def test_guidance_doubles_the_tokens(request_of: Callable[..., Request]) -> None:
    plain, guided = request_of(guidance=1), request_of(guidance=2)
    assert n_tokens(plain, PATCHING) == 3 * 3 * 4
    assert n_tokens(guided, PATCHING) == 2 * n_tokens(plain, PATCHING)


def test_a_name_is_safe_and_belongs_to_one_request_and_model() -> None:
    name = parse(line(custom_id="../ä b?/" + "x" * 99), LIMITS).name("m")
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    variants = [line(), line(seed=1), line(prompt="a dog"), line(custom_id="cat.1")]
    names = {parse(v, LIMITS).name(model) for v in variants for model in ("m", "n")}
    assert len(names) == 8
    assert parse(line(), LIMITS).name("m") == parse(line(), LIMITS).name("m")


def test_a_new_field_leaves_the_names_of_outputs_as_they_were() -> None:
    """A name that a release made which knew none of the fields in `_LATER`."""
    fields = {"width": 64, "height": 48, "seconds": 1, "steps": 30, "guidance": 4, "solver": "euler"}
    asked = {"custom_id": "cat.1", "prompt": "a cat"} | fields
    assert parse(line(**asked), LIMITS).name("m") == "cat-1-18da93c4bdfd125b"
    changes = [{"quality": "high"}, {"guidance_interval": [0, 0.9]}, {"solver": "dpmpp_2m"}]
    assert len({parse(line(**asked | change), LIMITS).name("m") for change in changes}) == 3


@pytest.mark.parametrize(
    "image",
    [
        *("/etc/passwd", "file:///etc/passwd", "../other.png", "a/../../b.png", "s3://other/a.png"),
        *("s3://bucket/in2/a.png", "s3://bucket/in/../keys.png", "http://169.254.169.254/latest/meta-data/"),
        "simplecache::s3://bucket/x.png",
    ],
)
def test_a_request_has_no_other_media_read_than_it_may(image: str) -> None:
    with pytest.raises(Rejected, match=r"lies outside of s3://bucket/in; .*generate\.media_from"):
        parse(line(mode="image_to_video", image=image), LIMITS)


def test_other_places_of_media_can_be_allowed(tmp_path: Path) -> None:
    allowed = GenerateSettings(media_from=("s3://other", str(tmp_path)))
    limits = Limits(allowed, patching=PATCHING, folder="s3://bucket/in")
    for image in ("s3://other/a.png", "b.png", str(tmp_path / "c.png")):
        assert parse(line(mode="image_to_video", image=image), limits).image.endswith(image)
    (tmp_path / "link").symlink_to("/etc")
    beside = Limits(GenerateSettings(), patching=PATCHING, folder=str(tmp_path))
    for image in (str(tmp_path / "link" / "passwd"), "link/passwd", "file://link/passwd::memory://y"):
        with pytest.raises(Rejected, match="lies outside of"):
            parse(line(mode="image_to_video", image=image), beside)
    with pytest.raises(Rejected, match="no file has such a name"):
        parse(line(mode="image_to_video", image="a\0b"), beside)


@pytest.mark.parametrize(
    "custom_id", ["../../etc/cron.d/x", "/etc/passwd", "a\u0000b", "..", ".", "s3://other/x", "a\nb"]
)
def test_no_name_leads_out_of_the_outputs(custom_id: str) -> None:
    request = parse(line(custom_id=custom_id), LIMITS)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", request.name("model"))

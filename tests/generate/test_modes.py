"""Every mode from its media to its file, without Ray: with a model of random weights."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitascope import storage
from vitascope.encode.codecs import make_codec, psnr_db
from vitascope.generate import media
from vitascope.generate.app.codec import DecodeWrite
from vitascope.generate.app.values import Denoised, Given
from vitascope.generate.conditions import Canvas, blank, canvas, crop
from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.sampler import Work, begin
from vitascope.generate.layout import layout
from vitascope.generate.opened import Maker, Target
from vitascope.generate.request import Mode, Request
from vitascope.generate.sidecar import Spent
from vitascope.media import mp4
from vitascope.model.dit import DiT
from vitascope.model.formats.card import ModelCard

KEEP = [{"seconds": 0, "until": 5 / 8}, {"seconds": 13 / 8, "image": "b.png"}]
FIELDS: dict[str, dict[str, Any]] = {
    "text_to_video": {},
    "image_to_video": {"image": "a.png"},
    "extend_forward": {"video": "a.mp4", "steps": 3},
    "extend_backward": {"video": "a.mp4", "width": 80},
    "join": {"video": "a.mp4", "video_after": "b.mp4", "height": 38},
    "first_last": {"image": "a.png", "image_last": "b.png", "guidance": 1},
    "loop": {"seconds": 1, "steps": 5},
    "infill": {"video": "a.mp4", "keep": KEEP},
    "interpolate": {"video": "a.mp4", "fps": 16, "seconds": 7 / 16},
    "video_to_video": {"video": "a.mp4", "strength": 0.5},
    "image_to_image": {"image": "a.png", "seconds": 0},
}


def test_each_mode_is_tried() -> None:
    assert FIELDS.keys() == set(Mode)


@dataclass
class Case:
    """A request, what its media are in its output, and its work before the first step."""

    request: Request
    conditions: Given | None
    work: Work


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of a square that moves, and two pictures."""
    folder = tmp_path_factory.mktemp("media")
    for name in ("a", "b"):
        frames = np.full((20, 48, 64, 3), 60 if name == "a" else 90, np.uint8)
        for i, frame in enumerate(frames):
            frame[10:30, 2 * i : 2 * i + 20] = (200, 40 + 5 * i, 120)
        (folder / f"{name}.mp4").write_bytes(mp4.mp4_bytes(frames, 8))
        Image.fromarray(frames[5]).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def cases(folder: Path, card: ModelCard, request_of: Callable[..., Request]) -> dict[str, Case]:
    return {mode: case_of(mode, folder, card, request_of) for mode in FIELDS}


def case_of(mode: str, folder: Path, card: ModelCard, request_of: Callable[..., Request]) -> Case:
    def located(fields: dict[str, Any]) -> dict[str, Any]:
        media = ("image", "image_last", "video", "video_after")
        return {key: str(folder / value) if key in media else value for key, value in fields.items()}

    fields = {"seconds": 14 / 8, "steps": 4, "mode": mode} | located(FIELDS[mode])
    if "keep" in fields:
        fields["keep"] = [located(part) for part in fields["keep"]]
    request = request_of(**fields)
    found = asyncio.run(DecodeWrite(card).canvas(request)) if request.media else None
    if found is None:
        start = blank(request, card.patching, card.channels)
    else:
        start = Canvas(torch.tensor(found.latent), torch.tensor(found.given))
    text = torch.ones(3, card.text_dim), torch.zeros(0, card.text_dim)
    return Case(request, found, begin(request, start, text, card=card))


@pytest.fixture
def denoiser(model: DiT) -> Iterator[Denoiser]:
    denoiser = Denoiser(Experts([model]), token_budget=10_000)
    yield denoiser
    denoiser.close()


def test_mixed_modes_in_one_pass_equal_each_alone(cases: dict[str, Case], denoiser: Denoiser) -> None:
    alone = {mode: denoiser.submit(case.work).result(60) for mode, case in cases.items()}
    futures = {mode: denoiser.submit(case.work) for mode, case in cases.items()}
    for mode, future in futures.items():
        torch.testing.assert_close(future.result(60).tokens, alone[mode].tokens, atol=1e-4, rtol=1e-4)
        assert alone[mode].step == cases[mode].request.n_passes
        assert not torch.isclose(alone[mode].tokens, cases[mode].work.tokens).all()


@pytest.mark.parametrize("mode", FIELDS)
def test_conditioning_frames_come_out_as_the_codec_gives_them_back(
    mode: str,
    folder: Path,
    card: ModelCard,
    request_of: Callable[..., Request],
    denoiser: Denoiser,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To the last bit before they are encoded as a video; what it has lost is in the sidecar."""
    case = case_of(mode, folder, card, request_of)
    latent = denoiser.submit(case.work).result(60).latent(2)
    written: list[np.ndarray] = []
    whole = mp4.write_media
    monkeypatch.setattr(
        mp4, "write_media", lambda stem, frames, fps: whole(stem, noted(frames, written), fps)
    )
    target = Target(str(tmp_path / "out"), Maker("", "", 0, ""))
    done = Denoised(latent.numpy(), (1, 0), {"denoise": Spent(0.0, 0.0)})
    sidecar = asyncio.run(DecodeWrite(card).write(case.request, done, case.conditions, target))
    assert len(written) == case.request.size.n_frames
    place = layout(case.request, card.patching)
    spans = sidecar["given"]["spans"]
    assert spans == runs(place.in_output >= 0)
    pictures = {piece["picture"] for piece in sidecar["conditioning"]}
    assert {path.name for path in tmp_path.glob("out.*.jpg")} == pictures
    assert bool(pictures) == bool(case.request.media)
    if not spans:
        assert sidecar["given"] == {"first": 0, "last": 0, "spans": [], "psnr_db": None}
        return
    place, frames = media.read_given(case.request, card.patching)
    codec = make_codec(card.encode)
    back = [frame for group in codec.decode(canvas(place, frames, codec).latent) for frame in group.numpy()]
    expected = np.stack(list(crop(back, case.request, place)))
    given = place.in_output >= 0
    output = np.stack(written)
    assert np.array_equal(output[given], expected[given])
    assert np.abs(output[~given].astype(int) - expected[~given]).mean() > 1
    originals = frames[place.source[list(place.shown)][given]]
    lost = psnr_db(torch.from_numpy(originals), [torch.from_numpy(output[given])])
    assert sidecar["given"]["psnr_db"] == pytest.approx(lost, abs=0.01)
    assert 15 < lost < 60
    assert storage.read_json(target.location + ".json")["given"] == sidecar["given"]


def noted(frames: Any, into: list[np.ndarray]) -> list[np.ndarray]:
    into += [np.array(frame) for frame in frames]
    return into


def runs(mask: np.ndarray) -> list[list[int]]:
    """[begin, end) of each stretch of true values."""
    found: list[list[int]] = []
    for i in np.flatnonzero(mask).tolist():
        if found and found[-1][1] == i:
            found[-1][1] = i + 1
        else:
            found.append([i, i + 1])
    return found


def test_the_parts_of_an_output_are_described(
    folder: Path, card: ModelCard, request_of: Callable[..., Request]
) -> None:
    def parts(mode: str) -> list[tuple[Any, ...]]:
        found = case_of(mode, folder, card, request_of).conditions
        assert found is not None
        return [(p.end, p.media, p.start_s, p.n_frames, p.at) for p in found.kept.pieces]

    assert parts("first_last") == [("first", "image", 0.0, 1, 0), ("last", "image_last", 0.0, 1, 13)]
    assert parts("infill") == [("first", "video", 0.0, 5, 0), ("last", "keep[1]", 0.0, 1, 13)]
    assert parts("interpolate") == [("first", "video", 0.0, 4, 0)]
    assert parts("video_to_video") == [("source", "video", 0.0, 14, 0)]
    assert parts("extend_backward") == [("last", "video", 0.0, 8, 6)]


def test_a_loop_decodes_to_frames_that_go_round(
    folder: Path, card: ModelCard, request_of: Callable[..., Request], denoiser: Denoiser
) -> None:
    """After the last frame comes what the first one was made from."""
    case = case_of("loop", folder, card, request_of)
    latent = denoiser.submit(case.work).result(60).latent(2)
    place = layout(case.request, card.patching)
    frames = np.concatenate([group.numpy() for group in make_codec(card.encode).decode(latent)])
    period = case.request.size.n_frames
    shown = list(place.shown)
    assert np.array_equal(frames[shown[-8:]], frames[[at - period for at in shown[-8:]]])

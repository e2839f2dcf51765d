"""The diffusers codec: Wan's two layouts as tiny random networks, compared with diffusers' own calls."""

import asyncio
import json
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from media.made import read_clip
from synthetic import tiny_card
from vitascope import storage
from vitascope.config import Settings, SettingsError, load
from vitascope.encode import autoencoders, published, stage
from vitascope.encode.buckets import Limits
from vitascope.encode.codecs import autoencoder, make_codec, psnr_db
from vitascope.encode.fingerprint import latents_folder
from vitascope.encode.settings import EncodeSettings, Strides
from vitascope.encode.shards import read_samples
from vitascope.encode.strides import strides_of
from vitascope.errors import Missing, Mistake
from vitascope.generate import parse as requests
from vitascope.generate.app.codec import DecodeWrite, Publishing
from vitascope.generate.app.values import Denoised
from vitascope.generate.opened import Maker, Target
from vitascope.generate.request import Request
from vitascope.generate.settings import GenerateSettings
from vitascope.generate.sidecar import Spent
from vitascope.media import mp4
from vitascope.model.formats.card import ModelCard
from vitascope.model.formats.check import check_model
from vitascope.provenance.settings import ProvenanceSettings

LAYOUTS: dict[str, dict[str, Any]] = {
    "2.1": {"z_dim": 16},
    "2.2": {
        "z_dim": 48,
        "decoder_base_dim": 12,
        "is_residual": True,
        "patch_size": 2,
        "in_channels": 12,
        "out_channels": 12,
        "scale_factor_spatial": 16,
        "latents_mean": [i / 100 for i in range(48)],
        "latents_std": [1 + i / 100 for i in range(48)],
    },
}
STRIDES = {"2.1": Strides(time=4, space=8), "2.2": Strides(time=4, space=16)}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of several processes on few cores wait for each other, for minutes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def networks() -> dict[str, Any]:
    """A network of each layout, as diffusers makes it."""
    torch.manual_seed(0)
    common = {"base_dim": 8, "num_res_blocks": 1}
    return {name: diffusers.AutoencoderKLWan(**common, **own).eval() for name, own in LAYOUTS.items()}


@pytest.fixture(scope="session")
def folders(networks: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Their folders; that of 2.2 is a pipeline's, with the autoencoder in `vae`."""
    places = {name: tmp_path_factory.mktemp("wan") for name in LAYOUTS}
    networks["2.1"].save_pretrained(places["2.1"])
    networks["2.2"].save_pretrained(places["2.2"] / "vae")
    return places


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the folder of 2.1, to change."""
    return Path(shutil.copytree(folders["2.1"], tmp_path / "copy"))


def encode_settings(folder: object, **other: Any) -> EncodeSettings:
    return EncodeSettings(codec="diffusers", codec_folder=str(folder), **other)


def changed_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    for key in (key for key, value in changes.items() if value is None):
        del config[key]
    path.write_text(json.dumps(config))
    autoencoders.read.cache_clear()


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def statistics(network: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std of the latents' channels, as (C, 1, 1, 1)."""
    own = network.config.latents_mean, network.config.latents_std
    mean, std = (torch.tensor(values).view(-1, 1, 1, 1) for values in own)
    return mean, std


@torch.no_grad()
def latents_at_once(network: Any, frames: torch.Tensor) -> torch.Tensor:
    """The normalised mode (T, h, w, C) of the whole video in one call of diffusers."""
    pixels = (frames.float() / 127.5 - 1).permute(3, 0, 1, 2)[None].contiguous()
    mean, std = statistics(network)
    return ((network.encode(pixels).latent_dist.mode()[0] - mean) / std).permute(1, 2, 3, 0)


@torch.no_grad()
def pixels_at_once(network: Any, latents: torch.Tensor) -> torch.Tensor:
    """The pixels (1, 3, F, H, W) of the whole latent in one call of diffusers."""
    mean, std = statistics(network)
    return network.decode((latents.permute(3, 0, 1, 2) * std + mean)[None]).sample


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_and_channels_are_the_folders(layout: str, folders: dict[str, Path]) -> None:
    settings = encode_settings(folders[layout])
    codec = make_codec(settings)
    assert codec.strides == strides_of(settings) == STRIDES[layout]
    assert codec.channels == LAYOUTS[layout]["z_dim"]
    assert Limits.of(load_with(folders[layout])).patching.side_px == 2 * STRIDES[layout].space


def load_with(folder: Path, *overrides: str) -> Settings:
    return load(None, ["encode.codec=diffusers", f"encode.codec_folder={folder}", *overrides])


@pytest.mark.parametrize("n_frames", [1, 5, 17])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_streamed_latents_and_frames_equal_those_of_one_call_bit_by_bit(
    layout: str, n_frames: int, folders: dict[str, Path], networks: dict[str, Any]
) -> None:
    codec, network, frames = (
        make_codec(encode_settings(folders[layout])),
        networks[layout],
        noise(n_frames, 32, 64),
    )
    assert isinstance(codec, autoencoder.Autoencoder)
    latents = codec.encode(frames)
    assert latents.dtype == torch.float32
    assert torch.equal(latents, latents_at_once(network, frames))
    whole = pixels_at_once(network, latents)
    assert torch.equal(torch.cat(list(codec._pixel_groups([latents])), dim=2), whole)
    groups = list(codec.decode(latents))
    assert [len(group) for group in groups] == [1, *[4] * (n_frames // 4)]
    expected = ((whole[0].permute(1, 2, 3, 0) + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(torch.cat(groups), expected)
    in_parts = list(codec.decode_parts(latents.split(2)))
    assert [len(group) for group in in_parts] == [len(group) for group in groups]
    assert torch.equal(torch.cat(in_parts), expected)


def test_videos_decoded_in_turn_do_not_mix(folders: dict[str, Path]) -> None:
    codec = make_codec(encode_settings(folders["2.1"]))
    videos = [codec.encode(noise(9, 16, 16)), codec.encode(255 - noise(9, 16, 16))]
    alone = [torch.cat(list(codec.decode(latents))) for latents in videos]
    in_turn = zip(*(codec.decode(latents) for latents in videos), strict=True)
    for groups, video in zip(zip(*in_turn, strict=True), alone, strict=True):
        assert torch.equal(torch.cat(groups), video)


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that are made and still alive, and the most of them at once."""

    def __init__(self, given: list[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in given}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return made

    def _add(self, kept: torch.UntypedStorage) -> None:
        key = kept._cdata
        if key not in self._known:
            self._known.add(key)
            self.now += kept.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(kept, self._forget, key, kept.nbytes())

    def _forget(self, key: int, n_bytes: int) -> None:
        self._known.discard(key)
        self.now -= n_bytes


def most_bytes(work: Callable[[torch.Tensor], object], given: torch.Tensor) -> int:
    """The most memory that `work(given)` takes, without `given`."""
    with Live([given]) as live:
        work(given)
    return live.most


def test_memory_does_not_grow_with_the_video(folders: dict[str, Path], networks: dict[str, Any]) -> None:
    codec, network = make_codec(encode_settings(folders["2.1"])), networks["2.1"]
    videos = [noise(17, 16, 16), noise(257, 16, 16)]
    latents = [codec.encode(frames) for frames in videos]
    grown_frames, grown_latents = (few_many[1].nbytes - few_many[0].nbytes for few_many in (videos, latents))
    for work, given in ((codec.encode, videos), (lambda x: [0 for _ in codec.decode(x)], latents)):
        few, many = (most_bytes(work, one) for one in given)
        assert many - few <= 5 * grown_latents
    few, many = (most_bytes(lambda frames: latents_at_once(network, frames), frames) for frames in videos)
    assert many - few > 4 * grown_frames > 40 * grown_latents


@pytest.mark.parametrize("shape", [(4, 32, 32), (6, 32, 32), (5, 24, 32), (5, 32, 40)])
def test_frames_it_cannot_code_are_refused(shape: tuple[int, ...], folders: dict[str, Path]) -> None:
    codec = make_codec(encode_settings(folders["2.2"]))
    with pytest.raises(ValueError, match=r"frames are 1 \+ 4k with sides in multiples of 16 px"):
        codec.encode(noise(*shape))


def test_latents_of_another_codec_are_refused_at_once(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="latents are"):
        make_codec(encode_settings(folders["2.2"])).decode(torch.zeros(1, 2, 2, 16))


def test_a_codec_loads_without_a_word(folders: dict[str, Path], capfd: pytest.CaptureFixture) -> None:
    make_codec(encode_settings(folders["2.1"])).encode(noise(1, 16, 16))
    assert capfd.readouterr() == ("", "")


def test_planning_loads_neither_torch_nor_diffusers(folders: dict[str, Path]) -> None:
    code = f"""
import sys
from vitascope.encode.settings import EncodeSettings
from vitascope.encode.strides import strides_of
print(strides_of(EncodeSettings(codec="diffusers", codec_folder={str(folders["2.2"])!r})).space)
print({{"torch", "diffusers"}} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["16", "set()"]


def test_bf16_is_near_float32_and_has_another_name(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = make_codec(encode_settings(folders["2.1"]))
    quick = make_codec(encode_settings(folders["2.1"], codec_precision="bf16"))
    monkeypatch.setattr(autoencoder, "fastest", lambda _, wanted: wanted)
    latents, rough = exact.encode(noise(5, 16, 16)), quick.encode(noise(5, 16, 16))
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, latents)
    torch.testing.assert_close(rough, latents, rtol=0, atol=0.02)
    assert {group.dtype for group in quick.decode(rough)} == {torch.uint8}
    assert exact.fingerprint != quick.fingerprint


def test_the_fingerprint_is_that_of_the_contents(
    folders: dict[str, Path], copied: Path, tmp_path: Path
) -> None:
    def fingerprint(folder: Path) -> str:
        return make_codec(encode_settings(folder)).fingerprint

    first = fingerprint(folders["2.1"])
    assert first == fingerprint(copied) != fingerprint(folders["2.2"])
    pipeline = tmp_path / "pipeline"
    shutil.copytree(copied, pipeline / "vae")
    assert fingerprint(pipeline) == first
    changed_config(copied, _diffusers_version="9.0")
    assert fingerprint(copied) == first
    changed_config(copied, latents_mean=[0.5] * 16)
    assert fingerprint(copied) != first
    weights = pipeline / "vae" / autoencoders.WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert fingerprint(pipeline) != first


def test_weights_are_hashed_once_unless_they_change(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    digest = published.checksum.digest
    monkeypatch.setattr(published.checksum, "digest", lambda uri: hashed.append(uri) or digest(uri))
    weights = copied / autoencoders.WEIGHTS
    for times in (1, 1, 2):
        if times == 2:
            weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
        assert make_codec(encode_settings(copied)).fingerprint
        assert len(hashed) == times


def without_weights(folder: Path) -> None:
    (folder / autoencoders.WEIGHTS).unlink()


def pickled(folder: Path) -> None:
    (folder / autoencoders.WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")


def truncated(folder: Path) -> None:
    path = folder / autoencoders.WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])


def not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def empty(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            without_weights,
            r"copy has a config.json and no diffusion_pytorch_model.safetensors; copy the folder",
        ),
        (
            pickled,
            r"copy/diffusion_pytorch_model.bin is a pickle, which could run code, and is not read; save",
        ),
        (truncated, r"safetensors has [\d,]+ bytes, and its header describes [\d,]+; copy the folder again"),
        (not_json, "copy/config.json is no JSON document; copy the folder again"),
        (empty, "no config.json in .*copy or in its vae folder; set encode.codec_folder"),
    ],
)
def test_a_damaged_folder_is_refused_before_anything_is_loaded(
    spoil: Callable[[Path], None], message: str, copied: Path
) -> None:
    spoil(copied)
    autoencoders.read.cache_clear()
    with pytest.raises(Mistake, match=message):
        make_codec(encode_settings(copied))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"_class_name": "AutoencoderKLMagvit"},
            "'AutoencoderKLMagvit'; the known autoencoders are AutoencoderKLWan",
        ),
        ({"_class_name": None}, "describes a 'None'; the known autoencoders are"),
        ({"z_dim": None}, "does not describe an AutoencoderKLWan: it lacks 'z_dim'"),
        ({"z_dim": 8}, "16 means and 16 stds of 8 channels"),
        ({"latents_std": [0.0] * 16}, "a std that is not above 0"),
        ({"dim_mult": 3}, "does not describe an AutoencoderKLWan"),
    ],
)
def test_a_config_that_describes_no_known_autoencoder_is_refused(
    changes: dict[str, Any], message: str, copied: Path
) -> None:
    changed_config(copied, **changes)
    for refuses in (make_codec, strides_of):
        with pytest.raises(Mistake, match=message):
            refuses(encode_settings(copied))


def test_weights_of_another_network_are_refused(copied: Path) -> None:
    changed_config(copied, base_dim=12)
    codec = make_codec(encode_settings(copied))
    with pytest.raises(
        Mistake, match=r"safetensors does not fit the config.json next to it: \d+ have another shape"
    ):
        codec.encode(noise(1, 16, 16))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["encode.codec=diffusers"],
            "encode.codec_folder: codec diffusers reads an autoencoder from a folder",
        ),
        (["encode.codec_folder=/wan"], "encode.codec_folder: codec dct reads no folder; leave it out"),
        (["encode.codec_precision=bf16"], "encode.codec_precision: codec dct computes in float32"),
    ],
)
def test_settings_that_do_not_fit_the_codec_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load(None, given)


def test_lengths_follow_the_folders_stride(copied: Path) -> None:
    changed_config(copied, temperal_downsample=[True, True, True])
    assert Limits.of(load_with(copied)).patching.strides == Strides(time=8, space=8)
    sentence = r"encode.frame_counts: each frame count is 1 \+ 8k \(1, 9, 17, 25, …\), got \[1, 5\]"
    with pytest.raises(Mistake, match=sentence):
        Limits.of(load_with(copied, "encode.frame_counts=[1,5]"))
    with pytest.raises(Mistake, match=r"encode.buckets: a bucket is \[frames, height, width\] of 1 \+ 8k"):
        Limits.of(load_with(copied, "encode.buckets=[[5,64,64]]"))


def test_a_folder_on_a_store_is_as_good_as_a_local_one(folders: dict[str, Path], s3: str) -> None:
    for path in (folders["2.2"] / "vae").iterdir():
        storage.put(f"{s3}/wan/vae/{path.name}", path.read_bytes())
    local, remote = (make_codec(encode_settings(place)) for place in (folders["2.2"], f"{s3}/wan"))
    assert local.fingerprint == remote.fingerprint
    assert torch.equal(local.encode(noise(5, 32, 32)), remote.encode(noise(5, 32, 32)))


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_clips_are_encoded_with_it(
    layout: str, tmp_path: Path, folders: dict[str, Path], media: Any, clip_row: Any, put_clips: Any
) -> None:
    run = ["encode.max_pixels=4096", f'run.folder="{tmp_path}"']
    settings = load_with(folders[layout], *run)
    put_clips(settings.run.folder, [clip_row(media.carphone, width=176, height=144)])
    summary = stage.run(settings)
    assert summary["samples"] == 1
    (row,) = storage.rows(storage.join(latents_folder(settings), "index.parquet"))
    assert (row["n_frames"], row["height"] % STRIDES[layout].space) == (9, 0)
    (sample,) = read_samples(latents_folder(settings), [(row["shard"], row["row"])])
    size = (row["height"], row["width"])
    frames = read_clip(media.carphone, fps=8.0, n_frames=9, size=size, decoder="pyav")
    codec = make_codec(settings.encode)
    assert sample.latent.shape == (3, *(side // STRIDES[layout].space for side in size), codec.channels)
    latents = codec.encode(torch.from_numpy(frames)).bfloat16()
    torch.testing.assert_close(sample.latent.bfloat16(), latents, rtol=0, atol=0.05)
    measured = psnr_db(torch.from_numpy(frames), codec.decode(sample.latent))
    assert summary["codec_psnr_db"] == summary["codec_psnr_db_min"] == pytest.approx(measured, abs=0.02)
    assert row["psnr_db"] == pytest.approx(measured, abs=0.02)
    facts = storage.read_json(storage.join(latents_folder(settings), "encode.json"))
    assert (facts["channels"], len(facts["channel_std"])) == (codec.channels, codec.channels)


def card_with(folder: Path) -> ModelCard:
    settings = encode_settings(folder)
    return tiny_card().model_copy(update={"encode": settings, "channels": make_codec(settings).channels})


def asked(card: ModelCard, **fields: Any) -> Request:
    limits = requests.Limits(GenerateSettings(media_from=("/",)), patching=card.patching, folder="/media")
    document = {"custom_id": "a", "prompt": "a cat", "width": 40, "height": 38, "seconds": 10 / 8} | fields
    return requests.parse(json.dumps(document), limits)


UNSIGNED = Publishing(ProvenanceSettings(sign=False))
"""Signed files hold the time."""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_outputs_are_decoded_cropped_and_written_group_by_group(
    layout: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    card = card_with(folders[layout])
    decode = DecodeWrite(card, publishing=UNSIGNED)
    request = asked(card)
    made = card.patching.covering(request.size)
    latent = torch.randn(*card.patching.latent_shape(made), card.channels)
    target = Target(str(tmp_path / "a"), Maker("m", "i", 1, "l"))
    document = asyncio.run(
        decode.write(request, Denoised(latent.numpy(), (1, 1), {"denoise": Spent(0.0, 0.5)}), None, target)
    )
    assert document["seconds"].keys() == {"denoise", "decode", "encode", "sign", "upload"}
    assert document["seconds"]["decode"] > 0
    frames = torch.cat(list(make_codec(card.encode).decode(latent))).numpy()
    assert len(frames) == 13
    assert (tmp_path / "a.mp4").read_bytes() == mp4.mp4_bytes(frames[:10, :38, :40], 8)


def test_frames_are_written_while_later_ones_are_not_yet_decoded(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = card_with(folders["2.1"])
    decode, decoded, seen = DecodeWrite(card), [], []
    groups, to_yuv = decode._codec.decode_parts, mp4.yuv
    monkeypatch.setattr(
        decode._codec, "decode_parts", lambda parts: (decoded.append(1) or group for group in groups(parts))
    )
    monkeypatch.setattr(mp4, "yuv", lambda pixels: seen.append(len(decoded)) or to_yuv(pixels))
    latent = np.zeros((4, 6, 6, 16), np.float32)
    target = Target(str(tmp_path / "a"), Maker("m", "i", 1, "l"))
    asyncio.run(
        decode.write(asked(card), Denoised(latent, (1, 1), {"denoise": Spent(0.0, 0.5)}), None, target)
    )
    assert seen == [2, 2, 2, 2, 2, 3, 3, 3, 3, 4]  # two frames are read to see whether it is a picture


def test_a_given_picture_becomes_a_latent_frame(folders: dict[str, Path], media: Any) -> None:
    card = card_with(folders["2.1"])
    request = asked(card, mode="image_to_video", image=media.china)
    conditions = asyncio.run(DecodeWrite(card).canvas(request))
    assert conditions.latent.shape == (4, 6, 6, 16)
    assert conditions.given.tolist() == [True, False, False, False]
    assert [piece.end for piece in conditions.kept.pieces] == ["first"]


def test_a_model_is_refused_if_its_codec_gives_other_latents(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    card = card_with(folders["2.2"]).model_copy(update={"channels": 16})
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(Mistake, match="takes channels = 16, the codec diffusers gives 48"):
        check_model(str(tmp_path), card)
    shutil.rmtree(tmp_path)
    with pytest.raises(Missing):
        check_model(str(tmp_path), card)

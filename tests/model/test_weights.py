"""Published weights come in and go out unchanged."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors.torch import load_file, save_file

from model.wan_reference import LAYOUTS, Layout, layout
from vitascope import storage
from vitascope.errors import Missing, Mistake
from vitascope.model.formats.wan_names import Published, official_name, our_name
from vitascope.model.formats.weights import export_weights, open_weights, read_config
from vitascope.model.networks import build
from vitascope.model.settings import ModelSettings

SMALL = layout(depth=2, width=36, heads=3, ffn=50, text_dim=24)
WEIGHTS = "diffusion_pytorch_model.safetensors"


def saved(folder: Path, dtype: torch.dtype = torch.float32, shard: str = "10GB") -> WanTransformer3DModel:
    """A small network's folder as Diffusers writes it."""
    model = SMALL.theirs().to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    return model


@pytest.mark.parametrize("of", LAYOUTS.values(), ids=LAYOUTS)
def test_a_configuration_gives_the_sizes(of: Layout, tmp_path: Path) -> None:
    of.theirs().save_config(tmp_path / "transformer")
    found = read_config(str(tmp_path))
    assert (found.settings, found.channels, found.text_dim) == (of.settings, of.channels, of.text_dim)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shard", ["10GB", "40KB"])
def test_a_folder_of_diffusers_comes_out_byte_for_byte(
    tmp_path: Path, shard: str, dtype: torch.dtype
) -> None:
    model = saved(tmp_path / "in", dtype, shard)
    of = read_config(str(tmp_path / "in"))
    weights = open_weights(str(tmp_path / "in"), of)
    state = model.state_dict()
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in state.items())
    export_weights(str(tmp_path / "out"), weights, of, most_bytes=40_000 if shard == "40KB" else 10**10)
    before, after = ({f.name: f.read_bytes() for f in (tmp_path / p).iterdir()} for p in ("in", "out"))
    assert len(before) == 2 if shard == "10GB" else len(before) > 3
    assert after == before


def test_our_network_loads_them_and_computes_the_same(tmp_path: Path) -> None:
    state = saved(tmp_path).state_dict()
    of = read_config(str(tmp_path))
    ours = build(of.settings, of.channels, of.text_dim)
    ours.load_state_dict(open_weights(str(tmp_path), of))  # type: ignore[arg-type]
    assert all(torch.equal(tensor, state[name]) for name, tensor in ours.state_dict().items())


def test_what_is_exported_diffusers_loads(tmp_path: Path) -> None:
    ours = SMALL.ours()
    of = Published(SMALL.settings, SMALL.channels, SMALL.text_dim)
    export_weights(str(tmp_path), ours.state_dict(), of)
    theirs = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(tmp_path))
    theirs.load_state_dict(load_file(tmp_path / WEIGHTS))  # `from_pretrained` needs another package
    assert read_config(str(tmp_path)).settings == SMALL.settings


def test_a_part_is_read_without_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = saved(tmp_path).state_dict()
    weights = open_weights(str(tmp_path), read_config(str(tmp_path)))
    asked: list[int] = []
    read_bytes = storage.read_bytes

    def counted(uri: str, start: int, stop: int) -> bytes:
        asked.append(stop - start)
        return read_bytes(uri, start, stop)

    monkeypatch.setattr(storage, "read_bytes", counted)
    name = "blocks.1.ffn.net.2.weight"
    flat = state[name].flatten()
    for start, stop in ((0, 7), (11, 500), (len(flat) - 1, len(flat)), (5, 5)):
        assert torch.equal(weights.read_part(name, start, stop), flat[start:stop])
    assert asked == [4 * 7, 4 * 489, 4]


def test_parts_are_read_from_a_bucket(tmp_path: Path, s3: str) -> None:
    state = saved(tmp_path / "in", shard="40KB").state_dict()
    of = read_config(str(tmp_path / "in"))
    export_weights(f"{s3}/out", open_weights(str(tmp_path / "in"), of), of, most_bytes=40_000)
    weights = open_weights(f"{s3}/out", read_config(f"{s3}/out"))
    assert all(torch.equal(weights[name], tensor) for name, tensor in state.items())
    flat = state["proj_out.weight"].flatten()
    assert torch.equal(weights.read_part("proj_out.weight", 3, 90), flat[3:90])


OFFICIAL = {
    "patch_embedding.weight": "patch_embedding.weight",
    "condition_embedder.time_embedder.linear_1.bias": "time_embedding.0.bias",
    "condition_embedder.text_embedder.linear_2.weight": "text_embedding.2.weight",
    "condition_embedder.time_proj.weight": "time_projection.1.weight",
    "blocks.11.attn1.to_q.weight": "blocks.11.self_attn.q.weight",
    "blocks.0.attn2.to_out.0.bias": "blocks.0.cross_attn.o.bias",
    "blocks.0.attn2.norm_k.weight": "blocks.0.cross_attn.norm_k.weight",
    "blocks.0.norm2.bias": "blocks.0.norm3.bias",
    "blocks.0.ffn.net.0.proj.weight": "blocks.0.ffn.0.weight",
    "blocks.0.ffn.net.2.bias": "blocks.0.ffn.2.bias",
    "blocks.0.scale_shift_table": "blocks.0.modulation",
    "scale_shift_table": "head.modulation",
    "proj_out.weight": "head.head.weight",
}


@pytest.mark.parametrize(("ours", "theirs"), OFFICIAL.items())
def test_names_are_translated_both_ways(ours: str, theirs: str) -> None:
    assert official_name(ours) == theirs
    assert our_name(theirs) == our_name(f"model.diffusion_model.{theirs}") == our_name(ours) == ours


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_official_names_are_those_that_diffusers_converts(tmp_path: Path, prefix: str) -> None:
    model = saved(tmp_path)
    of = read_config(str(tmp_path))
    export_weights(str(tmp_path / "comfyui"), model.state_dict(), of, format="comfyui")
    (file,) = (tmp_path / "comfyui").iterdir()
    official = {prefix + name: tensor for name, tensor in load_file(file).items()}
    save_file(official, file)
    assert open_weights(str(file), of).keys() == model.state_dict().keys()
    converted = convert_wan_transformer_to_diffusers(official)
    assert all(torch.equal(converted[name], tensor) for name, tensor in model.state_dict().items())


def test_wans_own_folder_is_read_and_written(tmp_path: Path) -> None:
    model = saved(tmp_path / "in")
    of = read_config(str(tmp_path / "in"))
    for source, target in (("in", "own"), ("own", "again")):
        read = read_config(str(tmp_path / source))
        assert (read.settings, read.channels, read.text_dim) == (of.settings, of.channels, of.text_dim)
        weights = open_weights(str(tmp_path / source), read)
        assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
        export_weights(str(tmp_path / target), weights, read, format="wan", most_bytes=40_000)
    own, again = ({f.name: f.read_bytes() for f in (tmp_path / p).iterdir()} for p in ("own", "again"))
    assert own == again
    published = json.loads(own["config.json"])
    assert (published["_class_name"], published["dim"], published["in_dim"]) == ("WanModel", 36, 16)


def changed(**keys: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | keys))

    return change


def written(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")


def truncated(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9])


def other(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file(state, folder / WEIGHTS)

    return write


def misfitting(folder: Path) -> None:
    header = {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))


INDEX = WEIGHTS + ".index.json"


def index_of(file: str) -> Callable[[Path], None]:
    return written(INDEX, json.dumps({"weight_map": {"a": file}}).encode())


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "another model": (
        changed(_class_name="CogVideoXTransformer3DModel"),
        "expected WanTransformer3DModel or",
    ),
    "no class": (changed(_class_name=None), "describes a None; expected"),
    "an odd class": (changed(_class_name=["a"]), "expected WanTransformer3DModel"),
    "an image branch": (
        changed(image_dim=1280),
        "image_dim = 1280, and this network has None; name the folder",
    ),
    "added keys": (changed(added_kv_proj_dim=5120), "added_kv_proj_dim = 5120"),
    "patches in time": (
        changed(patch_size=[2, 2, 2]),
        "patch_size = [2, 2, 2], and this network has [1, 2, 2]",
    ),
    "odd patches": (changed(patch_size=2), "patch_size = 2"),
    "more input channels": (changed(in_channels=36), "out_channels = 16, and this network has 36"),
    "another norm": (changed(cross_attn_norm=False), "cross_attn_norm = False, and this network has True"),
    "other features": (changed(freq_dim=128), "freq_dim = 128"),
    "another eps": (changed(eps=1e-5), "eps = 1e-05"),
    "a size of text": (changed(num_layers="two"), "num_layers = 'two'; expected a whole number"),
    "odd heads": (changed(attention_head_dim=13), "width / heads must be even and 6 or more"),
    "no JSON": (written("config.json", b"{"), "is no JSON object; copy it again"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "no config.json in"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "no *.safetensors in"),
    "only a pickle": (pickled, "diffusion_pytorch_model.bin is a pickle, and loading it could run any code"),
    "two files": (written("other.safetensors", b""), "holds 2 sets of weights"),
    "a truncated file": (truncated, "and its header describes"),
    "no safetensors": (written(WEIGHTS, b"junk"), "is not a safetensors file"),
    "a shape with other bytes": (misfitting, "is not a safetensors file"),
    "a missing weight": (other(lambda s: s.pop("proj_out.bias")), "1 weights are missing (proj_out.bias)"),
    "a surplus weight": (other(lambda s: s.update(x=torch.zeros(2))), "1 do not belong to this model (x)"),
    "a misshapen weight": (
        other(lambda s: s.update({"proj_out.bias": torch.zeros(2)})),
        "proj_out.bias: (2,), expected (64,)",
    ),
    "quantised weights": (
        other(lambda s: s.update({"proj_out.bias": s["proj_out.bias"].to(torch.float8_e4m3fn)})),
        "holds proj_out.bias as F8_E4M3; expected F64, F32, F16, BF16",
    ),
    "an index without its file": (
        written(INDEX, b'{"weight_map": {"a": "b.safetensors"}}'),
        "names b.safetensors",
    ),
    "an index elsewhere": (
        written(INDEX, b'{"weight_map": {"a": "../b.safetensors"}}'),
        "files in the same folder",
    ),
    "an index of another kind": (written(INDEX, b"{}"), "has no weight_map"),
    "an index that promises more": (index_of(WEIGHTS), "lacks a, which the index of the folder promises"),
}


@pytest.mark.parametrize(("damage", "said"), BAD.values(), ids=BAD)
def test_what_cannot_be_read_is_named(tmp_path: Path, damage: Callable[[Path], object], said: str) -> None:
    saved(tmp_path)
    damage(tmp_path)
    with pytest.raises(Mistake) as refused:
        open_weights(str(tmp_path), read_config(str(tmp_path)))
    assert said in str(refused.value)
    assert str(tmp_path) in str(refused.value)
    assert len(str(refused.value)) < 600
    assert isinstance(refused.value, Missing) == said.startswith(("no ", "names b."))


def test_a_file_that_could_run_code_is_refused_by_its_name(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(Mistake, match="is a pickle"):
        open_weights(str(tmp_path / "wan.pth"), read_config(str(tmp_path)))


def test_an_export_next_to_other_weights_is_refused(tmp_path: Path) -> None:
    state = saved(tmp_path).state_dict()
    of = read_config(str(tmp_path))
    out = tmp_path / "out"
    export_weights(str(out), state, of)
    for most_bytes in (10**9, 40_000):
        with pytest.raises(Mistake, match=rf"{WEIGHTS}.*; export to another folder, or delete"):
            export_weights(str(out), state, of, most_bytes=most_bytes)


def test_an_export_without_a_weight_is_refused(tmp_path: Path) -> None:
    state = SMALL.ours().state_dict()
    del state["proj_out.bias"]
    with pytest.raises(Mistake, match=r"are not those of the network .* missing \(proj_out.bias\)"):
        export_weights(
            str(tmp_path / "out"), state, Published(SMALL.settings, SMALL.channels, SMALL.text_dim)
        )
    assert not (tmp_path / "out").exists()


def test_a_network_without_a_published_format_is_not_exported(tmp_path: Path) -> None:
    settings = ModelSettings(depth=2, width=32, heads=2)
    with pytest.raises(Mistake, match=r"model\.network = dit has no published format; expected wan"):
        export_weights(str(tmp_path), {}, Published(settings, 4, 8))

"""Adapters go out in the formats that others load, and come in from them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.wan_reference import LAYOUTS, Layout, layout
from vitascope.errors import Missing, Mistake
from vitascope.model.formats.adapters import FILES, layer_shapes, read_adapter, write_adapter
from vitascope.model.lora import Merged, Pair

OF = LAYOUTS["2.1"]
LAYERS = layer_shapes(OF.settings, OF.channels, OF.text_dim)
ADAPTED = [name for name in LAYERS if name.startswith("blocks.")]


def pairs(of: Layout = OF, rank: int = 4, scale: float = 0.7) -> dict[str, Pair]:
    """A random adapter of all layers in the blocks."""
    generator = torch.Generator().manual_seed(5)
    shapes = layer_shapes(of.settings, of.channels, of.text_dim)
    return {
        name: Pair(
            torch.randn(rank, n_in, generator=generator) / n_in**0.5,
            torch.randn(n_out, rank, generator=generator) / rank**0.5,
            scale,
        )
        for name, (n_out, n_in) in shapes.items()
        if name.startswith("blocks.")
    }


def velocity(model: WanTransformer3DModel) -> Tensor:
    """Of a small video, without gradients."""
    generator = torch.Generator().manual_seed(2)
    latent = torch.randn(1, OF.channels, 2, 4, 6, generator=generator)
    text = torch.randn(1, 512, OF.text_dim, generator=generator)
    with torch.no_grad():
        return model(latent, torch.tensor([700.0]), text, return_dict=False)[0]


@pytest.mark.parametrize("format", FILES)
def test_diffusers_loads_every_format_and_computes_what_merged_weights_give(
    tmp_path: Path, format: str
) -> None:
    model = OF.theirs()
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = velocity(model)
    merged = OF.theirs()
    merged.load_state_dict(dict(Merged(base, pairs())))
    expected = velocity(merged)
    uri = write_adapter(str(tmp_path), pairs(), format, torch.float32)
    pipeline = WanPipeline(tokenizer=None, text_encoder=None, vae=None, scheduler=None, transformer=model)
    pipeline.load_lora_weights(str(tmp_path), weight_name=Path(uri).name)
    found = velocity(pipeline.transformer)
    scale = expected.abs().max()
    assert (found - expected).abs().max() < 1e-5 * scale
    assert (before - expected).abs().max() > 0.1 * scale


@pytest.mark.parametrize("format", FILES)
def test_every_format_is_read_back(tmp_path: Path, format: str) -> None:
    write_adapter(str(tmp_path), pairs(), format, torch.float32)
    for location in (tmp_path, tmp_path / FILES[format]):
        found = read_adapter(str(location), LAYERS)
        assert found.keys() == pairs().keys()
        for name, pair in pairs().items():
            assert torch.equal(found[name].down, pair.down)
            assert torch.allclose(found[name].weight(), pair.weight(), rtol=1e-6, atol=1e-7)


def test_what_diffusers_writes_is_read(tmp_path: Path) -> None:
    states = {f"{name}.lora_A.weight": pair.down for name, pair in pairs().items()}
    states |= {f"{name}.lora_B.weight": pair.up for name, pair in pairs().items()}
    WanPipeline.save_lora_weights(tmp_path, transformer_lora_layers=states)
    found = read_adapter(str(tmp_path), LAYERS)
    assert all(
        torch.equal(found[name].up, pair.up) and found[name].scale == 1 for name, pair in pairs().items()
    )


def test_the_number_format_is_chosen_and_the_scale_is_exact(tmp_path: Path) -> None:
    uri = write_adapter(str(tmp_path), pairs(scale=0.7), "kohya", torch.bfloat16)
    held = load_file(uri)
    name = "lora_unet_blocks_0_self_attn_q"
    assert held[f"{name}.lora_down.weight"].dtype == torch.bfloat16
    assert held[f"{name}.alpha"] == pytest.approx(0.7 * 4)


Change = Callable[[dict[str, Tensor]], None]
FIRST = "diffusion_model.blocks.0.self_attn.q.lora_A.weight"
BAD: dict[str, tuple[Change, str]] = {
    "of another network": (
        lambda held: held.update({"unet.down.lora_A.weight": torch.zeros(1)}),
        "unet.down",
    ),
    "no LoRA alone": (
        lambda held: held.update({"diffusion_model.blocks.0.norm3.diff": torch.zeros(36)}),
        r"norm3\.diff, which is no low-rank pair",
    ),
    "half a pair": (lambda held: held.pop(FIRST), r"half a pair for blocks\.0\.attn1\.to_q: up"),
    "of other sizes": (
        lambda held: held.update({FIRST: torch.zeros(4, 35)}),
        r"\(36, 4\) and \(4, 35\) for blocks\.0\.attn1\.to_q, which has 36 inputs and 36 outputs",
    ),
    "of two ranks": (lambda held: held.update({FIRST: torch.zeros(3, 36)}), r"\(36, 4\) and \(3, 36\)"),
    "not finite": (
        lambda held: held.update({FIRST: torch.full((4, 36), torch.nan)}),
        r"values for blocks\.0\.attn1\.to_q that are not finite",
    ),
    "twice": (
        lambda held: held.update({FIRST.replace("diffusion_model.", ""): torch.ones(4, 36)}),
        r"holds blocks\.0\.attn1\.to_q twice, under different names",
    ),
    "empty": (lambda held: held.clear(), "holds no adapter"),
}


@pytest.mark.parametrize(("change", "said"), BAD.values(), ids=BAD)
def test_what_is_no_adapter_of_the_network_is_refused(tmp_path: Path, change: Change, said: str) -> None:
    uri = write_adapter(str(tmp_path), pairs(), "comfyui", torch.float32)
    held = load_file(uri)
    change(held)
    save_file(held, uri)
    with pytest.raises(Mistake, match=said):
        read_adapter(str(tmp_path), LAYERS)


def test_an_adapter_for_a_larger_network_is_refused(tmp_path: Path) -> None:
    larger = layout(OF.channels, OF.text_dim, depth=4, width=36, heads=3, ffn=80)
    write_adapter(str(tmp_path), pairs(larger), "kohya", torch.float32)
    with pytest.raises(Mistake, match=r"lora_unet_blocks_3_.*which is no low-rank pair"):
        read_adapter(str(tmp_path), LAYERS)


def test_files_that_are_not_read(tmp_path: Path) -> None:
    uri = Path(write_adapter(str(tmp_path), pairs(), "comfyui", torch.float32))
    with pytest.raises(Mistake, match="is a pickle, and loading it could run any code"):
        read_adapter(str(tmp_path / "lora.pt"), LAYERS)
    with pytest.raises(Missing, match="no safetensors file at"):
        read_adapter(str(tmp_path / "none"), LAYERS)
    (tmp_path / "other.safetensors").write_bytes(uri.read_bytes())
    with pytest.raises(Missing, match="2 safetensors files at"):
        read_adapter(str(tmp_path), LAYERS)
    uri.write_bytes(uri.read_bytes()[:-8])
    with pytest.raises(Mistake, match="copy it again from its publisher"):
        read_adapter(str(uri), LAYERS)

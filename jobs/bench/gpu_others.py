"""The parts of gpu.py that need diffusers: its transformer against ours, and an autoencoder.

diffusers: the measurements of wan_forward.py on the GPU's shapes, 8 of the blocks of Wan 2.1 1.3B: one size
    batched, and a mix padded to the largest and one by one, forward and forward with backward, all in bf16.
    Before that, ours must equal theirs in float32.
compiled: the same forward passes with the blocks of both networks compiled.
autoencoder: AutoencoderKLWan with random weights codes 81 frames of 480 x 832 pixels there and back, in bf16
    and in float32, as the encode stage does.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import wan_forward
from gpu_run import Run, need
from wan_forward import Bench, Sample

from vitascope.encode.codecs import make_codec
from vitascope.encode.settings import EncodeSettings
from vitascope.model.settings import ModelSettings

ROUNDS, TOY_ROUNDS = 3, 1
TOLERANCE = 1e-4  # in float32, with other kernels than on a CPU
TOY = wan_forward.Shapes(
    ModelSettings(network="wan", depth=2, width=48, heads=2, ffn=96),
    channels=4,
    text_dim=32,
    one_size=(2, 3, 4),
    mix=((1, 2, 2), (1, 3, 4), (2, 2, 3), (3, 3, 4)),
    captions=(1, 4, 7, 12),
)


def diffusers(run: Run) -> None:
    """Raises AssertionError if ours is not theirs."""
    bench, cases = prepared(run)
    differences = {name: bench.difference(samples) for name, samples in cases.items()}
    run.report("float32_differences", **differences)
    run.headline(largest_difference_from_diffusers=max(differences.values()))
    in_its_precision(bench)
    for case in ("mix", "one_size"):
        for backward in (False, True):
            one_case(run, bench, cases, case, backward=backward)
    assert max(differences.values()) <= TOLERANCE, f"ours is not theirs: {differences}"


def compiled(run: Run) -> None:
    """Compiles a block of each; how long that takes is part of the process's seconds, not of the rates."""
    bench, cases = prepared(run)
    in_its_precision(bench)
    backend = "eager" if run.toy else "inductor"
    bench.theirs.compile_repeated_blocks(backend=backend)
    one_case(run, bench, cases, "mix", ending="_theirs_compiled")
    for block in bench.ours.blocks:
        block.compile(backend=backend, dynamic=True)
    one_case(run, bench, cases, "mix", ending="_both_compiled")
    one_case(run, bench, cases, "one_size", ending="_both_compiled")


def prepared(run: Run) -> tuple[Bench, dict[str, list[Sample]]]:
    """Both networks in float32 on the device, and the samples of each case."""
    need("diffusers")
    torch.backends.cudnn.allow_tf32 = False  # the comparison's convolutions are in float32
    shapes = TOY if run.toy else wan_forward.SHAPES["cuda"]
    ours, theirs = shapes.models()
    return Bench(ours.to(run.device), theirs.to(run.device), run.device), shapes.cases()


def in_its_precision(bench: Bench) -> None:
    """Converts both networks to that of the measurements."""
    bench.ours.to(bench.dtype)
    bench.theirs.to(bench.dtype)


def one_case(
    run: Run,
    bench: Bench,
    cases: dict[str, list[Sample]],
    case: str,
    *,
    backward: bool = False,
    ending: str = "",
) -> None:
    """Reports the rates of the three ways."""
    samples = cases[case]

    def measured() -> dict[str, Any]:
        passes = bench.passes(samples, backward=backward)
        times = wan_forward.measured(passes, TOY_ROUNDS if run.toy else ROUNDS, run.device)
        return wan_forward.figures(times, sum(len(sample.segment.tokens) for sample in samples))

    name = f"{case}_{'forward_backward' if backward else 'forward'}{ending}"
    found = run.attempt(name, measured) or {}
    run.headline(**{f"{name}_over_{way}": found.get(f"over_{way}") for way in wan_forward.WAYS[1:]})


def autoencoder(run: Run) -> None:
    """Saves the random weights, as the codec reads a folder."""
    need("diffusers")
    from diffusers import AutoencoderKLWan

    shape = (5, 32, 32, 3) if run.toy else (81, 480, 832, 3)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8)
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        network = AutoencoderKLWan(base_dim=8, num_res_blocks=1) if run.toy else AutoencoderKLWan()
        network.save_pretrained(folder)
        del network
        for precision in ("bf16", "float32"):
            found = run.attempt(
                precision, lambda precision=precision: coded(run, Path(folder), precision, frames)
            )
            for way in ("encode", "decode"):
                run.headline(**{f"{way}_{precision}_frames_per_s": (found or {}).get(f"{way}_frames_per_s")})


def coded(run: Run, folder: Path, precision: str, frames: torch.Tensor) -> dict[str, Any]:
    """Frames per second and peak memory of both directions; frames and latents start in the CPU's memory."""
    settings = EncodeSettings(codec="diffusers", codec_folder=str(folder), codec_precision=precision)
    codec = make_codec(settings, run.device)
    latents = codec.encode(frames).cpu()
    encode_s = run.median_s(lambda: codec.encode(frames))
    encode_bytes = run.peak_bytes()

    def decode() -> None:
        assert sum(len(group) for group in codec.decode(latents)) == len(frames)

    decode_s = run.median_s(decode)
    return {
        "frames": len(frames),
        "latent": list(latents.shape),
        "encode_frames_per_s": round(len(frames) / encode_s, 2),
        "decode_frames_per_s": round(len(frames) / decode_s, 2),
        "encode_peak_bytes": encode_bytes,
        "decode_peak_bytes": run.peak_bytes(),
    }

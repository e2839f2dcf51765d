"""A pretrained autoencoder on the GPU against the CPU's results."""

from pathlib import Path

import diffusers
import pytest
import torch

from vitascope.encode.codecs import make_codec
from vitascope.encode.settings import EncodeSettings

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_latents_and_frames_are_the_cpus_and_memory_does_not_grow(precision: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    diffusers.AutoencoderKLWan(base_dim=8, num_res_blocks=1).save_pretrained(tmp_path)
    folder = {"codec": "diffusers", "codec_folder": str(tmp_path)}
    exact = make_codec(EncodeSettings(**folder))
    codec = make_codec(EncodeSettings(**folder, codec_precision=precision), GPU)
    frames = torch.randint(0, 256, (17, 64, 64, 3), dtype=torch.uint8)
    latents = exact.encode(frames)
    torch.testing.assert_close(codec.encode(frames.to(GPU)).cpu(), latents, rtol=0, atol=2e-2)
    groups = zip(codec.decode(latents), exact.decode(latents), strict=True)
    assert all((there.cpu().int() - here.int()).abs().max() <= 4 for there, here in groups)

    most = []
    for n_frames in (17, 129):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        coded = codec.encode(torch.zeros(n_frames, 64, 64, 3, dtype=torch.uint8))
        assert sum(len(group) for group in codec.decode(coded)) == n_frames
        most.append(torch.cuda.max_memory_allocated() - before - 6 * coded.nbytes)
    assert most[1] <= most[0] + (1 << 20)

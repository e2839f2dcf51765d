"""A pretrained autoencoder on the GPU against the CPU's results."""

from pathlib import Path

import diffusers
import pytest
import torch

from gpu import agreement

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_latents_and_frames_are_the_cpus_and_memory_does_not_grow(precision: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    diffusers.AutoencoderKLWan(base_dim=8, num_res_blocks=1).save_pretrained(tmp_path)
    found = agreement.autoencoder(torch.device("cuda"), tmp_path, precision)
    assert found.keys() == {"latents", "frames", "memory_growth_mib"}
    assert {name: check.error for name, check in found.items() if not check.holds} == {}

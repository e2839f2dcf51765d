"""The GPU's kernels against the CPU's results."""

import pytest
import torch

from gpu.agreement import CHECKS

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("check", CHECKS)
def test_the_gpus_results_are_the_cpus(check: str) -> None:
    agreement = CHECKS[check](torch.device("cuda"))
    assert agreement.holds, f"off by {agreement.error:.2g}"

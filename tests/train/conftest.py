"""Fixtures of the tests of training."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional

from vitascope.train.engine import Ranks


@pytest.fixture(scope="session")
def _group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of this process, once: DeepSpeed keeps the first one that it sees."""
    where = tmp_path_factory.mktemp("group")
    dist.init_process_group("gloo", init_method=f"file://{where}/ranks", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def alone(_group: None, monkeypatch: pytest.MonkeyPatch) -> Ranks:
    """This process as the only rank; afterwards torch's linear is no longer DeepSpeed's."""
    monkeypatch.setattr(functional, "linear", functional.linear)
    monkeypatch.setenv("LOCAL_RANK", "0")
    return Ranks(0, 1, torch.device("cpu"))

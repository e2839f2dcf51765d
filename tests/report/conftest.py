"""A finished run, and the helper modules here importable."""

import sys
from pathlib import Path

import pytest

from vitascope.config import Settings

sys.path.insert(0, str(Path(__file__).parent))

from finished import make_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings of a run whose folder holds everything that the stages would have written."""
    return make_run(tmp_path_factory.mktemp("run"))

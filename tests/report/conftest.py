"""Runs of the whole flow, for the report to read."""

from pathlib import Path

import pytest

from flow.finished import copied
from vitascope.config import Settings


@pytest.fixture(scope="session")
def finished_run(saved_flow: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings of the finished flow; what looks at its files leaves them unchanged."""
    return copied(saved_flow, tmp_path_factory.mktemp("finished") / "flow")


@pytest.fixture
def settings(saved_flow: Path, tmp_path: Path) -> Settings:
    """The settings of a finished flow of the test's own, which it may change."""
    return copied(saved_flow, tmp_path / "flow")

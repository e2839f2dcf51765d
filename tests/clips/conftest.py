"""Makes the helper modules here importable, also in the child processes that decode."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def new_child() -> Iterator[None]:
    """A decoding process that starts within the test, and so has its environment."""
    from vitascope.clips import isolate

    isolate._children.child = None
    yield
    isolate._children.child = None

"""Decoding processes of a test's own."""

from collections.abc import Iterator

import pytest

from vitascope.media import isolate


@pytest.fixture
def new_child() -> Iterator[None]:
    """A decoding process that starts within the test, and so has its environment."""
    isolate._children.child = None
    yield
    isolate._children.child = None

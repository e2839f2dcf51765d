"""A store that fails, between `storage` and the tests' S3 server."""

from collections.abc import Iterator

import pytest

from stores.faulty import FaultyProxy
from vitascope.stores import patience
from vitascope.stores import s3 as amazon


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Little patience, so that stalls and outages are noticed in a test's time."""
    monkeypatch.setattr(patience, "BUDGET_S", 60.0)
    monkeypatch.setattr(patience, "STALL_S", 1.0)
    monkeypatch.setattr(patience, "LONGEST_PAUSE_S", 1.0)
    yield
    amazon.Store.clear_instance_cache()


@pytest.fixture
def proxy(
    s3_server: str,
    s3: str,  # noqa: ARG001
    quick: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[FaultyProxy]:
    """The proxy between `storage` and the tests' S3 server, once the bucket is made."""
    with FaultyProxy(int(s3_server.rpartition(":")[2])).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        amazon.Store.clear_instance_cache()
        yield proxy

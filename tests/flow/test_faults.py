"""Clips and encode on a store that fails, and is killed: the end is as if nothing had happened."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flow.disturbed import Onlooker, left, moved, prepared, start, wait_for_parts
from stores.faulty import FAULTS, FaultyProxy
from stores.rgw import Rgw
from vitascope.stores import s3

pytestmark = [pytest.mark.nightly, pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(2400)]
COPIES, SHARE = 2, 0.1
STAGES = ("clips", "encode")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rgw]:
    """A real S3 server, which this process and those that it starts find and no other."""
    with Rgw(tmp_path / "rgw").running() as server:
        monkeypatch.delenv("AWS_PROFILE", raising=False)
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        s3.Store.clear_instance_cache()
        yield server
    s3.Store.clear_instance_cache()


def test_a_store_that_fails_and_is_killed_changes_nothing(server: Rgw, tmp_path: Path) -> None:
    calm = prepared(tmp_path, server.new_bucket(), COPIES)
    rough = moved(calm, calm.run.folder + "-rough")
    with FaultyProxy(server.port, SHARE).running() as proxy, Onlooker(rough.run.folder).looking() as seen:
        for stage in STAGES:
            assert start(calm, stage).wait() == 0
            begun = time.monotonic()
            driver = start(rough, stage, AWS_ENDPOINT_URL=proxy.endpoint)
            wait_for_parts(driver, rough, stage, 3)
            server.kill9()
            time.sleep(2)
            server.start_again()
            assert driver.wait() == 0
            assert left(rough, stage) == left(calm, stage)
            print(f"\n{stage} {time.monotonic() - begun:.0f} s, {sum(proxy.seen.values())} requests", end="")
    met = {fault: sum(n for (_, f), n in proxy.seen.items() if f == fault) for fault in FAULTS}
    print(f"\nfaults met: {met}; {len(seen.versions)} files read meanwhile")
    assert min(met.values()) > 0
    assert seen.torn == []
    assert {len(versions) for stage in STAGES for versions in seen.versions_of(stage)} == {1}

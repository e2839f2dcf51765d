"""A hang or crash costs one call."""

import os
import signal
import threading
import time

import numpy as np
import pytest

from media.called_in_child import be_killed, counting, crash, hang, hoard, pid, reject, spin, zeros
from vitascope.ledger import Rejected
from vitascope.media import isolate
from vitascope.media.isolate import CALLS_PER_CHILD, IDLE_BYTES, MOST_BYTES, WALL, ChildDied, isolated


def test_calls_share_one_child_that_is_not_this_process() -> None:
    assert isolated(pid, timeout_s=30) == isolated(pid, timeout_s=30) != os.getpid()


def test_a_child_that_somebody_killed_says_nothing_about_the_file() -> None:
    child = isolated(pid, timeout_s=30)
    os.kill(child, signal.SIGKILL)
    assert isolated(pid, timeout_s=30) != child
    with pytest.raises(ChildDied, match="SIGKILL"):  # but a call that always ends so may well be why
        isolated(be_killed, timeout_s=30)


def test_large_results_come_through() -> None:
    assert isolated(zeros, timeout_s=30, n=50_000_000).shape == (50_000_000,)


def test_arrays_of_all_sizes_come_back_and_stay() -> None:
    sizes = [0, 3, 100_000, 1, 0, 1_000_003]
    first = isolated(counting, timeout_s=30, sizes=sizes)
    second = isolated(counting, timeout_s=30, sizes=[50_000])
    second[0][:] = -1  # they may be written to, and are nobody else's
    for array, expected in zip(first, counting(sizes), strict=True):
        np.testing.assert_array_equal(array, expected)


def test_memory_and_files_go_with_the_arrays() -> None:
    isolated(zeros, timeout_s=30, n=10**6)
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(20):
        isolated(zeros, timeout_s=30, n=10**6)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_shared_memory_is_cut_back_to_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolate, "KEPT_BYTES", 100_000)
    monkeypatch.setattr(isolate._children, "child", None, raising=False)  # whose memory is empty
    kept = []
    for n_bytes in (40_000, 400, 400_000, 400, 80_000, 100_000, 100_004):
        n = n_bytes // 4
        _, array = isolated(counting, timeout_s=30, sizes=[0, n])
        np.testing.assert_array_equal(array, np.arange(1, 1 + n))
        kept.append(os.fstat(isolate._children.child.shared.fileno()).st_size)
    assert kept == [40_000, 40_000, 100_000, 100_000, 100_000, 100_000, 100_000]


def test_a_small_result_has_nothing_of_a_larger_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolate, "KEPT_BYTES", 10_000)
    large, small = [0, 50_000, 7], [3, 100, 0, 9]
    for sizes in (large, small, large, small):
        arrays = isolated(counting, timeout_s=30, sizes=sizes)
        for array, expected in zip(arrays, counting(sizes), strict=True):
            np.testing.assert_array_equal(array, expected)


def test_what_uses_up_its_processor_time_is_killed_and_the_next_call_works() -> None:
    isolated(pid, timeout_s=30)
    with pytest.raises(ChildDied, match=r"took longer than 0\.5 s of processor time"):
        isolated(spin, timeout_s=0.5)
    assert isolated(pid, timeout_s=30)


def test_the_processor_time_of_all_threads_counts() -> None:
    isolated(spin, timeout_s=30, seconds=0.1, threads=4)
    with pytest.raises(ChildDied, match="of processor time"):
        isolated(spin, timeout_s=1, seconds=1.5, threads=4)


def test_a_call_has_its_processor_time_to_itself() -> None:
    for _ in range(4):
        assert isolated(spin, timeout_s=1, seconds=0.5) >= 0.5


def test_a_child_that_waits_for_a_processor_says_nothing_about_the_file() -> None:
    """It is stopped for longer than its limit, as one of low priority may be on a busy machine."""
    child, stopped_s = isolated(pid, timeout_s=30), 1.5
    threading.Timer(0.1, os.kill, (child, signal.SIGSTOP)).start()
    threading.Timer(0.1 + stopped_s, os.kill, (child, signal.SIGCONT)).start()
    started = time.monotonic()
    assert isolated(spin, timeout_s=1, seconds=0.5)
    assert time.monotonic() - started > stopped_s
    assert isolated(pid, timeout_s=30) == child


def test_a_child_that_sleeps_for_ever_is_killed_by_the_clock() -> None:
    isolated(pid, timeout_s=30)
    started = time.monotonic()
    with pytest.raises(ChildDied, match=r"took longer than 2 s, most of it waiting"):
        isolated(hang, timeout_s=2 / WALL)
    assert 2 <= time.monotonic() - started < 30


def test_a_crash_says_so_and_the_next_call_works() -> None:
    with pytest.raises(ChildDied, match="SIGSEGV"):
        isolated(crash, timeout_s=30)
    assert isolated(pid, timeout_s=30)


def test_exceptions_are_raised_here() -> None:
    with pytest.raises(Rejected, match="as told"):
        isolated(reject, timeout_s=30)


def test_a_child_is_replaced_after_many_calls() -> None:
    pids = [isolated(pid, timeout_s=30) for _ in range(CALLS_PER_CHILD + 1)]
    assert len(set(pids)) == 2


def test_a_child_that_has_grown_is_replaced() -> None:
    before = isolated(pid, timeout_s=30)
    isolated(hoard, timeout_s=30, n_bytes=IDLE_BYTES // 2)
    assert isolated(pid, timeout_s=30) == before
    isolated(hoard, timeout_s=30, n_bytes=IDLE_BYTES // 2)
    assert isolated(pid, timeout_s=30) != before


def test_a_gigantic_claim_is_a_memory_error_and_no_more() -> None:
    before = isolated(pid, timeout_s=30)
    with pytest.raises(MemoryError):
        isolated(zeros, timeout_s=30, n=MOST_BYTES)
    assert isolated(pid, timeout_s=30) == before


def test_each_thread_has_its_own_child() -> None:
    pids: list[int] = []
    threads = [threading.Thread(target=lambda: pids.append(isolated(pid, timeout_s=30))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(pids)) == 2


def test_a_child_ends_with_its_thread() -> None:
    pids: list[int] = []
    thread = threading.Thread(target=lambda: pids.append(isolated(pid, timeout_s=30)))
    thread.start()
    thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)

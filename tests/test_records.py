"""Names derived from content, and sizes that check themselves."""

import subprocess
import sys

import pytest

from vitascope.records import VideoSize, stable_id, stable_int


def test_stable_names_are_the_same_in_every_process() -> None:
    code = "from vitascope.records import *; print(stable_id('a', 1), stable_int('a', 1))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert other.split() == [stable_id("a", 1), str(stable_int("a", 1))]


def test_parts_do_not_run_together() -> None:
    assert stable_id("ab", "c") != stable_id("a", "bc")


def test_stable_int_fits_a_signed_64_bit_column() -> None:
    assert all(0 <= stable_int(i) < 2**63 for i in range(1000))


def test_video_size_prints_as_frames_height_width_and_refuses_nothing() -> None:
    assert str(VideoSize(9, 64, 96)) == "9x64x96"
    with pytest.raises(ValueError, match="at least 1"):
        VideoSize(0, 64, 96)

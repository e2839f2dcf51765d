"""The reason why a replica cannot start, from Ray Serve's messages."""

import pytest

from vitascope.errors import Mistake
from vitascope.generate.starting import CannotStart, reason, starting

TRACEBACK = """The deployment failed to start 2 times in a row. See controller logs for details. Error:
ray::ServeReplica:x:Denoise.initialize_and_get_metadata() (pid=1, ip=1, actor_id=1)
  File "serve/replica.py", line 1, in initialize_and_get_metadata
    raise RuntimeError(traceback.format_exc()) from None
RuntimeError: Traceback (most recent call last):
{text}
"""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("no\n  room"), "the model cannot start: MemoryError: no room"),
        (Mistake("the file is damaged"), "the model cannot start: the file is damaged"),
        (
            OSError(2, "No such file", "/x/model"),
            "cannot start: FileNotFoundError: [Errno 2] No such file: '/x",
        ),
        (ValueError("x" * 10_000), "the model cannot start: ValueError: xxxx"),
    ],
)
def test_a_constructors_reason_is_one_line(error: Exception, said: str) -> None:
    with pytest.raises(CannotStart) as failed, starting("the model"):
        raise error
    text = TRACEBACK.format(text=f"vitascope.generate.starting.CannotStart: {failed.value}")
    found = reason(["", text])
    assert said in found
    assert "\n" not in found
    assert len(found) < 600


def test_what_is_not_ours_is_the_last_line() -> None:
    assert "perhaps for lack of memory" in reason(["Error:\nThe actor died.\nActorDiedError()"])
    assert reason([TRACEBACK.format(text="ImportError: no torch")]) == "ImportError: no torch"
    assert reason(["", " "]) == "Ray Serve gives no reason"

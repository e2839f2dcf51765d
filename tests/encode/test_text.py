"""The minilm text encoder: real token states, the same in any company, from no network."""

import subprocess
import sys

import pytest
import torch

from vitascope.encode.settings import EncodeSettings
from vitascope.encode.text import TextEncoder, TextStates, make_text_encoder, minilm

RABBIT = "a large grey rabbit stands in a sunny meadow"
CITY = "traffic moves along a wide street of a city at dusk, seen from a bridge between tall buildings"


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return make_text_encoder(EncodeSettings())


def test_real_tokens_only(encoder: TextEncoder) -> None:
    rabbit, city, empty = encoder.encode([RABBIT, CITY, " "])
    assert rabbit.shape == (9 + 2, encoder.dim)  # nine words, start and end
    assert len(city) > len(rabbit)
    assert empty.shape == (0, encoder.dim)
    assert rabbit.dtype == torch.float32


@pytest.mark.usefixtures("one_thread")
def test_a_caption_alone_and_in_a_batch_is_the_same(encoder: TextEncoder) -> None:
    together = encoder.encode([CITY, RABBIT, ""] * 30)
    assert torch.equal(together[1], encoder.encode([RABBIT])[0])
    assert torch.equal(together[-3], encoder.encode([CITY])[0])


def test_the_same_caption_twice_is_bit_identical(encoder: TextEncoder) -> None:
    assert torch.equal(encoder.encode([CITY])[0], encoder.encode([CITY])[0])


def test_states_tell_captions_apart_by_meaning(encoder: TextEncoder) -> None:
    rabbit, hare, city = (
        torch.nn.functional.normalize(states.mean(0), dim=0)
        for states in encoder.encode([RABBIT, "a big gray bunny on the grass in sunshine", CITY])
    )
    assert rabbit @ hare > rabbit @ city + 0.2


def test_long_captions_are_cut() -> None:
    short = make_text_encoder(EncodeSettings(max_text_tokens=8))
    assert len(short.encode([CITY])[0]) == 8


def test_the_fingerprint_follows_the_weights_and_the_cut(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = make_text_encoder(EncodeSettings())
    assert same.fingerprint == encoder.fingerprint
    assert make_text_encoder(EncodeSettings(max_text_tokens=64)).fingerprint != encoder.fingerprint
    monkeypatch.setattr(minilm, "_file_hash", lambda path: f"other {path.name}")
    assert make_text_encoder(EncodeSettings()).fingerprint != encoder.fingerprint


def test_states_can_be_trained_on(encoder: TextEncoder) -> None:
    weight = torch.ones(encoder.dim, requires_grad=True)
    (encoder.encode([RABBIT])[0] @ weight).sum().backward()
    assert weight.grad is not None


def test_loading_prints_nothing_and_needs_no_network() -> None:
    code = (
        "import socket\n"
        "def refuse(*_): raise OSError('network')\n"
        "socket.socket.connect = refuse\n"
        "from vitascope.encode.settings import EncodeSettings\n"
        "from vitascope.encode.text import make_text_encoder\n"
        "print(make_text_encoder(EncodeSettings()).encode(['a bridge'])[0].shape[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "384\n"
    assert done.stderr == ""


class Letters:
    """Encodes a caption as the numbers of its letters, and keeps its requests."""

    dim, fingerprint = 4, "letters"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, captions: list[str]) -> list[torch.Tensor]:
        self.asked += captions
        return [torch.tensor([[float(ord(x))] * self.dim for x in c]).reshape(-1, self.dim) for c in captions]


N_BYTES = Letters.dim * 4
"""Of the states of a letter."""


def test_states_of_a_caption_are_computed_once() -> None:
    letters = Letters()
    states = TextStates(letters)
    for batch in (["b", "a", "b", ""], ["c", "a"], ["b", ""], []):
        for got, expected in zip(states.encode(batch), Letters().encode(batch), strict=True):
            assert torch.equal(got, expected)
    assert sorted(letters.asked) == ["", "a", "b", "c"]
    assert states.dim == letters.dim


def test_states_used_last_are_kept_and_others_go() -> None:
    letters = Letters()
    states = TextStates(letters, max_bytes=4 * N_BYTES)
    for batch in (["aa"], ["bb"], ["aa"], ["cc"], ["aa"]):
        states.encode(batch)
    assert letters.asked == ["aa", "bb", "cc"]
    states.encode(["bb"])
    assert letters.asked == ["aa", "bb", "cc", "bb"]
    states.encode(["cc"])  # which "bb" took the place of, as "aa" was used after it
    assert letters.asked == ["aa", "bb", "cc", "bb", "cc"]


def test_more_states_than_can_be_kept_are_right_and_not_kept() -> None:
    letters = Letters()
    states = TextStates(letters, max_bytes=4 * N_BYTES)
    batch = ["long caption", "a", "bb", "ccc", "a"]
    for _ in range(2):
        for got, expected in zip(states.encode(batch), Letters().encode(batch), strict=True):
            assert torch.equal(got, expected)
    assert letters.asked.count("long caption") == 2

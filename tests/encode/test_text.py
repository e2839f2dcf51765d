"""The minilm text encoder: real token states, the same in any company, from no network."""

import subprocess
import sys

import pytest
import torch

from vitascope.encode.settings import EncodeSettings
from vitascope.encode.text import TextEncoder, make_text_encoder, minilm

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

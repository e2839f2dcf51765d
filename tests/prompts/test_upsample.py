"""Prompts rewritten by an endpoint, a local model or a function: once, with a reason if it fails."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from caption.endpoint_server import Decide, fails, says, serving
from prompts import functions
from vitascope import config
from vitascope.config import SettingsError
from vitascope.errors import Mistake
from vitascope.ledger import Reason, Rejected
from vitascope.prompts.settings import PromptsSettings
from vitascope.prompts.upsample import Upsampler, identity

BY_FUNCTION = PromptsSettings(upsample="prompts.functions:longer")


def by_endpoint(url: str, **more: Any) -> PromptsSettings:
    own = {"endpoint": url, "endpoint_model": "m", "timeout_s": 5.0, "retries": 1}
    return PromptsSettings(upsample="endpoint", **own | more)


def test_a_function_rewrites_each_prompt_once(tmp_path: Path) -> None:
    functions.CALLS.clear()
    upsample = Upsampler(BY_FUNCTION, str(tmp_path))
    assert [upsample("a cat"), upsample("a cat"), upsample("a dog")] == [
        "a cat in the rain",
        "a cat in the rain",
        "a dog in the rain",
    ]
    again = Upsampler(BY_FUNCTION, str(tmp_path))  # a replica that was started anew
    assert again("a cat") == "a cat in the rain"
    other = BY_FUNCTION.model_copy(update={"options": {"words": "at night"}})
    assert Upsampler(other, str(tmp_path))("a cat") == "a cat at night"
    assert functions.CALLS == ["a cat", "a dog", "a cat"]


def test_the_endpoint_is_asked_once_and_always_in_the_same_way(tmp_path: Path) -> None:
    with serving(lambda *_: says(" A cat\nin the rain. ")) as server:
        upsample = Upsampler(by_endpoint(server.url), str(tmp_path))
        assert upsample("a cat") == upsample("a cat") == "A cat in the rain."
    (asked,) = server.asked
    assert asked.prompt.endswith("\n\na cat")
    assert asked.prompt.startswith("Rewrite this prompt")
    assert (asked.body["temperature"], asked.body["seed"], asked.pictures) == (0, 0, [])


def test_attempts_that_race_use_one_prompt(tmp_path: Path) -> None:
    numbers = iter(range(100))

    def decide(*_: object) -> Any:
        return says(f"{next(numbers)} cats")

    with serving(decide) as server, ThreadPoolExecutor(8) as pool:
        upsample = Upsampler(by_endpoint(server.url), str(tmp_path))
        used = set(pool.map(upsample, ["cats"] * 8))
    assert len(used) == 1


@pytest.mark.parametrize(
    ("decide", "why"),
    [
        (lambda *_: fails(500, "overloaded"), "HTTP 500 overloaded"),
        (lambda *_: fails(401, "wrong key"), "check prompts.endpoint, prompts.endpoint_model"),
        (lambda *_: says("I'm sorry, I can't help with that."), "sorry"),
        (lambda *_: says(""), "empty"),
        (lambda *_: says("word " * 3000), "expected 1 to 10,000 characters, got 14999"),
    ],
    ids=["server", "key", "refusal", "empty", "endless"],
)
def test_failures_are_refusals_with_the_reason(tmp_path: Path, decide: Decide, why: str) -> None:
    with serving(decide) as server:
        upsample = Upsampler(by_endpoint(server.url), str(tmp_path))
        with pytest.raises(Rejected, match="cannot be rewritten") as refused:
            upsample("a cat")
        assert refused.value.reason == Reason.GENERATION_FAILED
        assert why in refused.value.detail
        lenient = by_endpoint(server.url, on_failure="original")
        assert Upsampler(lenient, str(tmp_path))("a cat") == "a cat"
    assert list(tmp_path.iterdir()) == []


def test_a_failure_that_passes_is_tried_again(tmp_path: Path) -> None:
    with serving(lambda _, before: says("A cat.") if before else fails(503)) as server:
        assert Upsampler(by_endpoint(server.url), str(tmp_path))("a cat") == "A cat."


def test_an_endpoint_that_is_away_is_a_refusal_in_time(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(Rejected, match="nothing answers at"):
        Upsampler(by_endpoint("http://127.0.0.1:9/v1", retries=0), str(tmp_path))("a cat")
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("name", "why"), [("nothing", "expected 1 to 10,000"), ("broken", "RuntimeError: no model")]
)
def test_a_function_that_fails_is_a_refusal(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(Rejected, match=why):
        Upsampler(PromptsSettings(upsample=f"prompts.functions:{name}"), str(tmp_path))("a cat")


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("prompts.functions:missing", {}, "cannot load the function prompts.functions:missing"),
        ("prompts.nowhere:longer", {}, "No module named"),
        ("prompts.functions:NO_FUNCTION", {}, "is a int, expected a function"),
        ("prompts.functions:longer", {"other": 1}, "unexpected keyword argument 'other'"),
    ],
)
def test_a_function_that_cannot_be_used_is_a_mistake(
    tmp_path: Path, name: str, options: dict, why: str
) -> None:
    with pytest.raises(Mistake, match=r"prompts\.upsample = .*" + why):
        Upsampler(PromptsSettings(upsample=name, options=options), str(tmp_path))


_WORDS = ["<pad>", "</s>", "<unk>", "cat", *(f"word{i}" for i in range(60))]
_TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.fixture
def save_model(tmp_path: Path) -> Callable[..., Path]:
    """Writes a language model with random weights, and its tokenizer."""

    def save(template: str | None = _TEMPLATE) -> Path:
        words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(_WORDS)}, unk_token="<unk>"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=words, eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
        )
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path / "model")
        torch.manual_seed(0)
        small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
        sizes = {"vocab_size": len(_WORDS), "num_hidden_layers": 2, "initializer_range": 1.0}
        settings = LlamaConfig(**small, **sizes, eos_token_id=None)
        LlamaForCausalLM(settings).save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save


def test_a_local_model_answers_greedily(save_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = save_model()
    settings = PromptsSettings(upsample="local", folder=str(folder), max_tokens=6, instruction="word1")
    made = Upsampler(settings, str(tmp_path / "kept"))("cat word2")
    by_hand = AutoModelForCausalLM.from_pretrained(folder).eval()
    asked = torch.tensor([[_WORDS.index(word) for word in ("word1", "cat", "word2")]])
    answer = by_hand.generate(asked, max_new_tokens=6, do_sample=False)[0, 3:]
    assert made.split() == [_WORDS[i] for i in answer if _WORDS[i] not in ("<pad>", "</s>", "<unk>")]


def test_a_folder_without_such_a_model_is_a_mistake(save_model: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="holds no language model"):
        Upsampler(PromptsSettings(upsample="local", folder=str(tmp_path)), str(tmp_path))
    without = PromptsSettings(upsample="local", folder=str(save_model(None)))
    with pytest.raises(Mistake, match="has no chat template"):
        Upsampler(without, str(tmp_path))


def test_what_decides_prompts_decides_their_identity() -> None:
    assert identity(PromptsSettings()) == ""
    assert identity(PromptsSettings(filter="off", audit_days=3)) == ""
    one = identity(BY_FUNCTION)
    assert one == identity(BY_FUNCTION.model_copy(update={"retries": 9, "cpus": 2.0, "filter": "off"}))
    assert one != identity(BY_FUNCTION.model_copy(update={"options": {"words": "x"}}))


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["prompts.upsample=endpoint"], "prompts.endpoint_model is not set"),
        (["prompts.upsample=local"], "prompts.folder is not set"),
        (["prompts.upsample=sometimes"], "prompts.upsample: expected"),
        (['prompts.frames={use="score", function="a:b"}'], "would change nothing"),
        (["prompts.endpoint=https://me:secret@host/v1"], "prompts.endpoint holds"),
    ],
)
def test_settings_that_cannot_work_are_refused(overrides: list[str], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        config.load(None, overrides)

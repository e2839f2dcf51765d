"""Captions from an OpenAI-compatible endpoint, in all its moods."""

import io
from typing import Any

import pytest
from endpoint_server import Asked, Decide, Reply, fails, says, serving
from PIL import Image

from vitascope.caption import endpoint as endpoint_module
from vitascope.caption.answers import Unusable
from vitascope.caption.endpoint import Endpoint
from vitascope.caption.settings import CaptionSettings
from vitascope.ledger import Reason, Rejected


def jpeg(grey: int, size: tuple[int, int] = (32, 24)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (grey,) * 3).save(file, "JPEG")
    return file.getvalue()


def settings(url: str, **more: Any) -> CaptionSettings:
    return CaptionSettings(
        source="endpoint", endpoint=url, **{"endpoint_model": "m", "timeout_s": 5.0, "retries": 2} | more
    )


def outcome(decide: Decide, **more: Any) -> str | Rejected:
    """What becomes of one question."""
    with serving(decide) as server:
        (only,) = Endpoint(settings(server.url, **more)).ask([([jpeg(50)], "What is it?")])
    return only


def rejected(decide: Decide, **more: Any) -> tuple[str, str]:
    result = outcome(decide, **more)
    assert isinstance(result, Rejected)
    return result.reason, result.detail


def test_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k-1")
    with serving(lambda *_: says("  A grey\nwall. ")) as server:
        ours = settings(server.url, max_tokens=77, endpoint_options={"temperature": 0.5, "seed": 3})
        assert Endpoint(ours).ask([([jpeg(50), jpeg(90)], "What is it?")]) == ["A grey wall."]
    (asked,) = server.asked
    assert asked.key == "Bearer k-1"
    assert asked.prompt == "What is it?"
    assert [picture.size for picture in asked.pictures] == [(32, 24)] * 2
    more = {key: value for key, value in asked.body.items() if key != "messages"}
    assert more == {"model": "m", "max_tokens": 77, "temperature": 0.5, "seed": 3}


def test_newer_models_of_openai_name_the_limit_otherwise() -> None:
    with serving(lambda *_: says("A wall.")) as server:
        ours = settings(server.url, max_tokens=77, max_tokens_name="max_completion_tokens")
        Endpoint(ours).ask([([jpeg(50)], "What?")])
    assert server.asked[0].body["max_completion_tokens"] == 77
    assert "max_tokens" not in server.asked[0].body


def test_answers_come_in_the_order_of_the_questions_with_so_many_in_flight() -> None:
    def decide(asked: Asked, _: int) -> Reply:
        reply = says(f"grey {asked.grey}")
        reply.wait_s = 0.2 if asked.grey % 20 else 0.05
        return reply

    with serving(decide) as server:
        captioner = Endpoint(settings(server.url, in_flight=3))
        for _ in range(2):  # a second call uses the connections of the first
            answers = captioner.ask([([jpeg(10 * i)], "What?") for i in range(1, 10)])
            assert answers == [f"grey {10 * i}" for i in range(1, 10)]
    assert server.most_in_flight == 3


@pytest.mark.parametrize("first", [fails(429), fails(500), fails(503), fails(408), Reply(hang_up=True)])
def test_what_passes_is_tried_again(first: Reply) -> None:
    assert outcome(lambda _, before: says("A wall.") if before else first) == "A wall."


def test_it_waits_as_long_as_it_is_told() -> None:
    with serving(lambda _, n: says("A wall.") if n else fails(429, headers={"Retry-After": "2"})) as server:
        assert Endpoint(settings(server.url)).ask([([jpeg(50)], "What?")]) == ["A wall."]
    first, second = server.asked
    assert 2.0 <= second.at_s - first.at_s < 60  # its own pause would be under 0.5 s


def test_a_hanging_answer_is_given_up_and_asked_for_again() -> None:
    hanging = lambda _, before: says("A wall.") if before else Reply(wait_s=6)  # noqa: E731
    assert outcome(hanging, timeout_s=0.5) == "A wall."


def test_an_answer_that_drips_in_for_ever_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "_LONGEST_PAUSE_S", 0.5)
    dripping = Reply(raw=b" " * 1000, drip_s=0.1)
    reason, detail = rejected(lambda *_: dripping, timeout_s=0.5, retries=1)
    assert (reason, detail) == (Reason.CAPTION_FAILED, "no answer in 0.5 s")


@pytest.mark.parametrize(
    ("reply", "detail"),
    [
        (says(None, refusal="I can't help with faces."), "I can't help with faces."),
        (says("Half a", finish_reason="content_filter"), "stopped by the endpoint's content filter"),
        (says("I'm sorry, but I can't describe people."), "I'm sorry, but I can't describe people."),
        (says("I cannot identify anyone here."), "I cannot identify anyone here."),
        (says(" \n"), "the answer is empty"),
        (says(None), "the answer is empty"),
        (fails(400, "policy", code="content_policy_violation"), "HTTP 400 policy"),
    ],
)
def test_a_refusal_is_told_from_a_caption(reply: Reply, detail: str) -> None:
    assert rejected(lambda *_: reply) == (Reason.CAPTION_REFUSED, detail)


@pytest.mark.parametrize(
    "text", ["A sorry sight: a car in the rain.", "A can of cola cannot be seen; it is red."]
)
def test_a_caption_with_such_words_is_one(text: str) -> None:
    assert outcome(lambda *_: says(text)) == text


@pytest.mark.parametrize(
    "reply",
    [
        Reply(raw=b"<html>proxy</html>", headers={"Content-Type": "text/html"}),
        Reply(raw=b'{"choices": [{'),
        Reply(raw=b"\xff\xfe\x00"),
        Reply(document=[]),
        Reply(document={}),
        Reply(document={"choices": []}),
        Reply(document={"choices": None}),
        Reply(document={"choices": [{"message": None, "finish_reason": "stop"}]}),
        says({"text": "a wall"}),
        says(12),
    ],
)
def test_garbage_is_a_failure_of_one_question(reply: Reply) -> None:
    reason, detail = rejected(lambda *_: reply, retries=0)
    assert (reason, detail[:32]) == (Reason.CAPTION_FAILED, "the answer is no chat completion")


def test_a_question_that_always_fails_says_how() -> None:
    assert rejected(lambda *_: fails(500, "out of memory"), retries=1) == (
        Reason.CAPTION_FAILED,
        "HTTP 500 out of memory",
    )
    assert rejected(lambda *_: fails(400, "too many images")) == (
        Reason.CAPTION_FAILED,
        "HTTP 400 too many images",
    )


def test_one_question_that_breaks_the_connection_costs_only_itself() -> None:
    with serving(lambda asked, _: Reply(hang_up=True) if asked.grey == 50 else says("A wall.")) as server:
        captioner = Endpoint(settings(server.url, retries=1))
        lost, found = captioner.ask([([jpeg(50)], "What?"), ([jpeg(90)], "What?")])
        (alone,) = captioner.ask([([jpeg(50)], "What?")])
    assert found == "A wall."
    for result in (lost, alone):
        assert isinstance(result, Rejected)
        assert result.reason == Reason.CAPTION_FAILED
        assert result.detail.startswith("the connection was lost")


@pytest.mark.parametrize(
    "reply", [fails(401), fails(403), fails(404), fails(429, "pay first", code="insufficient_quota")]
)
def test_a_mistake_stops_and_says_what_to_check(reply: Reply, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k-secret")
    with pytest.raises(Unusable, match=r"check caption\.endpoint, .* OPENAI_API_KEY") as error:
        outcome(lambda *_: reply, retries=0)
    assert "k-secret" not in str(error.value)


def test_a_key_that_the_endpoint_repeats_is_not_repeated_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k-secret")
    with pytest.raises(Unusable, match="unknown key …") as error:
        outcome(lambda *_: fails(401, "unknown key k-secret"), retries=0)
    assert "k-secret" not in str(error.value)


def test_an_endpoint_that_is_gone_stops() -> None:
    with serving(lambda *_: says("A wall.")) as server:
        pass
    with pytest.raises(ConnectionError, match=r"nothing answers at http://127\.0\.0\.1"):
        Endpoint(settings(server.url, retries=1)).ask([([jpeg(50)], "What?")] * 3)

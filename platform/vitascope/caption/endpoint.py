"""Ask an OpenAI-compatible endpoint."""

import asyncio
import base64
import os
from collections.abc import Sequence
from typing import Any

import openai

from vitascope.caption.answers import Unusable, caption_of
from vitascope.caption.settings import CaptionSettings
from vitascope.ledger import Reason, Rejected
from vitascope.wording import short

# The openai package waits as Retry-After says, up to this; otherwise half a second, doubled up to 8 s.
_LONGEST_PAUSE_S = 120.0
_KEY = "OPENAI_API_KEY"
_FILTERED = ("content_filter", "content_policy_violation", "moderation_blocked", "safety")


class _Lost(Rejected):
    """A question whose connection was lost."""


class Endpoint:
    """Asks for captions over `/chat/completions`, concurrently; the openai package retries."""

    def __init__(self, settings: CaptionSettings, section: str = "caption") -> None:
        """`section`: of the settings, in advice to the user."""
        self._settings, self._section = settings, section
        # The package limits silence; this also ends an answer that trickles in without end.
        self._give_up_s = (settings.retries + 1) * settings.timeout_s + settings.retries * _LONGEST_PAUSE_S

    def ask(self, questions: Sequence[tuple[list[bytes], str]]) -> list[str | Rejected]:
        """The caption for each (JPEG files, prompt), or why there is none.

        Raises:
            Unusable: the endpoint refuses the key, or knows no such model or address.
            ConnectionError: nothing answers at the endpoint.
        """
        try:
            return asyncio.run(self._ask_all(questions))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _ask_all(self, questions: Sequence[tuple[list[bytes], str]]) -> list[str | Rejected]:
        at_once = asyncio.Semaphore(self._settings.in_flight)
        async with self._client() as client:

            async def one(pictures: list[bytes], prompt: str) -> str | Rejected:
                async with at_once:
                    try:
                        return await self._ask(client, pictures, prompt)
                    except Rejected as rejected:
                        return rejected

            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(one(*question)) for question in questions]
            outcomes = [task.result() for task in asked]
            if outcomes and all(isinstance(outcome, _Lost) for outcome in outcomes):
                await self._be_reachable(client)
        return outcomes

    def _client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=self._settings.endpoint,
            api_key=os.environ.get(_KEY) or "none",  # many endpoints need none
            max_retries=self._settings.retries,
            timeout=self._settings.timeout_s,
        )

    async def _be_reachable(self, client: openai.AsyncOpenAI) -> None:
        """Distinguishes an endpoint that is down from one that drops certain requests."""
        try:
            await client.with_options(max_retries=0).models.list()
        except openai.APIConnectionError as error:
            raise ConnectionError(f"nothing answers at {self._settings.endpoint} ({_cause(error)})") from None
        except openai.OpenAIError:
            return

    async def _ask(self, client: openai.AsyncOpenAI, pictures: list[bytes], prompt: str) -> str:
        settings = self._settings
        try:
            async with asyncio.timeout(self._give_up_s):
                answer = await client.chat.completions.create(
                    model=str(settings.endpoint_model),
                    messages=_messages(pictures, prompt),
                    extra_body={settings.max_tokens_name: settings.max_tokens} | settings.endpoint_options,
                )
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise Unusable(_mistake(settings, error, self._section)) from None
        except openai.APIStatusError as error:
            raise _failure(settings, error, self._section) from None
        except (TimeoutError, openai.APITimeoutError):
            raise Rejected(Reason.CAPTION_FAILED, f"no answer in {settings.timeout_s:g} s") from None
        except openai.APIConnectionError as error:
            raise _Lost(Reason.CAPTION_FAILED, f"the connection was lost ({_cause(error)})") from None
        except (openai.OpenAIError, ValueError) as error:
            raise _unreadable(error) from None
        return _caption(answer, settings.refusal)


def _messages(pictures: list[bytes], prompt: str) -> Any:
    """The pictures in order, then the prompt."""
    uris = (f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}" for picture in pictures)
    shown: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": uri}} for uri in uris]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": prompt}]}]


def _caption(answer: Any, refusal: str) -> str:
    """The caption in an answer of any shape."""
    try:
        choice = answer.choices[0]
        content, why_not, ended = choice.message.content, choice.message.refusal, choice.finish_reason
    except (AttributeError, IndexError, TypeError) as error:
        raise _unreadable(error) from None
    if why_not or ended == "content_filter":
        why = str(why_not or "stopped by the endpoint's content filter")
        raise Rejected(Reason.CAPTION_REFUSED, short(why, 200))
    if content is not None and not isinstance(content, str):
        raise _unreadable(f"its content is a {type(content).__name__}")
    return caption_of(content, refusal)


def _cause(error: openai.APIConnectionError) -> str:
    return f"{type(error.__cause__).__name__} {error.__cause__}".strip()


def _unreadable(why: object) -> Rejected:
    return Rejected(Reason.CAPTION_FAILED, f"the answer is no chat completion ({short(str(why), 200)})")


def _failure(settings: CaptionSettings, error: openai.APIStatusError, section: str) -> Exception:
    """The meaning of an error status: a refusal, a mistake, or a failure after all attempts."""
    message = _message_of(error)
    if error.code in _FILTERED:
        return Rejected(Reason.CAPTION_REFUSED, message)
    if error.code == "insufficient_quota":
        return Unusable(_mistake(settings, error, section))
    return Rejected(Reason.CAPTION_FAILED, message)


def _mistake(settings: CaptionSettings, error: openai.APIStatusError, section: str) -> str:
    return (
        f"{settings.endpoint} rejects the model {settings.endpoint_model!r}: {_message_of(error)}; "
        f"check {section}.endpoint, {section}.endpoint_model and OPENAI_API_KEY on the cluster"
    )


def _message_of(error: openai.APIStatusError) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    message = f"HTTP {error.status_code} {body.get('message') or error.message}"
    key = os.environ.get(_KEY)  # which some servers repeat
    return short(message.replace(key, "…") if key else message, 300)

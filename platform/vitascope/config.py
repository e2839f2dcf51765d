"""Compose the stages' settings from one TOML file.

    settings = load("jobs/configs/demo.toml", overrides=["train.lr=1e-4"])

Everything is validated before anything starts: unknown keys, wrong types, and settings of one stage that
contradict another's.
"""

import json
import tomllib
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import Field, ValidationError, model_validator

from vitascope import credentials, storage
from vitascope.caption.settings import CaptionSettings
from vitascope.clips.settings import ClipsSettings
from vitascope.cluster.settings import ClusterSettings
from vitascope.encode.settings import EncodeSettings
from vitascope.errors import Mistake
from vitascope.evaluate.settings import EvaluateSettings
from vitascope.feed.settings import FeedSettings
from vitascope.generate.settings import GenerateSettings
from vitascope.model.settings import ModelSettings
from vitascope.section import Section, unknown_key
from vitascope.train.settings import TrainSettings


class RunSettings(Section):
    """One run of the flow, and where it lives."""

    folder: str = Field(
        "runs/default", description="Local folder, s3:// or gs:// prefix of everything the run writes."
    )
    seed: int = Field(0, ge=0, description="Seed of the plan, the noise and the initial weights.")


class Settings(Section):
    """The whole flow: a section for every stage."""

    run: RunSettings = RunSettings()
    cluster: ClusterSettings = ClusterSettings()
    clips: ClipsSettings = ClipsSettings()
    caption: CaptionSettings = CaptionSettings()
    encode: EncodeSettings = EncodeSettings()
    feed: FeedSettings = FeedSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    generate: GenerateSettings = GenerateSettings()
    evaluate: EvaluateSettings = EvaluateSettings()

    @model_validator(mode="after")
    def _weights_for_prompts(self) -> "Settings":
        fields = self.clips.caption_fields
        missing = [field for field in self.caption.prompts if field not in fields]
        if missing and self.caption.source != "off":
            raise ValueError(
                f"caption.prompts asks for {', '.join(missing)}, and clips.caption_fields gives weights to "
                f"{', '.join(fields)}; name the same fields in both"
            )
        return self

    def path(self, *parts: str) -> str:
        """A location inside the run's folder, absolute where it is local."""
        return storage.join(storage.absolute(self.run.folder), *parts)


class SettingsError(Mistake):
    """The settings cannot be used; the text lists every mistake, one a line."""


def load(source: str | None, overrides: list[str] | None = None) -> Settings:
    """Reads a TOML file (local or remote), applies `section.key=value` overrides and validates the whole.

    Args:
        source: the file; None means the defaults alone.
        overrides: values are TOML (`1e-4`, `true`, `[1, 9]`); what is no TOML value is taken as text.

    Raises:
        SettingsError: naming each wrong key or value and what was expected.
    """
    document = _read(source) if source else {}
    for override in overrides or []:
        _apply(document, override)
    _refuse_credentials(document)
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        wrong = error.errors()
        # A list whose items are all wrong is also said to be too short.
        inside = {e["loc"][:n] for e in wrong for n in range(len(e["loc"]))}
        lines = [_explain(e) for e in wrong if e["type"] != "too_short" or e["loc"] not in inside]
        raise SettingsError(f"{source or 'settings'}: " + "\n".join(lines)) from None
    return settings


def _read(source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(storage.read_bytes(source).decode())
    except FileNotFoundError:
        raise SettingsError(f"no settings file at {source}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{source} is not valid TOML: {error}") from None


def _apply(document: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    section, *tables, key = name.strip().split(".") if "." in name else ("", "")
    if not (equals and section and key):
        raise SettingsError(f"--set takes section.key=value, got {credentials.redacted(override)!r}")
    if section not in Settings.model_fields:
        raise SettingsError(f"--set {name.strip()}: {unknown_key(section, list(Settings.model_fields))}")
    for part in (section, *tables):
        document = document.setdefault(part, {})
        if not isinstance(document, dict):
            raise SettingsError(f"--set {name.strip()}: {part} has a value, and no keys")
    document[key] = _value(text.strip())


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    if not where:
        return message
    if message.startswith("unknown key"):
        return f"[{where}] {message}"
    return f"{where}: {message}, got {error['input']!r}"


_LOCATIONS = {
    "run": ("folder",),
    "clips": ("input", "captions", "catalog", "duplicates_model"),
    "caption": ("folder", "endpoint"),
    "generate": ("requests", "model"),
}


def locations(settings: Settings) -> dict[str, str | None]:
    """The files and folders that the settings name, by their keys."""
    names = ((section, key) for section, keys in _LOCATIONS.items() for key in keys)
    media = {f"generate.media_from[{i}]": place for i, place in enumerate(settings.generate.media_from)}
    return {f"{section}.{key}": getattr(getattr(settings, section), key) for section, key in names} | media


_INSTEAD = {
    "caption": "set OPENAI_API_KEY where the work is done",
    "caption.folder": "set the store's own variables (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)",
    "cluster": "set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH",
    "clips.filters": "have the function read an environment variable",
}
_OF_STORES = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or Google's default credentials, where the "
    "work is done"
)
_PROMPTS = ("prompts", "refusal")
"""Of the caption section: free text, which is no address."""


def _refuse_credentials(document: dict[str, Any]) -> None:
    """Settings are printed, saved and shown; and before they are validated, since its errors print them."""
    asked = document.get("caption")
    if isinstance(asked, dict):
        document = document | {"caption": {k: v for k, v in asked.items() if k not in _PROMPTS}}
    for place, what in credentials.found_in(document):
        known = [key for key in _INSTEAD if f"{place}.".startswith(f"{key}.")]
        instead = _INSTEAD[max(known, key=len)] if known else _OF_STORES
        raise SettingsError(
            f"{place} holds {what}, and settings are saved and shown; leave it out, and {instead}"
        )


def absolute(settings: Settings) -> Settings:
    """The settings with absolute locations, which mean the same wherever they are read."""
    changed = {}
    for section, keys in _LOCATIONS.items():
        values = {key: getattr(getattr(settings, section), key) for key in keys}
        located = {key: storage.absolute(value) for key, value in values.items() if value}
        changed[section] = getattr(settings, section).model_copy(update=located)
    media = tuple(map(storage.absolute, settings.generate.media_from))
    changed["generate"] = changed["generate"].model_copy(update={"media_from": media})
    return settings.model_copy(update=changed)


def save(settings: Settings) -> str:
    """Commits the resolved settings to the run's folder and returns the location."""
    location = settings.path("settings.toml")
    storage.put(location, to_toml(settings).encode())
    return location


def to_toml(settings: Settings) -> str:
    """The resolved settings as TOML that `load` reads back to an equal value."""
    return tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True))


def schema() -> str:
    """The JSON schema of the settings file."""
    return json.dumps(Settings.model_json_schema(), indent=2)


def default_config(name: str) -> str:
    """The location of one of the ready configurations under jobs/configs."""
    return str(Path(__file__).resolve().parents[2] / "jobs" / "configs" / f"{name}.toml")

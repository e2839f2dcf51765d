"""Compose the stages' settings from one TOML file.

    settings = load("jobs/configs/demo.toml", overrides=["train.lr=1e-4"])

Everything is validated before anything starts: unknown keys, wrong types, and settings of one stage that
contradict another's.
"""

import codecs
import json
import os
import tomllib
from collections.abc import Iterator
from typing import Annotated, Any, cast

import tomli_w
from pydantic import Field, ValidationError, model_validator

from vitascope import credentials, storage
from vitascope.api.settings import ServeSettings
from vitascope.caption.settings import CaptionSettings
from vitascope.clips.settings import ClipsSettings
from vitascope.cluster.settings import ClusterSettings
from vitascope.encode.settings import EncodeSettings
from vitascope.errors import Mistake
from vitascope.evaluate.settings import EvaluateSettings
from vitascope.feed.settings import FeedSettings
from vitascope.files import packaged
from vitascope.generate.settings import GenerateSettings
from vitascope.model.settings import ModelSettings
from vitascope.prompts.settings import PromptsSettings
from vitascope.provenance.settings import ProvenanceSettings
from vitascope.section import Location, Section, is_location, shown, unknown_key
from vitascope.train.settings import TrainSettings
from vitascope.wording import short

Document = dict[str, Any]
"""Settings as a TOML file has them: values of any type, before they are validated."""


class RunSettings(Section):
    """One run of the flow, and where it lives."""

    folder: Location = Field(
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
    prompts: PromptsSettings = PromptsSettings()
    provenance: ProvenanceSettings = ProvenanceSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    serve: ServeSettings = ServeSettings()

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

    @model_validator(mode="after")
    def _weights_for_adapters(self) -> "Settings":
        if self.model.lora and not self.model.start_from:
            raise ValueError(
                "model.lora adapts weights, and model.start_from names none; set it to a folder with "
                "weights, or leave model.lora out"
            )
        return self

    @model_validator(mode="after")
    def _levels_to_probe(self) -> "Settings":
        low, high = self.train.noise_range
        if not self.evaluate.timesteps_within((low, high)):
            raise ValueError(
                f"evaluate.timesteps has {', '.join(map(str, self.evaluate.timesteps))}, and none of them is "
                f"within train.noise_range, {low:g} to {high:g}; add one, such as {(low + high) / 2:.3g}"
            )
        return self

    def path(self, *parts: str) -> str:
        """A location inside the run's folder, absolute if it is local."""
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
    document = read_toml(source) if source else {}
    for override in overrides or []:
        _apply(document, override)
    _refuse_credentials(document)
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        wrong = error.errors()
        # pydantic reports a list whose items are all wrong as too short, too.
        inside = {e["loc"][:n] for e in wrong for n in range(len(e["loc"]))}
        lines = [_explain(e) for e in wrong if e["type"] != "too_short" or e["loc"] not in inside]
        raise SettingsError(f"{source or 'settings'}: " + "\n".join(lines)) from None
    return settings


def read_toml(source: str) -> Document:
    """The document of a TOML file, local or remote, with or without a byte order mark.

    Raises:
        SettingsError: no such file, or it is not TOML.
    """
    if what := credentials.in_uri(source):
        raise SettingsError(f"the address of the settings holds {what}; leave it out, and {_OF_STORES}")
    try:
        content = storage.read_bytes(source)
    except FileNotFoundError:
        raise SettingsError(f"no settings file at {source}") from None
    except IsADirectoryError:
        raise SettingsError(f"{source} is a folder; name a TOML file") from None
    try:
        return tomllib.loads(_text(content))
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{source} is not valid TOML: {_why(error)}") from None


def _text(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("it is UTF-16 text; save it as UTF-8")
    return content.decode("utf-8-sig")


def _why(error: Exception) -> str:
    """What is wrong with TOML, also if Python's parser gives up on its size."""
    if isinstance(error, RecursionError):
        return "its values are nested too deeply"
    text = str(error)
    return "it holds a number of thousands of digits" if "integer string conversion" in text else text


def _apply(document: Document, override: str) -> None:
    name, equals, text = override.partition("=")
    section, *tables, key = name.strip().split(".") if "." in name else ("", "")
    if not (equals and section and key):
        got = credentials.redacted(short(override, 200))
        raise SettingsError(f"--set takes section.key=value, got {got!r}")
    if section not in Settings.model_fields:
        got = credentials.redacted(short(name.strip(), 200))
        raise SettingsError(f"--set {got}: {unknown_key(section, list(Settings.model_fields))}")
    for part in (section, *tables):
        document = document.setdefault(part, {})
        if not isinstance(document, dict):
            raise SettingsError(f"--set {name.strip()}: {part} has a value, and no keys")
    try:
        document[key] = _value(text.strip())
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"--set {section}.{key}: {_why(error)}") from None


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
        return "\n".join(f"[{where}] {line}" for line in message.splitlines())
    if error["type"] in ("model_type", "dict_type"):
        message = f"expected a table, [{where}] with keys below it"
    if error["type"] == "string_pattern_mismatch" and len(error["loc"]) == 2:
        message = f"expected {_described(*error['loc'])}"
    return f"{where}: {message}, got {credentials.redacted(shown(error['input']))}"


def _described(section: str, key: str) -> str:
    """The first sentence of a setting's description."""
    fields = cast(type[Section], Settings.model_fields[section].annotation).model_fields
    sentence = (fields[key].description or "").partition(". ")[0].rstrip(".")
    return sentence[:1].lower() + sentence[1:]


def location_keys() -> Iterator[tuple[str, str]]:
    """The section and key of every setting that is a Location."""
    for section, field in Settings.model_fields.items():
        fields = cast(type[Section], field.annotation).model_fields
        for key, field in fields.items():
            if is_location(Annotated[field.annotation, None, *field.metadata]):
                yield section, key


def locations(settings: Settings) -> dict[str, str]:
    """The files, folders and addresses that the settings name, by their keys."""
    named = {"caption.endpoint": settings.caption.endpoint}
    for section, key in location_keys():
        named |= _named(f"{section}.{key}", getattr(getattr(settings, section), key))
    return named


def _named(name: str, value: Any) -> dict[str, str]:
    """The locations in a setting, which is one, none, several, or several under names of their own."""
    if isinstance(value, tuple):
        return {f"{name}[{i}]": one for i, one in enumerate(value)}
    if isinstance(value, dict):
        inner = (_named(f"{name}.{key}", one) for key, one in value.items())
        return {key: place for part in inner for key, place in part.items()}
    return {name: value} if value else {}


def _absolute(value: Any) -> Any:
    """The same setting with absolute locations."""
    if isinstance(value, tuple):
        return tuple(map(storage.absolute, value))
    if isinstance(value, dict):
        return {key: _absolute(one) for key, one in value.items()}
    return value and storage.absolute(value)


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


def _refuse_credentials(document: Document) -> None:
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
    changed: dict[str, Section] = {}
    for section, key in location_keys():
        own = changed.get(section, getattr(settings, section))
        changed[section] = own.model_copy(update={key: _absolute(getattr(own, key))})
    return settings.model_copy(update=changed)


def with_videos(settings: Settings, videos: str, *, own_folder: bool) -> Settings:
    """The settings with other input, literally as it is named; `own_folder`: for a run named after it."""
    if not videos.strip():
        raise SettingsError("--videos is empty; name a file, a folder or a bucket, or leave it out")
    home = os.path.expanduser("~")
    place = storage.absolute(f"{home}{videos[1:]}" if videos.split("/")[0] == "~" != home else videos)
    changed: dict[str, Section] = {"clips": settings.clips.model_copy(update={"input": place})}
    if own_folder:
        name = place.rstrip("/").rpartition("/")[2] or "videos"
        changed["run"] = settings.run.model_copy(update={"folder": storage.absolute(f"runs/own-{name}")})
    return settings.model_copy(update=changed)


RESOLVED = "settings.resolved.toml"
"""The file in the run's folder with the settings as they were used; no file of the user's has this name."""
_TABLES = ("videos", "clips", "captions")
_PAGES = ("report.html", "data.html", "summary.json")
_OF_RUNS = {RESOLVED, "summaries", "flow", "latents", "train", "model", *_TABLES}


def check_folder(settings: Settings) -> None:
    """Refuses a run's folder in which a run would write over what is not its own.

    Raises:
        SettingsError: it is the root of the disk, the home folder, or has such files, which no run wrote.
    """
    folder = storage.absolute(settings.run.folder)
    if not storage.is_remote(folder) and folder in ("/", os.path.expanduser("~")):
        own = storage.join(folder, "runs", "first")
        raise SettingsError(f"run.folder is {folder}; a run needs a folder of its own, such as {own}")
    level = storage.level(folder)
    names = {_name(place) for place in (*(file.uri for file in level.files), *level.folders)}
    foreign = [page for page in _PAGES if page in names and names.isdisjoint(_OF_RUNS)]
    for table in names.intersection(_TABLES):
        inside = storage.level(storage.join(folder, table)).files
        foreign += [f"{table}/{_name(file.uri)}" for file in inside if not storage.is_parquet(file.uri)]
    if foreign:
        raise SettingsError(
            f"run.folder {folder} holds {foreign[0]}, which no run wrote, and a run would write there; name "
            "another folder"
        )


def _name(place: str) -> str:
    return place.rstrip("/").rpartition("/")[2]


def save(settings: Settings) -> str:
    """Commits the resolved settings to the run's folder and returns the location."""
    location = settings.path(RESOLVED)
    storage.put(location, to_toml(settings).encode())
    return location


def to_toml(settings: Settings) -> str:
    """The resolved settings as TOML that `load` reads back to an equal value."""
    return tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True))


def schema() -> str:
    """The JSON schema of the settings file."""
    return json.dumps(Settings.model_json_schema(), indent=2)


def default_config(name: str) -> str:
    """The location of one of the ready configurations."""
    return str(packaged("configs", f"{name}.toml"))

"""OpenAI's fields become a request."""

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from vitascope.api.failures import Refused, invalid
from vitascope.api.settings import ServeSettings
from vitascope.generate.request import MAX_PROMPT_CHARS, MEDIA, Mode, Request
from vitascope.section import shown, unknown_key

Document = dict[str, Any]
"""The fields of a request, before they are checked."""

MEDIA_FIELDS = sorted({"image", "image_last", "video", "video_after", "keep"} & set(Request.model_fields))
"""The fields of a request that name media, or hold objects that do so in a field `image`."""

_OURS = sorted(set(Request.model_fields) - {"custom_id", "width", "height"})
OF_VIDEO = [*_OURS, "size", "user", "input_reference"]
OF_IMAGE = sorted({*_OURS, "size", "user", "n", "response_format"} - {"seconds", "fps", "mode"})
OF_SOURCE = [field for field in OF_VIDEO if field not in ("mode", "size", "input_reference")]
OF_REMIX = [field for field in OF_SOURCE if field not in MEDIA_FIELDS]
"""The fields of each kind of body."""

_REFERENCES = {"input_reference", *MEDIA_FIELDS}
_ABOUT = {"model", "user"}
"""Fields that are no part of a request: `check_model` reads one, and the job keeps the other."""
_NO_CHOICE = {"background": "auto", "moderation": "auto", "output_format": "png", "stream": False}
"""Fields of OpenAI's pictures with a single value that holds here."""
MOST_IMAGES = 10
MOST_JSON_BYTES = 32 << 20
"""Of a body, or of a line of a batch: room for a picture as a data URL."""
_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


@dataclass(frozen=True)
class Upload:
    """A file in the body of a request; `content` is open, at its beginning."""

    filename: str
    content: IO[bytes] = dataclasses.field(repr=False)


Located = tuple[str, str]
"""The location of media, and how the client named them."""


def object_of(content: bytes) -> Document:
    """A JSON object. Raises Refused: 400 if it is anything else."""
    try:
        document = json.loads(content or b"{}")
        json.dumps(document, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise invalid(f"no valid JSON: {str(error)[:200]}") from None
    if not isinstance(document, dict):
        raise invalid(f"expected a JSON object, got {shown(document)}")
    return document


def of_video(body: Mapping[str, Any], settings: ServeSettings) -> Document:
    """A request's fields except for its media, which `with_media` locates.

    Raises:
        Refused: 400, or 404 for a model that is unknown; names the field.
    """
    given = _known(body, OF_VIDEO)
    width, height = _size(given.pop("size", settings.size))
    document = given | {"width": width, "height": height, "prompt": prompt_of(given)}
    document["seconds"] = seconds_of(given.get("seconds", settings.seconds))
    if (mode := given.get("mode")) is not None:
        document["mode"] = mode_of(mode)
    return document


def of_image(body: Mapping[str, Any], settings: ServeSettings) -> tuple[Document, int, str]:
    """A picture's fields, how many of it are asked for, and how they are to be returned.

    Raises:
        Refused: as `of_video`.
    """
    for field, only in _NO_CHOICE.items():
        if body.get(field) not in (None, only, str(only).lower()):
            raise invalid(f"{field} is always {only!r} here, got {shown(body[field])}; leave it out", field)
    given = _known({key: value for key, value in body.items() if key not in _NO_CHOICE}, OF_IMAGE)
    n, form = n_of(given), given.pop("response_format", "b64_json")
    given.pop("n", None)
    if form not in ("b64_json", "url"):
        raise invalid(f"response_format is 'b64_json' or 'url', got {shown(form)}", "response_format")
    size = given.pop("size", settings.size)
    width, height = _size(settings.size if size == "auto" else size)
    document = given | {"width": width, "height": height, "prompt": prompt_of(given), "seconds": 0}
    if (seed := given.get("seed")) is not None:
        document["seed"] = _whole(seed)
        if document["seed"] is None:
            raise invalid(f"seed is a whole number, got {shown(seed)}", "seed")
    if isinstance(image := given.get("image"), list):  # as OpenAI's client sends also a single one
        if len(image) != 1:
            raise invalid(f"image is one picture, got {len(image)}", "image")
        document["image"] = image[0]
    if image is not None:
        document["mode"] = Mode.IMAGE_TO_IMAGE
    return document, n, form


def of_remix(body: Mapping[str, Any]) -> Document:
    """The fields in which a video is to differ from the one that it remixes: the prompt, and others.

    Raises:
        Refused: as `of_video`.
    """
    given = _known(body, OF_REMIX)
    return given | {"prompt": prompt_of(given)}


def of_source(body: Mapping[str, Any], mode: Mode) -> Document:
    """The fields of a video that is made from the one in the field `video`.

    Raises:
        Refused: as `of_video`.
    """
    given = _known(body, OF_SOURCE)
    if "video" not in given:
        raise invalid("video names a finished video or is one, and is missing", "video")
    return given | {"mode": mode, "prompt": prompt_of(given)}


def with_media(document: Document, locate: Callable[[str, Any], Located]) -> tuple[Document, Document]:
    """The fields with `input_reference` under its own name and media located; and how they were named.

    Without a mode, a reference is the first frame.
    """
    document, given = dict(document), Document()
    if (reference := document.pop("input_reference", None)) is not None:
        mode = document.setdefault("mode", Mode.IMAGE_TO_VIDEO)
        fields = MEDIA[mode]
        if not fields or document.get(fields[0]) is not None:
            why = f"is {fields[0]!r}, which is given, too" if fields else "has no use"
            raise invalid(f"in mode {mode} input_reference {why}; leave one out", "input_reference")
        document[fields[0]], given[fields[0]] = locate("input_reference", reference)
    for field in set(MEDIA_FIELDS) & document.keys() - given.keys():
        value = document[field]
        if isinstance(value, list):
            parts = [_within(field, each, locate) for each in value]
            document[field], given[field] = [part for part, _ in parts], [named for _, named in parts]
        elif value is not None:
            document[field], given[field] = locate(field, value)
    return document, given


def _within(field: str, value: Any, locate: Callable[[str, Any], Located]) -> tuple[Any, Any]:
    """An object in a list, with the media that it names located, and as they were named."""
    if isinstance(value, dict) and value.get("image") is not None:
        location, name = locate(field, value["image"])
        return value | {"image": location}, value | {"image": name}
    return value, value


def check_model(name: object, names: Sequence[str]) -> str:
    """The name of the model that is asked for; by default the first.

    Raises:
        Refused: 404 if no model has this name.
    """
    if name is None:
        return names[0]
    if name not in names:
        known = " or ".join(names)
        raise Refused(
            404, f"no model {shown(name)}; this service has {known}", param="model", code="model_not_found"
        )
    return str(name)


def mode_of(name: object) -> Mode:
    """The mode of this name.

    Raises:
        Refused: 400 if there is none.
    """
    if name not in list(Mode):
        raise invalid(f"mode is {' or '.join(Mode)}, got {shown(name)}", "mode")
    return Mode(str(name))


def seconds_of(value: object) -> float:
    """A duration, which OpenAI's clients send as text.

    Raises:
        Refused: 400 if it is none.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        seconds = float(value)
    except (ValueError, OverflowError):
        raise invalid(f"seconds is a number, got {shown(value)}", "seconds") from None
    if not 0 <= seconds <= 86_400:
        raise invalid(f"seconds is from 0 to 86400, got {shown(value)}", "seconds")
    return seconds


def described(names: Iterable[str]) -> Document:
    """The JSON schemas of fields; numbers may be texts, as in forms."""
    schemas = Request.model_json_schema(ref_template="#/components/schemas/{model}")["properties"]
    plain = {
        name: {"type": ["string", "number", "integer"]} | _text(schema) for name, schema in schemas.items()
    }
    media = {"type": ["string", "object"], "description": "A file, a data URL, or the id of a file or video."}
    more = {
        "prompt": {"type": "string", "minLength": 1, "maxLength": MAX_PROMPT_CHARS},
        "size": {"type": "string", "pattern": f"^{_SIZE.pattern}$", "description": "Width x height."},
        "mode": {"enum": list(Mode)},
        "model": {"type": "string", "description": "A name of /v1/models."},
        "user": {"type": "string", "description": "Kept with the request."},
        "n": {"type": "integer", "minimum": 1, "maximum": MOST_IMAGES},
        "response_format": {"enum": ["b64_json", "url"]},
    }
    return {name: more.get(name) or (media if name in _REFERENCES else plain[name]) for name in names}


def _text(schema: Document) -> Document:
    return {"description": schema["description"]} if "description" in schema else {}


def _known(body: Mapping[str, Any], fields: list[str]) -> Document:
    """The fields that have a value."""
    for field in body:
        if field not in fields:
            raise invalid(unknown_key(field, fields), field[:100], "unknown_parameter")
    return {field: value for field, value in body.items() if value is not None and field not in _ABOUT}


def prompt_of(given: Mapping[str, Any]) -> str:
    """The prompt. Raises Refused: 400 if there is none."""
    prompt = given.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise invalid(f"prompt says what is to be seen, got {shown(prompt)}", "prompt")
    return prompt


def n_of(body: Mapping[str, Any]) -> int:
    """How many pictures are asked for. Raises Refused: 400 if that is no number, or too many."""
    n = _whole(body.get("n", 1))
    if n is None or not 1 <= n <= MOST_IMAGES:
        raise invalid(f"n is a whole number from 1 to {MOST_IMAGES}, got {shown(body.get('n'))}", "n")
    return n


def _whole(value: object) -> int | None:
    """A whole number, which a form has as text; None for all else."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value):
        return int(value)
    return value if type(value) is int else None


def _size(text: object) -> tuple[int, int]:
    found = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise invalid(f"size is width x height, such as 832x480, got {shown(text)}", "size")
    return int(found[1]), int(found[2])

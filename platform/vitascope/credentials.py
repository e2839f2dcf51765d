"""Detects credentials in settings and addresses.

Settings are printed, saved with every run, sent with jobs and shown in reports, so a password or a key in
them would be public. A detected credential is named by its position and never repeated.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from vitascope.wording import short

_LOOKED_AT = 4096  # characters of a text: addresses are shorter, and a longer text may be long on purpose
_BEFORE_HOST = re.compile(  # a password may hold a slash; a port, an ARN and an IPv6 address are none
    r"[a-zA-Z][a-zA-Z0-9+.-]*://(?!arn:)(?:[^/?#\s]*|[^/?#\s:@,\[]*:(?!\d*(?:[,/?#]|$)|\$\{)[^\s@]*)@"
)
_PARAMETER = (
    r"[?&;#](?:(?:[\w-]*[_-])?(?:key|token|secret|password|passwd|pwd|sig|signature|credential|auth|apikey"
    r"|awsaccesskeyid)|(?:(?:user|db|smtp|ftp)[_-]?)?pass)="
)
_IN_QUERY = re.compile(rf"://\S*{_PARAMETER}", re.IGNORECASE)
_IN_PATH = re.compile(
    r"[/@:=?&#](?:hf_[A-Za-z]{34}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{35}|gh[po]_\w{36}|github_pat_\w{22,}"
    r"|glpat-[\w-]{20}|sk-(?:proj|ant)-[\w-]{20,}|sk-[A-Za-z0-9]{32,}|xox[abp]-[\w-]{10,})(?![\w-])"
)
_KEY_ITSELF = re.compile(
    r"(?:sk-|sk_|hf_|ghp_|gho_|github_pat_|glpat-|xox[abp]-|AIza|AKIA|ASIA|eyJ)[A-Za-z0-9_.-]{12,}"
    r"|(?:bearer|basic)\s+\S{8,}",
    re.IGNORECASE,
)
_SECRET_WORDS = {"secret", "password", "passwd", "pwd", "passphrase", "credential", "credentials"}
_SECRET_WORDS |= {
    "apikey",
    "authorization",
    "auth",
    "bearer",
    "cookie",
    "signature",
    "accesskey",
    "authtoken",
}
_BEFORE_KEY = {"api", "access", "secret", "private", "auth", "account", "subscription", "service", "signing"}
_BEFORE_TOKEN = {"access", "auth", "api", "bearer", "session", "refresh", "id", "hf", "security"}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def before_host(uri: str) -> str | None:
    """A description of the credentials before the host of a URI; None if it has none."""
    return "credentials before the @" if _BEFORE_HOST.match(uri[:_LOOKED_AT]) else None


def in_uri(uri: str) -> str | None:
    """A description of the credential in a URI; None if it has none.

    For addresses that people write: names of files in a store may look like keys.
    """
    uri = uri[:_LOOKED_AT]
    if what := before_host(uri):
        return what
    if _IN_QUERY.search(uri):
        return "a key among its parameters"
    return "a key in its path" if "://" in uri and _IN_PATH.search(uri) else None


def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a credential: `api_key`, `X-Auth-Token`, `password`."""
    words = [word.lower() for word in _WORD.findall(name)]
    last, before = (words or [""])[-1], (words or [""])[:-1][-1:]
    if last == "pass":
        return not before or before[0] in ("user", "db", "smtp", "ftp")
    if last in ("key", "token"):
        return not before or before[0] in (_BEFORE_KEY if last == "key" else _BEFORE_TOKEN)
    return bool(_SECRET_WORDS.intersection(words))


def found_in(value: Any, place: str = "", *, of_user: bool = False) -> Iterator[tuple[str, str]]:
    """Every credential in nested settings: its key (`caption.endpoint`), and a description.

    Args:
        of_user: whether the user chose the names within `value`, which may then be those of credentials.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            inside = f"{place}.{name}" if place else str(name)
            if of_user and inner is not None and is_secret_name(str(name)):
                yield inside, "a credential"
            else:
                yield from found_in(inner, inside, of_user=of_user or str(name) in FREE)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from found_in(inner, f"{place}[{i}]", of_user=of_user)
    elif isinstance(value, str):
        what = in_uri(value) or ("a key" if _KEY_ITSELF.fullmatch(value.strip()) else None)
        if what:
            yield place, what


FREE = ("endpoint_options", "options")
"""Settings whose keys are not ours: fields of a request, arguments of a function."""


def redacted(text: str) -> str:
    """`text` for a message about a user's input: possible passwords and keys become `…`."""
    text = re.sub(r"://\S*@", "://…@", short(text, _LOOKED_AT))
    text = re.sub(rf"({_PARAMETER})[^\s&;]*", r"\1…", text, flags=re.IGNORECASE)
    return _KEY_ITSELF.sub("…", _IN_PATH.sub("/…", text))

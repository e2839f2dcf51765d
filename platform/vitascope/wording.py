"""Numbers with their nouns, articles, text cut short."""

_ES = ("s", "x", "z", "ch", "sh")
_VOWEL_BY_SOUND = {"hour": True, "honest": True, "one": False, "unit": False, "user": False, "URI": False}


def count(n: int, noun: str, plural: str | None = None) -> str:
    """`1 rank`, `2 ranks`, `12,000 patches`; `plural` if the noun has one of its own."""
    many = plural or noun + ("es" if noun.endswith(_ES) else "s")
    return f"{n:,} {noun if n == 1 else many}"


def a(noun: str) -> str:
    """The noun with its article: `an image`, `a video`."""
    first = noun.split()[0] if noun.split() else noun
    sounds_open = _VOWEL_BY_SOUND.get(first, first[:1].lower() in "aeiou")
    return f"{'an' if sounds_open else 'a'} {noun}"


def short(text: str, most: int) -> str:
    """The text, or if it has more than `most` characters its beginning and its end around a `…`."""
    if len(text) <= most:
        return text
    first = (most + 1) // 2
    return f"{text[:first]}…{text[len(text) - (most - first) :]}"

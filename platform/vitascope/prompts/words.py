"""The short list of what is refused: sexual content with minors.

A prompt is refused if it holds a word or phrase of ALWAYS, or a word of MINORS and one of SEXUAL. Words count
whole, without regard to case, accents, invisible characters, look-alike letters of Cyrillic and Greek,
digits for letters, letters repeated or spaced out. It knows no meaning, no context and no language but
English: it refuses some harmless prompts, and misses whatever is expressed otherwise. A service for the
public needs a classifier (`prompts.filter`).
"""

import re
import unicodedata
from collections.abc import Iterator

_MINORS = (
    "child children kid kids kiddie kiddies minors toddler toddlers infant infants preteen preteens tween "
    "tweens underage teen teens teenage teenager teenagers schoolgirl schoolgirls schoolboy schoolboys loli "
    "lolis lolita shota"
)
_SEXUAL = (
    "nude nudes nudity naked topless sex sexual sexually sexy sexualized porn porno pornographic pornography "
    "erotic erotica hentai nsfw orgasm masturbating masturbation intercourse genitals penis vagina fellatio "
    "blowjob striptease lingerie"
)
MINORS, SEXUAL = frozenset(_MINORS.split()), frozenset(_SEXUAL.split())
ALWAYS = ("csam", "childporn", "jailbait", "lolicon", "shotacon", "pthc", "kiddy porn", "pedo porn")
_WORD = re.compile(r"[^\W_]+")
_SPACED = re.compile(r"(?<![^\W_])(?:[^\W_][\W_]{1,3}){2,}[^\W_](?![^\W_])")
_PAIRS = "аa еe оo рp сc уy хx іi јj ѕs ԁd һh кk мm тt пn вb αa εe οo ρp υu χx ιi κk νv ηn τt"
_ALIKE = str.maketrans({pair[0]: pair[1] for pair in _PAIRS.split()})
# One may be an i or an l.
_DIGITS = [str.maketrans("0134578@$!|+", f"o{one}eastbas{one}{one}t") for one in "il"]


def found(prompt: str) -> str | None:
    """The words for which a prompt is refused; None if it holds none."""
    for words in _readings(prompt):
        text = f" {' '.join(words)} "
        if always := [phrase for phrase in ALWAYS if f" {phrase} " in text]:
            return always[0]
    every = {word for words in _readings(prompt) for word in words}
    spaced = [_WORD.findall(run) for run in _SPACED.findall(_plain(prompt))]
    joined = ["".join(run) for run in spaced]
    minors = _first(MINORS, every, joined)
    sexual = _first(SEXUAL, every, joined)
    return f"{minors}, {sexual}" if minors and sexual else None


def _first(listed: frozenset[str], words: set[str], joined: list[str]) -> str | None:
    """A listed word among the words, or within letters that were spaced out."""
    held = sorted(listed & words) or sorted(word for word in listed if any(word in run for run in joined))
    return held[0] if held else None


def _readings(prompt: str) -> Iterator[list[str]]:
    """The words of a prompt as written, and with digits and signs read as letters."""
    plain = _plain(prompt)
    for text in (plain, *(plain.translate(table) for table in _DIGITS)):
        words = _WORD.findall(text)
        yield words
        yield [re.sub(r"(.)\1{2,}", r"\1", word) for word in words]


def _plain(prompt: str) -> str:
    """Small letters without accents and invisible characters; look-alikes are Latin letters."""
    split = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", prompt).casefold())
    kept = (letter for letter in split if unicodedata.category(letter) not in ("Mn", "Me", "Cf"))
    return "".join(kept).translate(_ALIKE)

"""Refuses words of the style guide's glossary in what people read.

python tests/prose.py        one line per offence: file, line, the words, better words

Reads docstrings, comments and texts of three words or more in Python, comments in configuration files, and
whole pages and alert rules. Code in backticks or in blocks is skipped.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "cluster/*.md", "dashboards/*.md", "dashboards/alerts.yaml", "jobs/**/*.md")
MARKUP = ("platform/**/*.html", "platform/**/*.jinja")
CODE = ("platform/**/*.py", "jobs/**/*.py", "dashboards/**/*.py")
COMMENTED = (
    "Makefile",
    "pyproject.toml",
    "jobs/configs/*.toml",
    "cluster/**/*.yaml",
    "cluster/*.sh",
    "cluster/choices.toml",
    "cluster/Dockerfile",
    "dashboards/*.yml",
)

GLOSSARY = {
    r"where there (is|are|was|were)\b|where (it|they) (is|are|was|were) \w": "if",
    r"where (nothing|none|nobody|no) ": "unless, if no",
    r"(also|but|only|even|else|unless) where\b|(?<=[.;:]\s)Where (?!to\b)": "if, when",
    r"what (became|becomes|has become|is to become) of": "the outcome of",
    r"there is no \w+ that\b": "no",
    r"(left|stays?|remains?|leaves \w+) as (it|they) (is|are|was|were)\b": "left untouched, unchanged",
    r"\b(is|are) there already|\bthat is there\b|at hand\b": "existing, available",
    r"\b(?<!_)beside\b(?!s)": "and, next to, in addition to",
    r"\bshares? of\b|\bin shares\b": "fraction, ratio, part of",
    r"\btwins?\b": "duplicate, near-duplicate",
    r"\bfilms?\b": "video, footage, duration",
    r"(?<![Ss]tandard\s)(?<!-)\bdeviations?\b": "standard deviation, std",
    r"\blooks (like|alike|of|the same)\b": "perceptual hash, resembles",
    r"\bgiven (latent )?(frames?|beginning|end)\b|frames? (that|which) (is|are|were) given": (
        "conditioning frames"
    ),
    r"\b(the|a|every|each) draw\b|\bdrawn (from|by|at|with|anew|alone)\b|\bis drawn\b": "sample, sampled",
    r"\bcanvas\b(?!:)": "conditioning latent",
    r"\btold\b|\bsaid\b": "reported, stated",
    r"\bis dear\b|\bare dear\b|\bso dear\b": "expensive",
    r"\bas \w+( \w+)? (has|have) (it|them)\b": "as in",
    r"\bbut for\b": "except",
    r"\b(go|goes|going) on (with|from|where)\b": "continue",
    r"\b(is|are|was|were) passed over\b": "skipped",
}
"""Patterns, and better words."""

RIGHT_THERE = {"canvas": "platform/vitascope/media/"}
"""Words of the glossary that are a room's own terms."""

_PATTERNS = [(re.compile(p.replace(" ", r"\s+")), better) for p, better in GLOSSARY.items()]
_QUESTION = re.compile(r"(Is|Are|Can|Would|Does|Do|Has) [^?]*\.")
_CODE = re.compile(r"``?[^`]+``?|\{[^{}]*\}")
_BLOCK = re.compile(r"^(```.*?^```| {4}.*?$)", re.MULTILINE | re.DOTALL)


class Text(NamedTuple):
    """What a person reads, and the line of the file that it begins in."""

    line: int
    words: str


def offences(text: Text) -> Iterator[tuple[int, str, str]]:
    """(line, words, better words) of each offence in a text."""
    plain = _CODE.sub(lambda code: re.sub(r"\S", "_", code[0]), text.words)
    for pattern, better in _PATTERNS:
        for match in pattern.finditer(plain):
            line = text.line + plain.count("\n", 0, match.start())
            yield line, " ".join(match[0].split()), better


def python_texts(source: str) -> Iterator[Text]:
    """Docstrings, texts of three words or more, and comments; those on neighbouring lines are one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) > 2:
            yield Text(node.lineno, node.value)
    comments = [
        t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT
    ]
    last, block = 0, Text(0, "")
    for comment in comments:
        words = comment.string.lstrip("# ")
        if comment.start[0] != last + 1:
            yield block
            block = Text(comment.start[0], words)
        else:
            block = Text(block.line, f"{block.words}\n{words}")
        last = comment.start[0]
    yield block


def texts(path: Path) -> Iterator[Text]:
    """The texts of a file."""
    source = path.read_text()
    if path.suffix == ".py":
        yield from python_texts(source)
    elif path.suffix == ".md":
        yield Text(1, _BLOCK.sub(lambda block: re.sub(r"\S", "_", block[0]), source))
    elif path.suffix in (".html", ".jinja") or path.name == "alerts.yaml":
        yield Text(1, source)
    else:
        comments = (line.partition("#")[2] if "#" in line else "" for line in source.splitlines())
        yield Text(1, "\n".join(comments))


def findings(root: Path = REPO) -> dict[str, list[str]]:
    """The offences in each file of the repository that has some, as `line: words; better: better words`."""
    by_file = {}
    for path in sorted({p for glob in PAGES + MARKUP + CODE + COMMENTED for p in root.glob(glob)}):
        lines = sorted({offence for text in texts(path) for offence in offences(text)})
        if path.suffix == ".py" and (question := _question(path)):
            lines.append((1, question, "a noun phrase, such as: Held-out losses."))
        name = str(path.relative_to(root))
        lines = [offence for offence in lines if not name.startswith(RIGHT_THERE.get(offence[1], "/"))]
        if lines:
            by_file[name] = [f"{line}: {words!r}; better: {better}" for line, words, better in lines]
    return by_file


def _question(path: Path) -> str | None:
    first = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
    return first if _QUESTION.match(first) else None


def main() -> int:
    """Prints all offences; the exit status."""
    offending = findings()
    for file, lines in offending.items():
        print("\n".join(f"{file}:{line}" for line in lines))
    return 1 if offending else 0


if __name__ == "__main__":
    sys.exit(main())

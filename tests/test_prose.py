"""What people read avoids the glossary's words, and the check notices them."""

from pathlib import Path

import pytest

import prose


def offences_in(folder: Path, name: str, content: str) -> list[str]:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return [f"{file}:{line}" for file, lines in prose.findings(folder).items() for line in lines]


def test_no_text_has_a_word_of_the_glossary() -> None:
    assert prose.findings() == {}


@pytest.mark.parametrize(
    ("words", "better"),
    [
        ("uses a default where it is missing", "if"),
        ("one row where there is none", "if"),
        ("prints what became of every item", "the outcome of"),
        ("the twin of each clip", "duplicate"),
        ("an existing file stays as it is", "left untouched"),
        ("its checksum beside each file", "next to"),
        ("the share of all frames", "fraction"),
        ("the deviation of grey", "standard deviation"),
        ("a film of an hour", "video"),
        ("the given frames are clean", "conditioning frames"),
        ("sets the canvas of a request", "conditioning latent"),
        ("a user is told about it", "reported"),
        ("all files but for hidden ones", "except"),
    ],
)
def test_docstrings_comments_and_messages_are_read(tmp_path: Path, words: str, better: str) -> None:
    for form in (f'"""{words}."""', f"x = 1  # {words}", f'raise ValueError(f"{{x}} {words}")'):
        (line,) = offences_in(tmp_path, "platform/vitascope/module.py", f"import ast\n\n{form}\n")
        assert line.startswith("platform/vitascope/module.py:3: ")
        assert better in line


def test_words_are_matched_across_lines(tmp_path: Path) -> None:
    comment = "# It says what\n# became of it.\n"
    assert len(offences_in(tmp_path, "platform/vitascope/module.py", comment)) == 1


def test_pages_and_configuration_are_read(tmp_path: Path) -> None:
    (line,) = offences_in(tmp_path / "a", "README.md", "One\n\nthe share of frames\n")
    assert line.startswith("README.md:3: ")
    (line,) = offences_in(tmp_path / "b", "Makefile", "twin:  # what is at hand\n")
    assert line.startswith("Makefile:1: ")
    (line,) = offences_in(tmp_path / "c", "dashboards/alerts.yaml", "rules:\n    summary: its twin is lost\n")
    assert line.startswith("dashboards/alerts.yaml:2: ")
    name = "platform/vitascope/report/templates/page.html"
    (line,) = offences_in(tmp_path / "d", name, "<p>\n    the share of {{ n }} clips</p>\n")
    assert line.startswith(f"{name}:2: ")


def test_a_question_is_no_first_line(tmp_path: Path) -> None:
    assert len(offences_in(tmp_path, "platform/vitascope/module.py", '"""Is it good."""\n')) == 1


@pytest.mark.parametrize(
    "words",
    [
        "the folder where a stage writes",
        "says where it is, and why",
        "the standard deviation of grey",
        "`share of` in code is `beside` the point",
        "ranks that share a node",
        "it looks for a file",
    ],
)
def test_other_uses_pass(tmp_path: Path, words: str) -> None:
    assert offences_in(tmp_path, "platform/vitascope/module.py", f'"""{words}."""\n') == []


def test_code_on_pages_is_skipped(tmp_path: Path) -> None:
    assert offences_in(tmp_path, "README.md", "Text\n\n    film = twin\n\n```\nbeside\n```\n") == []

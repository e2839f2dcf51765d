"""The documentation's commands, settings and links work."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from vitascope import cli, config
from vitascope.config import Settings

REPO = Path(__file__).resolve().parents[1]
PAGES = [REPO / name for name in ("README.md", "cluster/README.md", "dashboards/README.md")]
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))


def toml_blocks(page: Path) -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.M | re.S)


def commands(page: Path) -> list[list[str]]:
    """The words of every `vitascope …` in code, without comments and alternatives (`list | logs ID`)."""
    text = page.read_text().replace("\\\n", " ")
    lines = re.findall(r"^    (?:.*&& )?(vitascope .*)$", text, re.M)
    lines += re.findall(r"`(vitascope [^`\n]+)`", text)
    plain = (re.sub(r"<[^>]*>", "X", re.split(r" +#| \| ", line)[0]) for line in lines if "──" not in line)
    return [shlex.split(line)[1:] for line in plain]


@pytest.mark.parametrize("text", toml_blocks(PAGES[0]), ids=["minimal"])
def test_settings_are_settings_and_every_line_changes_something(text: str) -> None:
    chosen, usual = tomllib.loads(text), config.load(None).model_dump(mode="json")
    for section, values in chosen.items():
        for key, value in values.items():
            assert usual[section][key] != value, f"{section}.{key} is the default"


def test_the_minimal_settings_load(tmp_path: Path) -> None:
    text = toml_blocks(PAGES[0])[0]
    assert len([line for line in text.splitlines() if " = " in line]) <= 12
    (tmp_path / "settings.toml").write_text(text)
    settings = config.load(str(tmp_path / "settings.toml"))
    assert settings.clips.input == "/data/videos"
    assert settings.train.use_gpu


@EACH_PAGE
def test_every_command_is_one(page: Path) -> None:
    parser = cli._parser()
    found = commands(page)
    assert found
    for words in found:
        assert parser.parse_args([word for word in words if word != "…"]).command == words[0]


@EACH_PAGE
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@EACH_PAGE
def test_every_setting_that_is_named_exists(page: Path) -> None:
    sections = "|".join(Settings.model_fields)
    named = set(re.findall(rf"`({sections})\.([a-z_]+)[`= ]", page.read_text()))
    known = {(name, key) for name, f in Settings.model_fields.items() for key in f.annotation.model_fields}  # type: ignore[union-attr]
    files = {("model", "safetensors"), ("model", "json")}
    files |= {(path.parent.name, path.stem) for path in (REPO / "platform").rglob("*.py")}
    assert named - known - files == set()

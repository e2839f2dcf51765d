"""The wheel on its own: every command works without a checkout of the repository."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from dashboards.grafana_stub import TOKEN, GrafanaStub, running
from vitascope import cli
from vitascope.files import packaged

REPO = Path(__file__).resolve().parents[1]
N_DASHBOARDS = len(list((REPO / "dashboards" / "json").iterdir()))
COMMANDS = sorted(cli._parser()._subparsers._group_actions[0].choices)

EVERY_HELP = """
import contextlib, io, json, sys
from vitascope import cli
helps = {}
for command in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        cli.main([command, "--help"])
    helps[command] = said.getvalue()
print(json.dumps(helps))
"""
EVERY_STAGE = """
from vitascope import cli
for stage in cli.STAGES:
    cli.load_stage(stage)
"""
STILLS = """
import sys
from vitascope.demo import inputs, stage
inputs.gather_stills(sys.argv[1])
print(inputs.CAPTIONS, stage.REQUESTS)
"""


@dataclass(frozen=True)
class Installed:
    """An environment that has the wheel, and the test environment's other packages."""

    bin: Path
    folder: Path

    def run(self, *command: str, **environment: str) -> str:
        """What a command says, in an empty folder outside of the repository."""
        done = subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            env=_environment() | {"HOME": str(self.folder / "home")} | environment,
            cwd=self.folder / "elsewhere",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def packaged(self, *parts: str) -> Path:
        """A packaged file of the installed wheel."""
        ask = "import sys; from vitascope.files import packaged; print(packaged(*sys.argv[1:]))"
        return Path(self.run("python", "-c", ask, *parts).strip())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made of what the image's Dockerfile gives to its builder and of nothing else."""
    sources, made = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    builder = (REPO / "cluster" / "Dockerfile").read_text().split("\nFROM ")[1]
    for line in (line for line in builder.splitlines() if line.startswith("COPY ")):
        *files, to = line.split()[1:]
        for file in files:
            _copy(REPO / file, sources / to / file if to == "./" else sources / to)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(made), str(sources))
    (built,) = made.glob("vitascope-*.whl")
    return built


def _environment() -> dict[str, str]:
    """This environment without what leads Python to a checkout, or a command to a cluster."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "RAY_"))}


def _copy(source: Path, to: Path) -> None:
    if source.is_dir():
        left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(source, to, symlinks=True, ignore=left_out)
    else:
        shutil.copy(source, to)


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = str(folder / "venv" / "bin" / "python")
    _pip("--python", python, "install", "--no-deps", "--no-index", str(wheel))
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # Its packages are seen; the .pth files in it, which lead to the checkout, are not read.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name in ("elsewhere", "home"):
        (folder / name).mkdir()
    yield Installed(folder / "venv" / "bin", folder)
    shutil.rmtree(folder)


def test_the_package_is_the_wheels(installed: Installed) -> None:
    found = installed.run("python", "-c", "import vitascope; print(vitascope.__file__)").strip()
    assert Path(found).is_relative_to(installed.folder)


def test_the_wheel_holds_the_repositorys_files_and_no_links(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = [name for name in archive.namelist() if name.startswith("vitascope/files/")]
        names = [name.removeprefix("vitascope/files/") for name in files]
        for name in names:
            assert archive.read(f"vitascope/files/{name}") == packaged(name).read_bytes()
    for needed in ("configs/demo.toml", "cluster/choices.toml", "cluster/kuberay/schemas/RayJob.json"):
        assert needed in names
    dashboards = {f"dashboards/{path.name}" for path in (REPO / "dashboards" / "json").iterdir()}
    assert dashboards <= set(names)


def test_every_command_has_its_help(installed: Installed) -> None:
    overview = installed.run("vitascope", "--help")
    assert [command for command in COMMANDS if not re.search(rf"\n    {command}\s", overview)] == []
    helps = json.loads(installed.run("python", "-c", EVERY_HELP, *COMMANDS))
    assert [c for c in COMMANDS if not helps[c].startswith(f"usage: vitascope {c}")] == []
    installed.run("python", "-c", EVERY_STAGE)


def test_the_demos_settings_inputs_and_requests_are_there(installed: Installed) -> None:
    settings = str(installed.packaged("configs", "demo.toml"))
    assert 'folder = "' in installed.run("vitascope", "config", settings)
    media = installed.folder / "media"
    said = installed.run("python", "-c", STILLS, str(media)).split()
    assert [Path(path).is_file() for path in said] == [True, True]
    assert len(list(media.iterdir())) >= 2


def test_cluster_render_writes_the_manifests(installed: Installed) -> None:
    choices, to = str(installed.packaged("cluster", "choices.toml")), installed.folder / "rendered"
    written = installed.run("vitascope", "cluster", "render", choices, "--to", str(to)).split()
    assert [Path(path).name for path in written] == ["aws-stack.yaml", "aws.yaml"]
    rendered, base = (to / "aws.yaml").read_text(), packaged("cluster", "aws.yaml").read_text()
    assert yaml.safe_load(rendered) == yaml.safe_load(base)
    manifests = sorted(map(str, installed.packaged("cluster", "kuberay").glob("*.yaml")))
    valid = installed.run("vitascope", "cluster", "validate", *manifests)
    assert valid == f"{len(manifests)} valid files\n"


def test_dashboards_are_compared_with_grafanas(installed: Installed) -> None:
    stub = GrafanaStub()
    with running(stub.answer) as url:
        said = installed.run("vitascope", "dashboards", "diff", "--url", url, GRAFANA_TOKEN=TOKEN)
    assert "+ folder Vitascope" in said
    assert len({line.partition(" / ")[0] for line in said.splitlines()}) == 1 + N_DASHBOARDS


@pytest.mark.nightly
def test_the_demo_runs(installed: Installed) -> None:
    steps = ["train.steps=4", "train.val_every=2", "train.checkpoint_every=4", "generate.steps=2"]
    installed.run("vitascope", "demo", *(word for setting in steps for word in ("--set", setting)))
    assert (installed.folder / "elsewhere" / "runs" / "demo" / "report.html").is_file()

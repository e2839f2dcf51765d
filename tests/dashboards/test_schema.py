"""The dashboards have the types that Grafana publishes."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dashboards.expressions import BOARDS
from dashboards.servers import REPO

PACKAGES = ("@grafana/schema@11.6.0", "typescript@5.9.3")
FOLDER = REPO / ".servers" / "grafana-schema"
CHECK = """
import { Dashboard, Panel, RowPanel, VariableModel } from '@grafana/schema';

// What JSON holds in the place of an enum: its values.
type Plain<T> = T extends string ? `${T}` : T extends (infer U)[] ? Plain<U>[]
  : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;

type Strict = Omit<Dashboard, 'panels' | 'templating'> & {
  panels: (Panel | RowPanel)[];
  templating: { list: VariableModel[] };
};
"""
MISTAKES = {
    '"graphTooltip": 1': '"graphTooltip": "shared"',
    '"refresh": "10s"': '"refersh": "10s"',
    '"gridPos": {"h"': '"gridPos": {"height"',
    '"defaults": {"custom"': '"defaults": {"unti": "s", "custom"',
    '"type": "textbox"': '"type": "textbx"',
    '"type": "timeseries"': '"tpye": "timeseries"',
}


@pytest.fixture(scope="module")
def tsc() -> Path:
    """The TypeScript compiler, with Grafana's types next to it."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.fail("no npm; install Node.js")
    compiler = FOLDER / "node_modules" / ".bin" / "tsc"
    if not compiler.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        flags = ["--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock", "--no-save"]
        subprocess.run([npm, "install", *flags, *PACKAGES], cwd=FOLDER, check=True, capture_output=True)
    return compiler


def compiled(tsc: Path, boards: list[Any]) -> dict[int, str]:
    """What the compiler says of dashboards as literals of Grafana's type, by their numbers."""
    header = CHECK.count("\n") + 1
    literals = [f"export const board{n}: Plain<Strict> = {json.dumps(b)};" for n, b in enumerate(boards)]
    (FOLDER / "boards.ts").write_text("\n".join([CHECK, *literals]))
    flags = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "esnext"]
    flags += ["--moduleResolution", "bundler"]
    done = subprocess.run([tsc, *flags, "boards.ts"], cwd=FOLDER, capture_output=True, text=True, check=False)
    found = re.findall(r"^boards\.ts\((\d+),\d+\): (.+)$", done.stdout, re.M)
    assert bool(done.returncode) == bool(found), done.stdout
    return {int(line) - header - 1: message for line, message in found}


@pytest.mark.nightly
def test_grafanas_types_fit(tsc: Path) -> None:
    assert compiled(tsc, list(BOARDS.values())) == {}


@pytest.mark.nightly
def test_each_mistake_is_found(tsc: Path) -> None:
    text = json.dumps(BOARDS["vitascope-training"])
    assert all(text.count(old) for old in MISTAKES)
    wrong = [json.loads(text.replace(old, new, 1)) for old, new in MISTAKES.items()]
    found = compiled(tsc, [BOARDS["vitascope-training"], *wrong])
    assert found.keys() == set(range(1, len(MISTAKES) + 1)), found

"""The architecture's rules: who may import whom, which modules may use Ray, how long things may get."""

import ast
import re
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "platform" / "vitascope"
MODULES = {
    str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))
}

MAY_IMPORT_RAY = [
    "clips/stage.py",
    "caption/stage.py",
    "encode/stage.py",
    "encode/verify.py",
    "feed/stream.py",
    "train/stage.py",
    "train/loop.py",
    "train/stopping.py",
    "generate/app/*.py",
    "generate/stage.py",
    "generate/tracing.py",
    "api/app.py",
    "api/local.py",
    "metrics.py",
    "report/thumbnails.py",
    "cluster/*.py",
    "stages/as_jobs.py",
    "deploy/validate.py",
    "doctor/facts.py",
]
MAY_IMPORT_DEEPSPEED = ["train/engine.py"]
PLANNERS = [
    "clips/index/catalog.py",
    "clips/analysis/cut.py",
    "clips/dedup/joins.py",
    "clips/analysis/shots.py",
    "feed/plan.py",
    "feed/packing.py",
    "feed/lengths.py",
    "feed/costly.py",
    "feed/windows.py",
    "encode/buckets.py",
    "encode/suggest.py",
    "generate/batch/order.py",
    "generate/denoise/scheduler.py",
    "generate/app/scaling.py",
    "generate/app/shares.py",
    "generate/chunks.py",
]

GROUND = [
    "__init__.py",
    "errors.py",
    "signals.py",
    "section.py",
    "ledger.py",
    "records.py",
    "storage.py",
    "copies.py",
    "checksum.py",
    "weights.py",
    "precision.py",
    "credentials.py",
    "progress.py",
    "metrics.py",
    "wording.py",
    "config.py",
    "*/settings.py",
    "clips/filters.py",
    "files/*",
    "stores/*",
    "stages/[!a]*.py",
]
CORE = [
    "media",
    "clips",
    "caption",
    "encode",
    "feed",
    "model",
    "train",
    "prompts",
    "provenance",
    "generate",
    "api",
    "evaluate",
]
AROUND = ["report", "deploy", "doctor", "demo"]

LAYERS = [
    GROUND,
    ["cluster/*", "stages/as_jobs.py"],
    *([f"{room}/*"] for room in CORE),
    *([f"{room}/*"] for room in AROUND),
    ["cli.py"],
]
"""A module may import from its own layer and from those before it: nothing of the core imports what lies
around it, and no room of the core imports a later one."""


MOST_LINES = {
    "api": 3450,  # OpenAI's videos, pictures, files and batches; what is kept of them, keys, previews
    "caption": 650,
    "clips": 3700,  # joins, catalog and hooks: no library does these, and tests show each
    "cluster": 920,  # its tokens, private folders and lost connections; one helper was a wrapper, and went
    "demo": 300,
    "deploy": 1550,  # some 55 checks that schemas lack, with their messages; tables of machines are merged
    "doctor": 530,
    "encode": 3815,  # old shards are read, too; autoencoders, streamed or in tiles; captions encoded once
    "evaluate": 140,
    "feed": 1560,  # the planner for every distribution of lengths: windows, costly ones, levelling
    "files": 30,
    "generate": 7200,  # denoising, batches, the app: what no engine has, and each mode of it
    "media": 3070,  # a rule for each kind of file and damage, each shown against ffmpeg, Pillow or a standard
    "model": 2740,  # two networks; weights, adapters, pipelines in and out as others have them, damage named
    "prompts": 540,  # captions' endpoint and loading are reused; the list, the log and the cache are its own
    "provenance": 830,  # C2PA's library signs and reads; keys, and what its hashes leave out, are ours
    "report": 2070,  # two pages; their HTML is in templates; any stretch of conditioning frames is marked
    "stages": 470,
    "stores": 360,  # listings of millions of files by the page; whole files as they are
    "train": 1830,  # starts from weights, exports them or adapters; levels and frames of its objective
    "": 2520,  # weights.py: headers of safetensors, for codec and network; a command and its options
}
"""Of each room, and of the modules next to them. Raise one only with a word on what could not be deleted."""


def imports(tree: ast.AST) -> set[str]:
    """Every module name that `tree` imports, anywhere in it; `from a import b` gives both a and a.b."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(str(node.module))
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def tops(tree: ast.AST) -> set[str]:
    """The top-level packages that `tree` imports."""
    return {name.partition(".")[0] for name in imports(tree)}


def layer(module: str) -> int:
    """The first layer with a pattern that `module` matches."""
    found = [i for i, patterns in enumerate(LAYERS) if any(fnmatch(module, p) for p in patterns)]
    assert found, f"{module} has no layer; add it to LAYERS"
    return found[0]


def files_of(name: str) -> list[str]:
    """The file that a dotted vitascope name stands for, if it is a module or package."""
    path = name.removeprefix("vitascope").strip(".").replace(".", "/")
    candidates = [f"{path}.py", f"{path}/__init__.py"] if path else ["__init__.py"]
    return [c for c in candidates if c in MODULES]


def test_the_source_root_is_no_package() -> None:
    assert not (REPO / "platform" / "__init__.py").exists(), "it would shadow the standard library's platform"


@pytest.mark.parametrize(
    ("library", "allowed"),
    [("ray", MAY_IMPORT_RAY), ("deepspeed", MAY_IMPORT_DEEPSPEED)],
    ids=["ray", "deepspeed"],
)
def test_few_modules_know_the_library(library: str, allowed: list[str]) -> None:
    users = [m for m, tree in MODULES.items() if library in tops(tree)]
    assert [m for m in users if not any(fnmatch(m, pattern) for pattern in allowed)] == []


def test_nothing_is_unpickled() -> None:
    """A file from elsewhere could run code that way. A decoding child and its parent write to each other."""
    users = [m for m, tree in MODULES.items() if tops(tree) & {"pickle", "cloudpickle", "dill", "joblib"}]
    assert users == ["media/isolate.py"]
    loads = re.compile(r"(?<!safetensors\.)torch\.load\(")
    assert [m for m in MODULES if loads.search((PACKAGE / m).read_text())] == []


def test_planners_know_neither_ray_nor_torch() -> None:
    assert set(PLANNERS) <= MODULES.keys()
    assert [m for m in PLANNERS if tops(MODULES[m]) & {"ray", "torch"}] == []


def test_settings_import_only_pydantic_and_the_section() -> None:
    allowed = {"typing", "collections", "pydantic", "vitascope", "enum", "re"}
    for module in (m for m in MODULES if m.endswith("/settings.py")):
        names = imports(MODULES[module])
        assert tops(MODULES[module]) <= allowed, module
        ours = {n for n in names if n.startswith("vitascope.")}
        allowed_ours = ("vitascope.section", "vitascope.clips.filters")  # the filters' own settings
        assert all(n.startswith(allowed_ours) for n in ours), (module, ours)


@pytest.mark.parametrize("module", MODULES)
def test_lower_layers_do_not_import_higher_ones(module: str) -> None:
    used = {f for name in imports(MODULES[module]) if name.startswith("vitascope") for f in files_of(name)}
    too_high = {f for f in used if layer(f) > layer(module)}
    assert too_high == set(), f"{module} (layer {layer(module)}) imports {too_high}"


@pytest.mark.parametrize("module", MODULES)
def test_functions_and_files_stay_small(module: str) -> None:
    source = (PACKAGE / module).read_text()
    assert source.count("\n") <= 450
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert code_lines(node) <= 60, f"{module}: {node.name} has {code_lines(node)} lines of code"
            positional = [
                a for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in ("self", "cls")
            ]
            assert len(positional) <= 4, (
                f"{module}: {node.name} takes {len(positional)} positional parameters"
            )


def test_rooms_stay_within_their_lines() -> None:
    lines: dict[str, int] = {}
    for module in MODULES:
        room = module.rpartition("/")[0].partition("/")[0]
        lines[room] = lines.get(room, 0) + (PACKAGE / module).read_text().count("\n")
    assert lines.keys() == MOST_LINES.keys()
    assert {room: n for room, n in lines.items() if n > MOST_LINES[room]} == {}


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without the docstring."""
    total = int(function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    is_doc = (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )
    return total - (int(first.end_lineno or 0) - first.lineno + 1 if is_doc else 0)


def test_no_module_is_named_like_the_standard_library() -> None:
    """A script's folder is on the path, and then its neighbours shadow what they are named after."""
    scripts = [str(path.relative_to(REPO)) for path in (REPO / "jobs").rglob("*.py")]
    parts = {part.removesuffix(".py") for module in (*MODULES, *scripts) for part in module.split("/")}
    allowed = {"__init__", "__main__", "codecs"}  # the field's word; encode/ is on nobody's path
    assert (parts - allowed) & sys.stdlib_module_names == set()


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_its_job(module: str) -> None:
    doc = ast.get_docstring(MODULES[module])
    assert doc, f"{module} has no docstring"
    if not module.endswith("__init__.py"):
        first = doc.splitlines()[0]
        assert len(first.split()) <= 15, f"{module}: {first!r} is long; about eight words"

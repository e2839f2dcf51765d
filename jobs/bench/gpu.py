"""Runs what only a GPU can show, part by part, the most valuable first.

    python jobs/bench/gpu.py [--out FILE] [--wheels FOLDER] [--parts machine kernels] [--minutes 8]
    python jobs/bench/gpu.py --device cpu --toy

Needs torch and a checkout of this repository, neither Ray nor a network. Packages that the machine lacks are
installed for this run from --wheels, a folder of wheels (jobs/bench/README.md says how to fill it).

Each part is a process of its own with a limit of time, so that an error on the GPU, a lack of memory or a
hang ends that part alone. When it ends it has one line, a JSON object: its name, its status (ok, failed,
timeout or skipped), its seconds, the results that it had until then, and the error if there was one. --out
appends the lines to a file, too. A part starts only if time is left. PARTS lists them; gpu_parts.py and
gpu_others.py say what each measures.

With --toy the shapes are tiny. On a CPU that checks this script and measures nothing.

The last line is one JSON object, too: the status of every part, and their headline figures.
"""

import argparse
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
LEAST_S = 10.0  # a part with less time left does not start
LAST_LINES = 12  # of a process's output, for the line of a part that died
CPU_PATIENCE = 5  # parts have so many times their limit on a CPU, which others may use, too
LARGE_OR_BUILT = {"torch": "2.11", "numpy": "2", "pyarrow": "19", "deepspeed": "0.19.8"}
"""Packages and their oldest versions; gpu_packages.txt has the others, whose wheels are small."""
Line = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A part of the benchmark.

    target: `module:function`, called with a `gpu_parts.Run`. limit_s: then its process is killed.
    """

    name: str
    target: str
    limit_s: float


PARTS = [
    Part("machine", "gpu_parts:machine", 60),
    Part("kernels", "gpu_parts:kernels", 60),
    Part("forward_1.3b", "gpu_parts:forward_small", 60),
    Part("train_1.3b", "gpu_parts:train_small", 75),
    Part("forward_and_train_5b", "gpu_parts:large", 90),
    Part("diffusers", "gpu_others:diffusers", 75),
    Part("generation", "gpu_parts:generation", 60),
    Part("diffusers_compiled", "gpu_others:compiled", 90),
    Part("autoencoder", "gpu_others:autoencoder", 60),
    Part("engine_1.3b", "gpu_parts:engine", 60),
]


@dataclass
class Driver:
    """Runs parts one after another, and writes their lines.

    deadline: on the monotonic clock, by which everything has ended. packages: a folder of packages that the
    parts import before the machine's own.
    """

    device: str
    toy: bool
    deadline: float
    out: Path | None = None
    packages: Path | None = None
    lines: list[Line] = field(default_factory=list)

    def run(self, parts: Sequence[Part]) -> None:
        """All of them; without the device only the first."""
        for part in parts:
            left = self.deadline - time.monotonic()
            if any(line.get("no_device") for line in self.lines):
                self.write({"part": part.name, "status": "skipped", "reason": "no device"})
            elif left < LEAST_S:
                self.write({"part": part.name, "status": "skipped", "reason": "no time left"})
            else:
                self.write(self.line_of(part, min(part.limit_s, left)))

    def line_of(self, part: Part, limit_s: float) -> Line:
        """Runs one part for at most `limit_s`."""
        started = time.monotonic()
        with TemporaryDirectory() as folder:
            report, log = Path(folder, "report"), Path(folder, "log")
            status = self._process(part, limit_s, (report, log))
            results, outcome = read_report(report)
            last = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        if status is None:
            outcome = {"status": "timeout"}
        elif "status" not in outcome:
            died = {"type": "exit", "message": f"the process ended with status {status}", "last_lines": last}
            outcome = {"status": "failed", "error": died}
        if outcome["status"] in ("failed", "timeout"):
            print(f"{part.name}:", *last, sep="\n  ", file=sys.stderr, flush=True)
        seconds = round(time.monotonic() - started, 1)
        return {"part": part.name, "seconds": seconds, "limit_s": round(limit_s, 1)} | outcome | results

    def _process(self, part: Part, limit_s: float, files: tuple[Path, Path]) -> int | None:
        """Its exit status; None if it was killed because its time was over."""
        report, log = files
        command = [
            sys.executable,
            "-c",
            "import gpu_run; gpu_run.main()",
            part.target,
            "--device",
            self.device,
        ]
        command += ["--seconds", str(limit_s), "--report", str(report), *(["--toy"] if self.toy else [])]
        own = [self.packages, REPO / "platform", REPO / "tests" / "gpu", HERE]
        paths = [str(path) for path in own if path] + [p for p in [os.environ.get("PYTHONPATH")] if p]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        with log.open("wb") as output, ended(command, environment, output) as process:
            try:
                return process.wait(limit_s)
            except subprocess.TimeoutExpired:
                return None

    def write(self, line: Line) -> None:
        """One line, at once."""
        self.lines.append(line)
        text = json.dumps(line)
        print(text, flush=True)
        if self.out:
            with self.out.open("a") as file:
                file.write(text + "\n")

    def summary(self) -> Line:
        """The status of every part, and what their headlines say."""
        parts = {line["part"]: line["status"] for line in self.lines}
        headlines: Line = {}
        for line in self.lines:
            headlines |= line.get("headlines", {})
        return {"parts": parts, "device": self.device, "toy": self.toy} | headlines


@contextmanager
def ended(command: list[str], environment: dict[str, str], output: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own; at the end, all of the group are killed."""
    process = subprocess.Popen(
        command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # one that hangs in the driver stays
            process.wait(10)


def read_report(file: Path) -> tuple[Line, Line]:
    """The results and headlines that a part reported, and its outcome, empty if it did not end by itself."""
    results: Line = {}
    headlines: Line = {}
    outcome: Line = {}
    for text in file.read_text().splitlines() if file.exists() else ():
        with suppress(ValueError):  # the last one, if the process was killed while it wrote
            kind, name, value = json.loads(text)
            if kind == "outcome":
                outcome = value
            else:
                (results if kind == "result" else headlines)[name] = value
    return {"results": results, "headlines": headlines}, outcome


def wanted_packages() -> dict[str, str]:
    """The oldest version that does of each package, by name; no version if any does."""
    lines = (HERE / "gpu_packages.txt").read_text().splitlines()
    named = [line.partition(">=") for line in lines if line and not line.startswith("#")]
    return LARGE_OR_BUILT | {name: version for name, _, version in named}


def missing_packages() -> list[str]:
    """Those that this machine lacks or has in an older version."""
    missing = []
    for name, oldest in wanted_packages().items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if numbers(found) < numbers(oldest):
            missing.append(name)
    if {"pydantic", "pydantic-core"} & set(missing):  # each version of one needs exactly one of the other
        missing = list(dict.fromkeys([*missing, "pydantic", "pydantic-core"]))
    return missing


def numbers(version: str) -> tuple[int, ...]:
    """2.11.0+cu130 as (2, 11, 0)."""
    return tuple(int(n) for n in re.findall(r"\d+", version.partition("+")[0]))


def install(names: Sequence[str], wheels: Path, target: Path) -> list[str]:
    """Installs each package of which `wheels` has a wheel for this Python; returns the names of these."""
    files = {file.name.partition("-")[0].lower().replace("_", "-") for file in wheels.glob("*.whl")}
    named = [name for name in names if name in files]
    if not named or pip_install(named, wheels, target):
        return named
    return [name for name in named if pip_install([name], wheels, target)]


def pip_install(names: Sequence[str], wheels: Path, target: Path) -> bool:
    """Whether all of them are installed; no network is used, and nothing that they require is installed."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    command += ["--no-cache-dir", "--find-links", str(wheels), "--target", str(target), *names]
    return subprocess.run(command, capture_output=True).returncode == 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--toy", action="store_true", help="tiny shapes")
    parser.add_argument("--parts", nargs="+", choices=[part.name for part in PARTS], metavar="PART")
    parser.add_argument("--out", type=Path, metavar="FILE", help="append the lines to it")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="of packages that this machine lacks")
    parser.add_argument("--minutes", type=float, default=7.8, help="of all parts together")
    args = parser.parse_args()
    if args.device == "cpu" and not args.toy:
        parser.error("on a CPU only tiny shapes are of use: add --toy")
    if args.wheels and not args.wheels.is_dir():
        parser.error(f"--wheels is a folder of wheels, got {args.wheels}")
    return args


def main() -> None:
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the part that runs, too
    driver = Driver(args.device, args.toy, time.monotonic() + 60 * args.minutes, args.out)
    with TemporaryDirectory() as folder:
        missing = missing_packages()
        installed = install(missing, args.wheels, Path(folder)) if args.wheels else []
        driver.packages = Path(folder) if installed else None
        still = [name for name in missing if name not in installed]
        driver.write({"part": "packages", "status": "ok", "missing": still, "installed": installed})
        patience = CPU_PATIENCE if args.device == "cpu" else 1
        chosen = [part for part in PARTS if not args.parts or part.name in args.parts]
        driver.run([replace(part, limit_s=part.limit_s * patience) for part in chosen])
    driver.write(driver.summary())
    sys.exit(any(line.get("status") in ("failed", "timeout") for line in driver.lines))


if __name__ == "__main__":
    main()

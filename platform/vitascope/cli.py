"""The `vitascope` command.

vitascope <clips|encode|train|generate|evaluate|demo> [settings.toml] [--set section.key=value ...]
vitascope config [settings.toml] [--schema] [--set section.key=value ...]
"""

import argparse
import importlib
import sys
from collections.abc import Callable
from typing import Any

from botocore.exceptions import BotoCoreError

from vitascope import config
from vitascope.config import Settings

STAGES = {
    "clips": "vitascope.clips.pipeline:run",
    "encode": "vitascope.encode.pipeline:run",
    "train": "vitascope.train.trainer:run",
    "generate": "vitascope.generate.batch:run",
    "evaluate": "vitascope.evaluate.losses:run",
    "demo": "vitascope.demo.flow:run",
}
"""Each stage's entry point, imported only when it is asked for."""

_HELP = {
    "clips": "list, probe and cut videos and images into the clip table",
    "encode": "encode clips into latent shards",
    "train": "train on the latents; run again to continue",
    "generate": "generate a file of requests with the trained model",
    "evaluate": "held-out loss per size and noise level",
    "demo": "the whole flow on real video, with a report",
    "config": "check the settings and print them resolved",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, or 2 where the user's input cannot be used."""
    options = _parser().parse_args(arguments)
    try:
        settings = config.load(options.settings or _default_file(options.command), options.set)
        if options.command == "config":
            print(config.schema() if options.schema else config.to_toml(settings), end="\n" * options.schema)
        else:
            run_stage(options.command, settings)
    except (ValueError, FileNotFoundError, PermissionError, ConnectionError, BotoCoreError) as error:
        if isinstance(error, ValueError) and not _is_ours(error):
            raise
        print(f"vitascope {options.command}: {error}", file=sys.stderr)
        return 2
    return 0


def run_stage(name: str, settings: Settings) -> dict[str, Any]:
    """Writes the resolved settings into the run's folder, runs one stage and returns its summary."""
    stage = load_stage(name)
    config.save(settings)
    return stage(settings)


def load_stage(name: str) -> Callable[[Settings], dict[str, Any]]:
    """The entry point of a stage."""
    module, _, function = STAGES[name].partition(":")
    entry: Callable[[Settings], dict[str, Any]] = getattr(importlib.import_module(module), function)
    return entry


def _is_ours(error: Exception) -> bool:
    """Whether our own code raised `error`, to say what the user should change; else it is a bug."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return step is not None and str(step.tb_frame.f_globals.get("__name__")).startswith("vitascope.")


def _default_file(command: str) -> str | None:
    return config.default_config("demo") if command == "demo" else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vitascope", description="Train video diffusion transformers and generate video in bulk, on Ray."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, text in _HELP.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "settings", nargs="?", help="a TOML file, local or s3://; without one, the defaults"
        )
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="section.key=value",
            help="override one setting; may be given many times",
        )
        if name == "config":
            command.add_argument(
                "--schema", action="store_true", help="print the JSON schema of the file instead"
            )
    return parser


if __name__ == "__main__":
    sys.exit(main())

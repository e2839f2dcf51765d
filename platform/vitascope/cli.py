"""The `vitascope` command: its arguments, and what they lead to."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from botocore.exceptions import BotoCoreError, NoCredentialsError, ProfileNotFound

from vitascope import config, signals, storage
from vitascope.config import Settings
from vitascope.encode.buckets import Limits, check_table
from vitascope.errors import FAILED, INCOMPLETE, MISTAKE, STOPPED, Failed, Mistake, about_disk, sentence
from vitascope.progress import Stopped, say
from vitascope.section import located
from vitascope.stages import runner
from vitascope.stages.registry import FLOW, STAGES, Summary
from vitascope.wording import count


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, INTERRUPTED, or one of `errors`.

    A user's mistake and what has failed outside are one sentence; any other error is a bug, and raised.
    """
    options = _parser().parse_args(arguments)
    with signals.handled():
        try:
            return int(options.run(options) or 0)
        except KeyboardInterrupt as error:
            return _ended(options.command, str(error) or _AGAIN, signals.INTERRUPTED)
        except SystemExit as error:
            if error.code != signal.SIGTERM:
                raise
            return _ended(options.command, _AGAIN, STOPPED)
        except Exception as error:
            cause = _cause(error)
            if (status := _status(cause, _named(options))) is None:
                raise
            return _ended(options.command, sentence(cause), status)


_AGAIN = "stopped; run it again to continue"


def _ended(command: str, how: str, status: int) -> int:
    """Says how a command ended, and ends a local Ray, which otherwise would print an account of its own."""
    print(f"vitascope {command}: {how}", file=sys.stderr, flush=True)
    if "ray" in sys.modules and status in (signals.INTERRUPTED, STOPPED):
        from vitascope.cluster import local

        local.end()
    return status


def _cause(error: Exception) -> BaseException:
    """The error that was raised first, if that was on Ray."""
    if "ray" not in sys.modules:
        return error
    from vitascope.cluster.failures import cause_of

    return cause_of(error)


def _status(error: BaseException, named: Iterable[str]) -> int | None:
    """The exit status, which says whether another try may help; None for a bug, which keeps its traceback."""
    if isinstance(error, Stopped):
        return STOPPED
    if isinstance(error, Mistake | NoCredentialsError | ProfileNotFound):
        return MISTAKE
    if isinstance(error, Failed | ConnectionError | BotoCoreError | storage.Unavailable) or about_disk(error):
        return FAILED
    path = error.filename if isinstance(error, OSError) else None
    is_theirs = isinstance(path, str) and any(storage.is_within(path, folder) for folder in named)
    return MISTAKE if is_theirs else None


def _named(options: argparse.Namespace) -> list[str]:
    """The files and folders that the user named, in the command or in the settings."""
    own = vars(options)
    single = (own.get(name) for name in ("settings", "to", "source"))
    words = [*single, *own.get("files", ()), *own.get("locations", ())]
    return [word for word in words if word]


def run_stage(name: str, settings: Settings, **more: str) -> bool:
    """Writes the resolved settings into the run's folder, runs and marks a stage; whether it is complete."""
    config.check_folder(settings)
    config.save(settings)
    if name not in FLOW:
        return _execute(name, settings, **more)
    if changed := runner.changed_before(settings, name, runner.read_marks(settings)):
        say(name, "reads tables made with other settings; vitascope flow makes them again:")
        for line in changed:
            say("", line)
    return runner.perform(settings, name, partial(_execute, settings=settings))


def _execute(name: str, settings: Settings, **more: str) -> bool:
    return bool(load_stage(name)(settings, **more).get("succeeded", True))


def load_stage(name: str) -> Callable[..., Summary]:
    """The entry point of a stage."""
    return STAGES[name].load()


def _stage(options: argparse.Namespace) -> int:
    return INCOMPLETE * (not run_stage(options.command, _checked(options), **_more(options)))


def _more(options: argparse.Namespace) -> dict[str, str]:
    """The arguments of a stage next to the settings."""
    return {"start": options.start} if getattr(options, "start", None) else {}


def _flow(options: argparse.Namespace) -> int:
    """The flow as jobs on a cluster or, if none is named, stage after stage on one local Ray."""
    from vitascope.cluster import local
    from vitascope.train.job import check_settings

    settings, start = _checked(options), options.start
    marks = runner.read_marks(settings)
    todo = runner.unfinished(settings, marks, start)
    for line in runner.plan_lines(settings, todo, marks):
        say("flow", line)
    if "train" in todo:
        check_settings(settings)
    runner.check_inputs(settings, todo)
    if local.address_of(settings.cluster):
        return INCOMPLETE * (not run_stage("flow", settings, **_more(options)))
    config.check_folder(settings)
    if todo:
        config.save(settings)
    return INCOMPLETE * bool(runner.run(settings, partial(_execute, settings=settings), start))


def _doctor(options: argparse.Namespace) -> int:
    return FAILED * (not load_stage("doctor")(_settings(options))["healthy"])


def _config(options: argparse.Namespace) -> None:
    settings = _checked(options)
    print(config.schema() if options.schema else config.to_toml(settings), end="\n" * options.schema)


def _submit(options: argparse.Namespace) -> int:
    from vitascope.cluster import jobs

    if options.allow_open:
        options.set.append("cluster.allow_open=true")  # the job is to join that cluster too
    if options.start and options.stage != "flow":
        raise Mistake(f"--start is where flow begins, and {options.stage} is one stage; leave it out")
    runner.check_start(options.start)
    settings = _checked(options)
    client = jobs.client_of(options.address, allow_open=settings.cluster.allow_open)
    words = [word for name, value in _more(options).items() for word in (f"--{name}", value)]
    submission_id = jobs.submit(client, jobs.Submission(options.stage, settings, tuple(words)))
    print(f"job {submission_id}; to stop it: vitascope jobs stop {submission_id}", flush=True)
    return 0 if options.detach else _follow(client, submission_id)


def _follow(client: Any, submission_id: str) -> int:
    from vitascope.cluster import jobs

    try:
        details = jobs.follow(client, submission_id, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        print(f"\nthe job goes on; to follow it again: vitascope jobs logs {submission_id}")
        return signals.INTERRUPTED
    print(f"job {submission_id}: {details.status.value}")
    return 0 if details.status.value == "SUCCEEDED" else FAILED


def _jobs(options: argparse.Namespace) -> int:
    from vitascope.cluster import jobs

    if options.action != "list" and not options.id:
        raise Mistake(f"vitascope jobs {options.action} takes an id; `vitascope jobs list` names them")
    client = jobs.client_of(options.address, allow_open=options.allow_open)
    if options.action == "list":
        print("\n".join(jobs.table(client.list_jobs())))
    elif options.action == "logs":
        return _follow(client, options.id)
    else:
        stopping = jobs.stop(client, options.id)
        print(f"job {options.id} {'is asked to leave' if stopping else 'has already ended'}")
    return 0


def _batch(options: argparse.Namespace) -> None:
    from vitascope.generate.batch import control
    from vitascope.generate.batch.control import Wish, folder_of

    folder = folder_of(_settings(options))
    if options.action != "status":
        control.ask(folder, Wish(options.action))
        say(
            "batch",
            f"asked to {options.action}; a running job follows within seconds, a later one at its start",
        )
    for line in control.status(folder):
        say("batch", line)


def _cluster(options: argparse.Namespace) -> int:
    from vitascope.deploy import choices, manifests, validate

    if options.action == "render":
        if not options.to or len(options.files) != 1:
            raise Mistake("vitascope cluster render takes one file of choices, and --to FOLDER")
        chosen = choices.load(options.files[0])
        print("\n".join(manifests.render(chosen, options.to)))
        for note in manifests.notes(chosen):
            print(f"note: {note}", file=sys.stderr)
        return 0
    problems = validate.validate(options.files)
    print("\n".join(map(str, problems)) or f"{count(len(options.files), 'valid file')}")
    return MISTAKE * bool(problems)


def _serve(options: argparse.Namespace) -> None:
    from vitascope.api import local

    local.run(_checked(options))


def _keys(options: argparse.Namespace) -> None:
    from vitascope.api.store.keys import Allowance, Keys
    from vitascope.api.store.objects import Objects

    keys = Keys(Objects.of(_settings(options)).root)
    if options.action == "list":
        print("\n".join(map(str, keys.all())) or "no keys; vitascope keys add makes one")
    elif not options.name:
        raise Mistake(f"vitascope keys {options.action} takes --name NAME")
    elif options.action == "revoke":
        print(f"{keys.revoke(options.name)}; it is refused within seconds")
    else:
        print(keys.add(options.name, Allowance(**{limit: getattr(options, limit) for limit in _LIMITS})))


_LIMITS = {
    "requests_per_minute": "requests of any kind within a minute, at most",
    "in_flight": "videos and pictures that are not finished, at most",
    "max_pixels": "largest frame area",
    "max_frames": "most frames of a video",
}


def _dashboards(options: argparse.Namespace) -> None:
    from vitascope.deploy import grafana

    auth = grafana.credentials(os.environ)
    how = {"folder": options.folder, "datasource_url": options.prometheus, "allow_http": options.allow_http}
    changes = grafana.push(options.url, auth, dry_run=True, **how)
    print("\n".join(changes) or "Grafana has them all as they are here", flush=True)
    if options.action == "push" and changes:
        grafana.push(options.url, auth, **how)
        print("pushed")


def _buckets(options: argparse.Namespace) -> None:
    from vitascope.encode import bucket_facts

    settings = _settings(options)
    suggestion = bucket_facts.suggest(settings, max_tokens=options.max_tokens, count=options.count)
    print("\n".join(suggestion.lines))
    if options.to:
        storage.put(options.to, suggestion.toml.encode())


def _shards(options: argparse.Namespace) -> int:
    from vitascope.encode import verify

    settings = _settings(options)
    verdict = verify.verify(settings)
    for shard, problem in verdict.problems.items():
        print(f"shard {shard} {problem}")
    if verdict.problems and options.forget:
        n_samples = verify.forget(settings, list(verdict.problems))
        print(f"{count(n_samples, 'sample')} out of the index; vitascope encode makes them again")
    elif verdict.problems:
        print("with --forget they leave the index, and vitascope encode makes their samples again")
    print(f"{verdict.shards - len(verdict.problems)} of {count(verdict.shards, 'shard')} as written")
    return FAILED * bool(verdict.problems)


def _verify(options: argparse.Namespace) -> int:
    from vitascope.provenance import verify

    verdicts = [verify.verify(file, options.trust) for file in options.files]
    if options.json:
        print(storage.dumps([verdict.document() for verdict in verdicts], indent=2))
    else:
        print("\n".join(line for verdict in verdicts for line in verdict.lines()))
    statuses = {verdict.status for verdict in verdicts}
    return next(one for one in (verify.INVALID, verify.NONE, verify.VALID) if one in statuses)


def _export(options: argparse.Namespace) -> None:
    from vitascope.train import export

    chosen = export.Chosen(options.weights, options.step, options.precision, options.merge)
    source, to = map(storage.absolute, (options.source, options.to))
    print("\n".join(export.export(source, to, options.format, chosen)))


def _settings(options: argparse.Namespace) -> Settings:
    """The settings, the same for every command: their locations shape ids, and workers have other folders."""
    demo = options.command == "demo" and not options.settings
    file = config.default_config("demo") if demo else options.settings
    settings = config.absolute(config.load(file, options.set))
    if getattr(options, "videos", None) is not None:
        own_folder = not any(override.startswith("run.folder=") for override in options.set)
        settings = config.with_videos(settings, options.videos, own_folder=own_folder)
    options.locations = list(config.locations(settings).values())
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = "/nonexistent"  # importing Ray Train fails for a user without a known home
    return settings


def _checked(options: argparse.Namespace) -> Settings:
    """The settings, also with what takes a stage's code to check."""
    settings = _settings(options)
    check_table(settings.encode, Limits.of(settings))
    return settings


def _add_outputs(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands about what is generated: batches, the HTTP service and its files."""
    actions = ("status", "pause", "resume", "cancel")
    _takes_settings(add("batch", "see the progress of a batch, pause or cancel it", _batch, actions=actions))
    of_verify = "what a generated file claims; exit status 1 if one was altered, 2 if one has no manifest"
    command = add("verify", of_verify, _verify)
    command.add_argument("files", nargs="+", type=_place, help="mp4, png or other files, local or in a store")
    trust = "PEM file of an authority; with it, files that it does not vouch for are invalid"
    command.add_argument("--trust", action="append", default=[], type=_place, metavar="CERT", help=trust)
    command.add_argument("--json", action="store_true", help="print a JSON list")
    command = add("serve", "generate over HTTP, in the shape of OpenAI's API, until interrupted", _serve)
    _takes_settings(command)
    command = add("keys", "keys of the HTTP service", _keys, actions=("add", "list", "revoke"))
    _takes_settings(command)
    command.add_argument("--name", help="of the key: letters, digits and hyphens (add, revoke)")
    for limit, text in _LIMITS.items():
        command.add_argument(f"--{limit.replace('_', '-')}", type=int, metavar="N", help=f"{text} (add)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vitascope", description="Train video diffusion transformers and generate video in bulk, on Ray."
    )
    add = partial(_command, parser.add_subparsers(dest="command", required=True, metavar="command"))
    for name, stage in STAGES.items():
        command = add(name, stage.help, {"doctor": _doctor, "flow": _flow}.get(name, _stage))
        _takes_settings(command, "the demo's own settings" if name == "demo" else "the defaults")
        if name == "flow":
            _takes_start(command)
        if name == "demo":
            command.add_argument("--videos", metavar="PLACE", help="your own videos; in runs/own-<name>")
    command = add("config", "check the settings and print them resolved", _config)
    _takes_settings(command)
    command.add_argument("--schema", action="store_true", help="print the JSON schema of the file instead")
    command = add("buckets", "sizes and lengths that keep most of the clips", _buckets, actions=("suggest",))
    _takes_settings(command)
    command.add_argument("--max-tokens", type=int, help="patches of a bucket; by default feed.token_budget")
    command.add_argument("--count", type=int, default=12, help="buckets at most")
    command.add_argument("--to", metavar="FILE", type=_place, help="write them to this file, as TOML")
    command = add("shards", "read every latent shard, and report damage", _shards, actions=("verify",))
    _takes_settings(command)
    command.add_argument("--forget", action="store_true", help="remove damaged shards from the index")
    _add_outputs(add)
    command = add("export", "write trained weights for diffusers, Wan's own code or ComfyUI", _export)
    command.add_argument("source", type=_place, help="a run's folder, or a model's")
    command.add_argument("--to", metavar="FOLDER", type=_place, required=True)
    command.add_argument("--format", choices=["diffusers", "wan", "comfyui", "kohya"], default="diffusers")
    command.add_argument("--merge", action="store_true", help="write adapters into the weights they adapt")
    command.add_argument("--weights", choices=["ema", "raw"], default="ema", help="averaged, or as trained")
    command.add_argument("--step", type=int, help="of a checkpoint; by default the model, or the newest one")
    command.add_argument("--precision", choices=["float32", "bf16"], help="by default that of the start")
    command = add("submit", "submit a stage as a job to a cluster, and follow it", _submit)
    command.add_argument("stage", choices=[stage for stage in STAGES if stage != "demo"])
    _takes_settings(command)
    _takes_start(command)
    _takes_address(command)
    command.add_argument("--detach", action="store_true", help="return once it is submitted")
    of_jobs = "list the jobs of a cluster, follow or stop one"
    command = add("jobs", of_jobs, _jobs, actions=("list", "logs", "stop"))
    command.add_argument("id", nargs="?", help="job id (logs, stop)")
    _takes_address(command)
    command = add(
        "cluster", "manifests for AWS, GCP and Kubernetes", _cluster, actions=("render", "validate")
    )
    command.add_argument("files", nargs="+", help="choices.toml to render, or manifests to validate")
    command.add_argument("--to", metavar="FOLDER", type=_place, help="output folder (render)")
    command = add("dashboards", "bring the dashboards into Grafana", _dashboards)
    command.add_argument("action", choices=["diff", "push"], help="push shows the difference first")
    command.add_argument("--url", required=True, help="Grafana's; GRAFANA_TOKEN holds the token")
    command.add_argument("--folder", default="Vitascope", help="Grafana folder")
    command.add_argument("--prometheus", metavar="URL", help="set the data source to Prometheus at URL")
    command.add_argument("--allow-http", action="store_true", help="send the token in clear")
    return parser


def _command(
    commands: Any, name: str, text: str, run: Callable, *, actions: tuple[str, ...] = ()
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=run)
    if actions:
        command.add_argument("action", choices=actions)
    return command


def _place(text: str) -> str:
    """A file or folder named in a command, as settings name them."""
    try:
        return located(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None


def _takes_settings(command: argparse.ArgumentParser, without: str = "the defaults") -> None:
    file = f"a TOML file, local or in a bucket; without it, {without}"
    command.add_argument("settings", nargs="?", help=file)
    override = "override one setting; may be given many times"
    command.add_argument("--set", action="append", default=[], metavar="section.key=value", help=override)


def _takes_start(command: argparse.ArgumentParser) -> None:
    command.add_argument("--start", metavar="STAGE", help="flow only: start here, even if it is finished")


def _takes_address(command: argparse.ArgumentParser) -> None:
    address = "the cluster's dashboard; RAY_API_SERVER_ADDRESS, or this machine's"
    command.add_argument("--address", metavar="URL", help=address)
    command.add_argument(
        "--allow-open",
        action="store_true",
        help="even without authentication",
    )


if __name__ == "__main__":
    sys.exit(main())

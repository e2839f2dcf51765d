"""Lay the choices over the base manifests of a cloud.

The files under cluster/ are complete as they stand; here their fields are set to what was chosen, and the
result is written and validated. Comments stay behind in the base files.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from vitascope.deploy.checks import KINDS
from vitascope.deploy.choices import DECODE, GENERATE, HEAD, TRAIN, Aws, Choices, Gcp, Kubernetes, Machine
from vitascope.deploy.pods import cluster_of
from vitascope.deploy.validate import BASE, documents, validate
from vitascope.errors import Mistake

OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
"""The label of the KubeRay operator's pods."""
_OBJECT_STORE = 0.3  # the share of a machine's memory that Ray gives to the object store
_TLS_FOLDER = "~/.ray/tls"
# Each node gets a certificate for its own addresses, signed by the key that is shipped with the token.
_TLS_SETUP = (
    "cd ~/.ray/tls && umask 077 && openssl req -x509 -newkey rsa:3072 -nodes -days 365 -subj /CN=ray "
    "-CA ca.crt -CAkey ca.key -keyout tls.key -out tls.crt -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    "$(hostname -I | tr ' ' '\\n' | sed -n 's/^[0-9].*/,IP:&/p' | tr -d '\\n')"
)
_TLS_ENVIRONMENT = (
    "export RAY_USE_TLS=1 RAY_TLS_SERVER_CERT=~/.ray/tls/tls.crt RAY_TLS_SERVER_KEY=~/.ray/tls/tls.key "
    "RAY_TLS_CA_CERT=~/.ray/tls/ca.crt; "
)


def render(choices: Choices, to: str) -> list[str]:
    """Writes the manifests of the chosen cloud into the folder `to` and returns their paths.

    On AWS the first rendering, without a security group, writes the stack alone that makes one.

    Raises:
        Mistake: listing every problem that validation found; the files are there to look at.
    """
    rendered = _RENDERERS[choices.cloud](choices)
    folder = Path(to)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in rendered.items():
        path = folder / name
        path.write_text(content)
        path.chmod(0o755 if path.suffix == ".sh" else 0o644)
        written.append(str(path))
    problems = validate([path for path in written if path.endswith(".yaml")])
    if problems:
        raise Mistake("the rendered manifests cannot be used:\n" + "\n".join(str(p) for p in problems))
    return written


def notes(choices: Choices) -> list[str]:
    """What the manifests do not do though one might expect it, a sentence each."""
    machine = _machines(choices)["train"]
    if choices.train.max == 0:
        return []
    if choices.aws and not choices.aws.private and machine.cards > 1:
        return [
            f"train nodes use 1 of the {machine.cards} network cards of a {machine.type}, since a node with "
            "a public address has no more; with aws.private = true (subnets behind a NAT gateway) it uses all"
        ]
    if choices.gcp and choices.train.max > 1:
        return ["train nodes have one network card and no GPUDirect: many of them wait for each other"]
    if choices.kubernetes and choices.kubernetes.gpu_nodes == "nvidia":
        return [
            "no autoscaler adds nodes by the label nvidia.com/gpu.product, which they get once they run: "
            "keep as many as you want used, or choose another kubernetes.gpu_nodes"
        ]
    return []


def _machines(choices: Choices) -> dict[str, Machine]:
    cloud = choices.cloud
    return {
        "head": HEAD[cloud],
        "decode": DECODE[cloud],
        "train": TRAIN[cloud][choices.train.gpu],
        "generate": GENERATE[cloud][choices.generate.gpu],
    }


def _ray_up(choices: Choices, config: dict[str, Any]) -> None:
    """Sets what `ray up` files of all clouds have in common."""
    kinds = {kind: getattr(choices, kind) for kind in KINDS}
    config["cluster_name"] = choices.name
    config["max_workers"] = sum(nodes.max for nodes in kinds.values())
    config["idle_timeout_minutes"] = choices.idle_minutes
    config["docker"]["image"] = choices.image
    config["initialization_commands"] += _registry_login(choices.image)
    for kind, nodes in kinds.items():
        machine = _machines(choices)[kind]
        config["available_node_types"][kind] |= {
            "min_workers": nodes.min,
            "max_workers": nodes.max,
            "resources": {
                "CPU": machine.cpus,
                **({"GPU": machine.gpus} if machine.gpus else {}),
                "memory": int(machine.memory_gib * 2**30 * (1 - _OBJECT_STORE)),
            },
        }
    if choices.tls:
        config["file_mounts"][f"{_TLS_FOLDER}/ca.crt"] = f"{_TLS_FOLDER}/ca.crt"
        config["file_mounts"][f"{_TLS_FOLDER}/ca.key"] = f"{_TLS_FOLDER}/ca.key"
        config["setup_commands"].append(_TLS_SETUP)
        for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
            config[commands] = [c if c == "ray stop" else _TLS_ENVIRONMENT + c for c in config[commands]]


def _registry_login(image: str) -> list[str]:
    """The commands with which a machine may pull `image` from a cloud's own registry, by its role."""
    host = image.partition("/")[0]
    if found := re.fullmatch(r"\d{12}\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com", host):
        password = f"aws ecr get-login-password --region {found[1]}"
        return [f"{password} | docker login --username AWS --password-stdin {host}"]
    if host.endswith(("-docker.pkg.dev", "gcr.io")):
        return [f"gcloud auth configure-docker {host} --quiet"]
    return []


def _aws(choices: Choices) -> dict[str, str]:
    where = choices.aws
    assert where
    stack = _read("aws-stack.yaml")
    for key, value in (("Name", choices.name), ("Bucket", where.bucket), ("Vpc", where.vpc)):
        stack["Parameters"][key]["Default"] = value
    stack["Resources"]["SecurityGroup"]["Properties"]["SecurityGroupIngress"] = [
        {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIp": network, "Description": "ssh"}
        for network in where.ssh_from
    ]
    rendered = {"aws-stack.yaml": _dump([stack], "aws-stack.yaml")}
    if where.security_group:
        config = _read("aws.yaml")
        _ray_up(choices, config)
        config["provider"] |= {
            "region": where.region,
            "availability_zone": ",".join(where.zones),
            "use_internal_ips": where.private,
        }
        for kind, machine in _machines(choices).items():
            node = config["available_node_types"][kind]["node_config"]
            _aws_node(node, choices, where, (kind, machine))
        rendered["aws.yaml"] = _dump([config], "aws.yaml")
    return rendered


def _aws_node(node: dict[str, Any], choices: Choices, where: Aws, what: tuple[str, Machine]) -> None:
    kind, machine = what
    role = "head" if kind == "head" else "worker"
    node |= {
        "InstanceType": machine.type,
        "ImageId": where.ami,
        "IamInstanceProfile": {"Name": f"{choices.name}-{role}"},
    }
    if kind == "train":
        node["Placement"] = {"GroupName": where.placement_group}
        node["NetworkInterfaces"] = [
            {
                "DeviceIndex": min(card, 1),
                "NetworkCardIndex": card,
                "InterfaceType": "efa",
                "SubnetId": where.subnets[0],
                "Groups": [where.security_group],
                "DeleteOnTermination": True,
                **({} if where.private else {"AssociatePublicIpAddress": True}),
            }
            for card in range(machine.cards if where.private else 1)
        ]
    else:
        node |= {"SubnetIds": list(where.subnets), "SecurityGroupIds": [where.security_group]}
    if kind in ("decode", "generate") and not getattr(choices, kind).spot:
        del node["InstanceMarketOptions"]


def _gcp(choices: Choices) -> dict[str, str]:
    where = choices.gcp
    assert where
    config = _read("gcp.yaml")
    _ray_up(choices, config)
    config["provider"] |= {
        "region": where.region,
        "availability_zone": where.zone,
        "project_id": where.project,
    }
    for kind, machine in _machines(choices).items():
        _gcp_node(config["available_node_types"][kind]["node_config"], choices, where, (kind, machine))
    values = {
        "NAME": choices.name,
        "PROJECT": where.project,
        "REGION": where.region,
        "BUCKET": where.bucket,
        "SSH_FROM": ",".join(where.ssh_from),
    }
    return {"gcp-setup.sh": _script("gcp-setup.sh", values), "gcp.yaml": _dump([config], "gcp.yaml")}


def _gcp_node(node: dict[str, Any], choices: Choices, where: Gcp, what: tuple[str, Machine]) -> None:
    kind, machine = what
    role = "head" if kind == "head" else "worker"
    regional = f"projects/{where.project}/regions/{where.region}"
    node["machineType"] = machine.type
    node["disks"][0]["initializeParams"] |= {
        "diskType": f"zones/{where.zone}/diskTypes/pd-balanced",
        "sourceImage": where.vm_image,
    }
    node["networkInterfaces"][0]["subnetwork"] = f"{regional}/subnetworks/{choices.name}"
    node["tags"]["items"] = [f"{choices.name}-{role}"]
    node["serviceAccounts"][0]["email"] = f"{choices.name}-{role}@{where.project}.iam.gserviceaccount.com"
    if kind == "train":
        node["resourcePolicies"] = [f"{regional}/resourcePolicies/{choices.name}-train"]
    if kind in ("decode", "generate") and not getattr(choices, kind).spot:
        node["scheduling"] = {
            "onHostMaintenance": "TERMINATE" if machine.gpus else "MIGRATE",
            "automaticRestart": False,
        }


def _kubernetes(choices: Choices) -> dict[str, str]:
    where = choices.kubernetes
    assert where
    rendered = {}
    for path in sorted((BASE / "kuberay").glob("*.yaml")):
        parts = documents(path)
        for part in parts:
            _kubernetes_part(part, choices, where)
        rendered[path.name] = _dump(parts, f"kuberay/{path.name}")
    rendered["remove.sh"] = _script("kuberay/remove.sh", {"NAMESPACE": where.namespace})
    return rendered


def _kubernetes_part(part: dict[str, Any], choices: Choices, where: Kubernetes) -> None:
    if part["kind"] == "Namespace":
        part["metadata"]["name"] = where.namespace
        return
    part["metadata"]["namespace"] = where.namespace
    if part["kind"] == "NetworkPolicy":
        _admit_operator(part, where.operator_namespace)
    if part["kind"] == "ServiceAccount" and where.service_account:
        part["metadata"]["annotations"] = dict(where.service_account)
    if part["kind"] == "PersistentVolumeClaim" and where.storage_class:
        part["spec"]["storageClassName"] = where.storage_class
    if part["kind"].startswith("Ray"):
        part["metadata"]["name"] = part["metadata"]["name"].replace("vitascope", choices.name, 1)
        _ray_cluster(cluster_of(part), choices, where)


def _admit_operator(policy: dict[str, Any], namespace: str) -> None:
    for source in (source for rule in policy["spec"].get("ingress", []) for source in rule["from"]):
        if source.get("podSelector", {}).get("matchLabels") == OPERATOR:
            source["namespaceSelector"]["matchLabels"] = {"kubernetes.io/metadata.name": namespace}


def _ray_cluster(cluster: dict[str, Any], choices: Choices, where: Kubernetes) -> None:
    cluster["autoscalerOptions"] |= {"idleTimeoutSeconds": choices.idle_minutes * 60, "image": choices.image}
    if choices.tls:
        cluster["tlsOptions"] = {"enabled": True}
    cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["image"] = choices.image
    for group in cluster["workerGroupSpecs"]:
        kind, pod = group["groupName"], group["template"]["spec"]
        nodes, machine = getattr(choices, kind), _machines(choices)[kind]
        group |= {"minReplicas": nodes.min, "maxReplicas": nodes.max}
        size = {
            "cpu": str(machine.cpus),
            "memory": f"{machine.memory_gib}Gi",
            **({"nvidia.com/gpu": machine.gpus} if machine.gpus else {}),
        }
        pod["containers"][0] |= {"image": choices.image, "resources": {"requests": size, "limits": size}}
        shm = next(v for v in pod["volumes"] if v["name"] == "shm")
        shm["emptyDir"]["sizeLimit"] = f"{int(machine.memory_gib * _OBJECT_STORE) + 1}Gi"
        selector: dict[str, str] = {}
        if machine.gpus:
            selector = choices.gpu_labels(kind)
        if kind != "train" and nodes.spot:
            selector = selector | where.spot_nodes
            pod["tolerations"] = pod.get("tolerations", []) + [
                {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
                for key, value in where.spot_nodes.items()
            ]
        if selector:
            pod["nodeSelector"] = selector


_RENDERERS = {"aws": _aws, "gcp": _gcp, "kubernetes": _kubernetes}


class _Plain(yaml.SafeDumper):
    """Writes out what the base files name once and use often."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _read(name: str) -> dict[str, Any]:
    (document,) = documents(BASE / name)
    return document


def _script(source: str, values: dict[str, str]) -> str:
    """A base script with its variables set."""
    script = (BASE / source).read_text()
    for key, value in values.items():
        script = re.sub(rf"(?m)^{key}=.*$", f"{key}={value}", script)
    return script


def _dump(parts: list[dict[str, Any]], source: str) -> str:
    head = f"# Rendered from Vitascope's cluster/{source}, with the comments there. Change the choices.\n"
    return head + yaml.dump_all(parts, Dumper=_Plain, sort_keys=False, width=110)

"""Lay the choices over the base manifests of a cloud.

The files under cluster/ are complete as they stand; here their fields are set to the choices, and the result
is written and validated. Comments stay behind in the base files.
"""

import json
import re
from pathlib import Path

import yaml

from vitascope.deploy.checks import Manifest
from vitascope.deploy.choices import Aws, Choices, Gcp, Kubernetes
from vitascope.deploy.pods import cluster_of
from vitascope.deploy.validate import BASE, documents, validate
from vitascope.errors import Mistake

OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
"""The label of the KubeRay operator's pods."""
_OBJECT_STORE = 0.3  # the fraction of a machine's memory that Ray gives to the object store
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

    On AWS the first rendering, without a security group, writes only the stack that makes one.

    Raises:
        Mistake: listing every problem that validation found; the files are left for inspection.
    """
    folder = Path(to)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in _rendered(choices).items():
        path = folder / name
        path.write_text(content)
        path.chmod(0o755 if path.suffix == ".sh" else 0o644)
        written.append(str(path))
    problems = validate([path for path in written if path.endswith(".yaml")])
    if problems:
        raise Mistake("the rendered manifests cannot be used:\n" + "\n".join(map(str, problems)))
    return written


def notes(choices: Choices) -> list[str]:
    """The limits of the manifests that a user might not expect, a sentence each."""
    machine = choices.machines["train"]
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


def _rendered(choices: Choices) -> dict[str, str]:
    """The text of every file, by its name."""
    if choices.aws:
        return _aws(choices, choices.aws)
    if choices.gcp:
        return _gcp(choices, choices.gcp)
    assert choices.kubernetes
    return _kubernetes(choices, choices.kubernetes)


def _ray_up(choices: Choices, config: Manifest) -> None:
    """Sets what `ray up` files of all clouds have in common."""
    config["cluster_name"] = choices.name
    config["max_workers"] = sum(nodes.max for nodes in choices.kinds.values())
    config["idle_timeout_minutes"] = choices.idle_minutes
    config["docker"]["image"] = choices.image
    config["initialization_commands"] += _registry_login(choices.image)
    for kind, nodes in choices.kinds.items():
        machine = choices.machines[kind]
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
        config["file_mounts"] |= {
            f"{_TLS_FOLDER}/{name}": f"{_TLS_FOLDER}/{name}" for name in ("ca.crt", "ca.key")
        }
        config["setup_commands"].append(_TLS_SETUP)
        for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
            config[commands] = [c if c == "ray stop" else _TLS_ENVIRONMENT + c for c in config[commands]]


def _registry_login(image: str) -> list[str]:
    """The commands with which a machine may pull `image` from a cloud's own registry, by its role."""
    host = image.partition("/")[0]
    if ecr := re.fullmatch(r"\d{12}\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com", host):
        password = f"aws ecr get-login-password --region {ecr[1]}"
        return [f"{password} | docker login --username AWS --password-stdin {host}"]
    if host.endswith(("-docker.pkg.dev", "gcr.io")):
        return [f"gcloud auth configure-docker {host} --quiet"]
    return []


def _aws(choices: Choices, aws: Aws) -> dict[str, str]:
    (stack,) = documents(BASE / "aws-stack.yaml")
    for key, value in (("Name", choices.name), ("Bucket", aws.bucket), ("Vpc", aws.vpc)):
        stack["Parameters"][key]["Default"] = value
    stack["Resources"]["SecurityGroup"]["Properties"]["SecurityGroupIngress"] = [
        {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIp": network, "Description": "ssh"}
        for network in aws.ssh_from
    ]
    rendered = {"aws-stack.yaml": _dump([stack], "aws-stack.yaml")}
    if aws.security_group:
        (config,) = documents(BASE / "aws.yaml")
        _ray_up(choices, config)
        config["provider"] |= {
            "region": aws.region,
            "availability_zone": ",".join(aws.zones),
            "use_internal_ips": aws.private,
        }
        for kind in choices.machines:
            _aws_node(config["available_node_types"][kind]["node_config"], choices, aws, kind)
        rendered["aws.yaml"] = _dump([config], "aws.yaml")
    return rendered


def _aws_node(node: Manifest, choices: Choices, aws: Aws, kind: str) -> None:
    machine = choices.machines[kind]
    node |= {
        "InstanceType": machine.type,
        "ImageId": aws.ami,
        "IamInstanceProfile": {"Name": f"{choices.name}-{_role(kind)}"},
    }
    if kind == "train":
        node["Placement"] = {"GroupName": aws.placement_group}
        node["NetworkInterfaces"] = [
            {
                "DeviceIndex": min(card, 1),
                "NetworkCardIndex": card,
                "InterfaceType": "efa",
                "SubnetId": aws.subnets[0],
                "Groups": [aws.security_group],
                "DeleteOnTermination": True,
                **({} if aws.private else {"AssociatePublicIpAddress": True}),
            }
            for card in range(machine.cards if aws.private else 1)
        ]
    else:
        node |= {"SubnetIds": list(aws.subnets), "SecurityGroupIds": [aws.security_group]}
    if not choices.is_spot(kind):
        node.pop("InstanceMarketOptions", None)


def _role(kind: str) -> str:
    return "head" if kind == "head" else "worker"


def _gcp(choices: Choices, gcp: Gcp) -> dict[str, str]:
    (config,) = documents(BASE / "gcp.yaml")
    _ray_up(choices, config)
    project = {"region": gcp.region, "availability_zone": gcp.zone, "project_id": gcp.project}
    config["provider"] |= project
    for kind in choices.machines:
        _gcp_node(config["available_node_types"][kind]["node_config"], choices, gcp, kind)
    values = {
        "NAME": choices.name,
        "PROJECT": gcp.project,
        "REGION": gcp.region,
        "BUCKET": gcp.bucket,
        "SSH_FROM": ",".join(gcp.ssh_from),
    }
    return {"gcp-setup.sh": _script("gcp-setup.sh", values), "gcp.yaml": _dump([config], "gcp.yaml")}


def _gcp_node(node: Manifest, choices: Choices, gcp: Gcp, kind: str) -> None:
    machine, account = choices.machines[kind], f"{choices.name}-{_role(kind)}"
    regional = f"projects/{gcp.project}/regions/{gcp.region}"
    node["machineType"] = machine.type
    node["disks"][0]["initializeParams"] |= {
        "diskType": f"zones/{gcp.zone}/diskTypes/pd-balanced",
        "sourceImage": gcp.vm_image,
    }
    node["networkInterfaces"][0]["subnetwork"] = f"{regional}/subnetworks/{choices.name}"
    node["tags"]["items"] = [account]
    node["serviceAccounts"][0]["email"] = f"{account}@{gcp.project}.iam.gserviceaccount.com"
    if kind == "train":
        node["resourcePolicies"] = [f"{regional}/resourcePolicies/{choices.name}-train"]
    if kind != "head" and not choices.is_spot(kind):
        move = "TERMINATE" if machine.gpus else "MIGRATE"
        node["scheduling"] = {"onHostMaintenance": move, "automaticRestart": False}


def _kubernetes(choices: Choices, site: Kubernetes) -> dict[str, str]:
    rendered = {}
    for path in sorted((BASE / "kuberay").glob("*.yaml")):
        parts = documents(path)
        for part in parts:
            _kubernetes_part(part, choices, site)
        rendered[path.name] = _dump(parts, f"kuberay/{path.name}")
    rendered["remove.sh"] = _script("kuberay/remove.sh", {"NAMESPACE": site.namespace})
    return rendered


def _kubernetes_part(part: Manifest, choices: Choices, site: Kubernetes) -> None:
    kind, metadata = part["kind"], part["metadata"]
    metadata["name" if kind == "Namespace" else "namespace"] = site.namespace
    if kind == "NetworkPolicy":
        for source in (source for rule in part["spec"].get("ingress", []) for source in rule["from"]):
            if source.get("podSelector", {}).get("matchLabels") == OPERATOR:
                namespace = {"kubernetes.io/metadata.name": site.operator_namespace}
                source["namespaceSelector"]["matchLabels"] = namespace
    elif kind == "ServiceAccount" and site.service_account:
        metadata["annotations"] = dict(site.service_account)
    elif kind == "PersistentVolumeClaim" and site.storage_class:
        part["spec"]["storageClassName"] = site.storage_class
    elif kind.startswith("Ray"):
        metadata["name"] = metadata["name"].replace("vitascope", choices.name, 1)
        _ray_cluster(cluster_of(part), choices, site)


def _ray_cluster(cluster: Manifest, choices: Choices, site: Kubernetes) -> None:
    cluster["autoscalerOptions"] |= {"idleTimeoutSeconds": choices.idle_minutes * 60, "image": choices.image}
    if choices.tls:
        cluster["tlsOptions"] = {"enabled": True}
    cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["image"] = choices.image
    for group in cluster["workerGroupSpecs"]:
        kind, pod = group["groupName"], group["template"]["spec"]
        nodes, machine = choices.kinds[kind], choices.machines[kind]
        group |= {"minReplicas": nodes.min, "maxReplicas": nodes.max}
        size: Manifest = {"cpu": str(machine.cpus), "memory": f"{machine.memory_gib}Gi"}
        size |= {"nvidia.com/gpu": machine.gpus} if machine.gpus else {}
        pod["containers"][0] |= {"image": choices.image, "resources": {"requests": size, "limits": size}}
        shm = next(volume for volume in pod["volumes"] if volume["name"] == "shm")
        shm["emptyDir"]["sizeLimit"] = f"{int(machine.memory_gib * _OBJECT_STORE) + 1}Gi"
        selector = choices.gpu_labels(kind) if machine.gpus else {}
        if choices.is_spot(kind):
            selector = selector | site.spot_nodes
            pod["tolerations"] = pod.get("tolerations", []) + [
                {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
                for key, value in site.spot_nodes.items()
            ]
        if selector:
            pod["nodeSelector"] = selector


def _script(source: str, values: dict[str, str]) -> str:
    """A base script with its variables set."""
    script = (BASE / source).read_text()
    for key, value in values.items():
        script = re.sub(rf"(?m)^{key}=.*$", f"{key}={value}", script)
    return script


def _dump(parts: list[Manifest], source: str) -> str:
    head = f"# Rendered from Vitascope's cluster/{source}, with the comments there. Change the choices.\n"
    unshared = json.loads(json.dumps(parts))  # else YAML names a part once and refers to it
    return head + yaml.safe_dump_all(unshared, sort_keys=False, width=110)

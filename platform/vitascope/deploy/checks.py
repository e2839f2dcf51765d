"""Our own checks of cloud configurations: what their schemas let pass.

Each takes a manifest that its schema has accepted and yields (where, message): what was got, what was
expected, what to do.
"""

import difflib
import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from vitascope.cluster.placement import KIND_OF, LABEL
from vitascope.deploy.choices import MACHINES

Found = tuple[str, str]

KINDS = tuple(sorted(set(KIND_OF.values())))
"""The kinds of worker nodes."""
_RESOURCES = {"CPU", "GPU", "memory"}
_SECRET = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|RAY_AUTH_TOKEN=[^\s$]")
_SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|PRIVATE_KEY|ACCESS_KEY", re.IGNORECASE)
_TOKEN = "~/.ray/auth_token"


def not_among(value: str, known: list[str]) -> str:
    """Says that `value` is unknown, and what is known or was probably meant."""
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.6)
    expected = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(sorted(known)[:20])}"
    return f"got {value!r}; {expected}"


def no_empty(part: dict[str, Any]) -> Iterator[Found]:
    """A key without a value means one thing to YAML and another to its reader."""
    for where, value in _walk(part):
        if value is None:
            yield where, "is empty; give it a value or take it out"


def no_secret(part: dict[str, Any]) -> Iterator[Found]:
    """Secrets are named in manifests, never contained."""
    if part.get("kind") == "Secret":
        yield (
            "Secret",
            "holds the secret itself; make it with `kubectl create secret` and keep it out of files",
        )
    for where, value in _walk(part):
        if isinstance(value, str) and _SECRET.search(value):
            yield where, "contains a key or a token; manifests only name secrets: take it out, and replace it"
        elif isinstance(value, dict) and isinstance(value.get("value"), str):
            name = str(value.get("name", where.rpartition(".")[2]))
            if _SECRET_NAME.search(name):
                yield (
                    where,
                    f"{name} has its value written out; take it from a secret with valueFrom.secretKeyRef",
                )


def ray_up(config: dict[str, Any]) -> Iterator[Found]:
    """A configuration of `ray up`."""
    yield from _counts(config)
    yield from _authentication(config)
    yield from _container(config.get("docker") or {})
    if not config.get("idle_timeout_minutes"):
        yield (
            "idle_timeout_minutes",
            "is missing; say after how many idle minutes a node goes, for it costs until then",
        )
    for name, kind in config["available_node_types"].items():
        is_head = name == config["head_node_type"]
        for where, message in _node_type(kind, config["provider"]["type"], is_head=is_head):
            yield f"{name}.{where}", message
    if config["provider"]["type"] == "aws":
        yield from _aws_provider(config["provider"])


def _counts(config: dict[str, Any]) -> Iterator[Found]:
    workers = {n: k for n, k in config["available_node_types"].items() if n != config["head_node_type"]}
    for name, kind in workers.items():
        low, high = kind.get("min_workers", 0), kind.get("max_workers")
        if high is None:
            yield (
                f"{name}.max_workers",
                "is missing; without it the kind grows to the limit of the whole cluster",
            )
        elif not 0 <= low <= high:
            yield (
                f"{name}.min_workers",
                f"got {low} with max_workers {high}; expected 0 <= min_workers <= max_workers",
            )
    total, limit = sum(k.get("max_workers") or 0 for k in workers.values()), config.get("max_workers")
    if limit is None:
        yield "max_workers", f"is missing, and Ray's default is 2; set it to the sum of the kinds', {total}"
    elif limit < total:
        yield (
            "max_workers",
            f"got {limit}, but the kinds sum to {total}: not all could come; raise it or lower theirs",
        )


def _authentication(config: dict[str, Any]) -> Iterator[Found]:
    if _TOKEN not in (config.get("file_mounts") or {}):
        yield "file_mounts", f"lacks {_TOKEN}; without the token on the nodes Ray starts open or not at all"
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in config.get(key, []) if "ray start" in command]
        if not starts:
            yield key, "starts no Ray; expected a `ray start` command"
        for command in starts:
            if not re.search(r"\bRAY_AUTH_MODE=token\b", command):
                yield (
                    key,
                    "lacks `export RAY_AUTH_MODE=token` before `ray start`: anyone could run code here",
                )
            host = re.search(r"--dashboard-host[= ](\S+)", command)
            if host and host[1] not in ("127.0.0.1", "localhost"):
                yield (
                    key,
                    f"got --dashboard-host={host[1]}; expected 127.0.0.1, reached with `ray dashboard`",
                )


def _container(docker: dict[str, Any]) -> Iterator[Found]:
    for key in ("image", "head_image", "worker_image"):
        if key in docker:
            yield from image_tag(docker[key], f"docker.{key}")
    if not docker.get("image"):
        yield "docker.image", "is missing; all nodes must run one image, built from cluster/Dockerfile"
    for option in (str(o) for key in docker if key.endswith("run_options") for o in docker[key]):
        if re.search(r"--privileged|--user[= ](root|0)\b|--cap-add[= ](ALL|SYS_ADMIN)", option):
            yield (
                "docker.run_options",
                f"got {option!r}, which makes the container root on its machine; take it out",
            )


def image_tag(image: str, where: str) -> Iterator[Found]:
    """An image that stays what it is."""
    tag = image.rpartition("/")[2].partition(":")[2]
    if "@sha256:" not in image and tag in ("", "latest"):
        yield (
            where,
            f"got {image!r}; expected a tag other than latest, or a digest: all nodes must run the same",
        )


def _node_type(kind: dict[str, Any], cloud: str, *, is_head: bool) -> Iterator[Found]:
    node, resources = kind["node_config"], kind.get("resources") or {}
    label = (kind.get("labels") or {}).get(LABEL)
    if is_head:
        yield from _head(kind, resources)
    elif label not in KINDS:
        yield (
            "labels",
            f"got {LABEL}={label!r}; expected one of {', '.join(KINDS)}, or no stage's work comes here",
        )
    for unknown in resources.keys() - _RESOURCES:
        yield (
            "resources",
            f"got {unknown!r}, which no stage asks for; expected {', '.join(sorted(_RESOURCES))}",
        )
    machine = MACHINES[cloud].get(str(node.get("InstanceType") or node.get("machineType")))
    if machine and not is_head:
        for key, there in (("CPU", machine.cpus), ("GPU", machine.gpus)):
            if resources.get(key, 0) != there:
                yield "resources", f"got {key}: {resources.get(key, 0)}; a {machine.type} has {there}: say so"
        if resources.get("memory", 0) > machine.memory_gib * 2**30:
            yield (
                "resources",
                f"got more memory than the {machine.memory_gib} GiB of a {machine.type}; lower it",
            )
    if cloud == "aws":
        yield from _ec2_node(node)
    else:
        yield from _gce_node(node, is_head=is_head, gpus=resources.get("GPU", 0))
    if label == "train" and (node.get("InstanceMarketOptions") or _is_gce_spot(node)):
        yield "node_config", "trains on spot: one node taken back stops all; use on-demand nodes for training"


def _head(kind: dict[str, Any], resources: dict[str, Any]) -> Iterator[Found]:
    if resources.get("CPU") != 0 or resources.get("GPU"):
        yield (
            "resources",
            f"got {resources} on the head; expected CPU: 0 and no GPU, or tasks crowd out the scheduler",
        )
    if kind["node_config"].get("InstanceMarketOptions") or _is_gce_spot(kind["node_config"]):
        yield (
            "node_config",
            "the head is on spot: the whole cluster goes when it is taken back; make it on-demand",
        )


def _ec2_node(node: dict[str, Any]) -> Iterator[Found]:
    interfaces = node.get("NetworkInterfaces") or []
    if not (node.get("SecurityGroupIds") or (interfaces and all(i.get("Groups") for i in interfaces))):
        yield (
            "node_config.SecurityGroupIds",
            "is missing, and Ray's own group opens ssh to the internet; name that of aws-stack.yaml",
        )
    if "IamInstanceProfile" not in node:
        yield (
            "node_config.IamInstanceProfile",
            "is missing; name that of aws-stack.yaml (Ray's own may do all of EC2)",
        )
    if (node.get("MetadataOptions") or {}).get("HttpTokens") != "required":
        yield (
            "node_config.MetadataOptions",
            "lacks HttpTokens: required; without IMDSv2 a request can steal the role",
        )
    for disk in node.get("BlockDeviceMappings") or [{}]:
        if not (disk.get("Ebs") or {}).get("Encrypted"):
            yield "node_config.BlockDeviceMappings", "has a disk without Ebs.Encrypted: true; encrypt it"
    if any("efa" in i.get("InterfaceType", "") for i in interfaces) and not (node.get("Placement") or {}).get(
        "GroupName"
    ):
        yield "node_config.Placement", "lacks GroupName; nodes with EFA belong into one placement group"
    if len(interfaces) > 1 and any(i.get("AssociatePublicIpAddress") for i in interfaces):
        yield (
            "node_config.NetworkInterfaces",
            "EC2 gives no public address to a node with several; use private subnets",
        )


def _gce_node(node: dict[str, Any], *, is_head: bool, gpus: int) -> Iterator[Found]:
    if not node.get("networkInterfaces"):
        yield (
            "node_config.networkInterfaces",
            "is missing; the default network lets ssh in from everywhere: name your own",
        )
    if not node.get("serviceAccounts"):
        yield (
            "node_config.serviceAccounts",
            "is missing; the default account may edit the project: name a lesser one",
        )
    if not is_head and any(i.get("accessConfigs") for i in node.get("networkInterfaces") or []):
        yield (
            "node_config.networkInterfaces",
            "gives a worker a public address; take accessConfigs out, the NAT serves it",
        )
    scheduling = node.get("scheduling") or {}
    if gpus and scheduling.get("onHostMaintenance") != "TERMINATE":
        yield (
            "node_config.scheduling",
            "lacks onHostMaintenance: TERMINATE; machines with GPUs cannot migrate",
        )
    if _is_gce_spot(node) and scheduling.get("automaticRestart"):
        yield (
            "node_config.scheduling",
            "asks for automaticRestart on spot, which Compute Engine refuses; set it to false",
        )


def _is_gce_spot(node: dict[str, Any]) -> bool:
    scheduling = node.get("scheduling") or {}
    return scheduling.get("provisioningModel") == "SPOT" or bool(scheduling.get("preemptible"))


def _aws_provider(provider: dict[str, Any]) -> Iterator[Found]:
    for rule in (provider.get("security_group") or {}).get("IpPermissions", []):
        for network in (r.get("CidrIp", "") for r in rule.get("IpRanges", [])):
            if is_open(network):
                yield "provider.security_group", _opened(network)
    for zone in str(provider.get("availability_zone", "")).split(","):
        if zone and not zone.strip().startswith(str(provider.get("region"))):
            yield (
                "provider.availability_zone",
                f"got {zone!r}, which is not in region {provider.get('region')!r}",
            )


def stack(template: dict[str, Any]) -> Iterator[Found]:
    """A CloudFormation template: nothing open, no right to everything."""
    for name, resource in template.get("Resources", {}).items():
        properties = resource.get("Properties") or {}
        rules = properties.get("SecurityGroupIngress", [])
        if resource.get("Type") == "AWS::EC2::SecurityGroupIngress":
            rules = [properties]
        for rule in rules:
            if is_open(rule.get("CidrIp", "")) or is_open(rule.get("CidrIpv6", "")):
                yield f"Resources.{name}", _opened(rule.get("CidrIp") or rule.get("CidrIpv6"))
        for statement in (properties.get("PolicyDocument") or {}).get("Statement", []):
            actions = statement.get("Action", [])
            for action in [actions] if isinstance(actions, str) else actions:
                if action == "*" or (action.endswith(":*") and statement.get("Effect") == "Allow"):
                    yield f"Resources.{name}", f"allows {action!r}; name the few actions that are needed"


def is_open(network: str) -> bool:
    """Whether `network` is so large that strangers are in it."""
    try:
        return ipaddress.ip_network(network).prefixlen < 8
    except ValueError:
        return False


def _opened(network: str) -> str:
    return f"got {network}, which lets the internet in; name your users' networks, such as 203.0.113.7/32"


def _walk(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    yield where, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, f"{where}[{index}]")

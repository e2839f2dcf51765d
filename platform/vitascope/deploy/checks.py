"""Our own checks of cloud configurations: what their schemas let pass.

Each takes a manifest that its schema has accepted and yields findings: the position, and what was got,
what was expected and what to do.
"""

import difflib
import ipaddress
import re
from collections.abc import Iterator
from typing import Any, TypeAlias

from vitascope.cluster.placement import KIND_OF, LABEL
from vitascope.deploy.choices import MACHINES

Manifest: TypeAlias = dict[str, Any]
"""A document or a part of one, in the schema of Kubernetes, KubeRay, CloudFormation, or `ray up` (with its
`node_config` in that of EC2 or Compute Engine)."""
Finding = tuple[str, str]
"""The position of a mistake in a manifest, and the message."""

KINDS = tuple(sorted(set(KIND_OF.values())))
"""The kinds of worker nodes."""
_RESOURCES = {"CPU", "GPU", "memory"}
_SECRET = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|RAY_AUTH_TOKEN=[^\s$]")
_SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|PRIVATE_KEY|ACCESS_KEY", re.IGNORECASE)
_TOKEN = "~/.ray/auth_token"


def not_among(value: str, known: list[str]) -> str:
    """Reports `value` as unknown, with the nearest known value or all of them."""
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.6)
    expected = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(sorted(known)[:20])}"
    return f"got {value!r}; {expected}"


def no_empty(part: Manifest) -> Iterator[Finding]:
    """A key without a value means one thing to YAML and another to its reader."""
    return ((at, "is empty; give it a value or take it out") for at, value in _walk(part) if value is None)


def no_secret(part: Manifest) -> Iterator[Finding]:
    """Secrets are named in manifests, never contained."""
    if part.get("kind") == "Secret":
        yield "Secret", "holds the secret; make it with `kubectl create secret` and keep it out of files"
    for at, value in _walk(part):
        if isinstance(value, str) and _SECRET.search(value):
            yield at, "contains a key or a token; manifests only name secrets: take it out, and replace it"
        elif isinstance(value, dict) and isinstance(value.get("value"), str):
            name = str(value.get("name", at.rpartition(".")[2]))
            if _SECRET_NAME.search(name):
                yield at, f"{name} has its value written out; name a secret in valueFrom.secretKeyRef"


def ray_up(config: Manifest) -> Iterator[Finding]:
    """A configuration of `ray up`."""
    provider = config["provider"]
    yield from _counts(config)
    yield from _authentication(config)
    yield from _docker(config.get("docker", {}))
    if not config.get("idle_timeout_minutes"):
        yield "idle_timeout_minutes", "is missing; idle nodes cost: say after how many idle minutes one goes"
    for name, kind in config["available_node_types"].items():
        is_head = name == config["head_node_type"]
        for at, message in _node_type(kind, provider["type"], is_head=is_head):
            yield f"{name}.{at}", message
    if provider["type"] == "aws":
        yield from _aws_provider(provider)


def _counts(config: Manifest) -> Iterator[Finding]:
    workers = {n: k for n, k in config["available_node_types"].items() if n != config["head_node_type"]}
    for name, kind in workers.items():
        low, high = kind.get("min_workers", 0), kind.get("max_workers")
        if high is None:
            yield f"{name}.max_workers", "is missing; without it the kind grows to the limit of the cluster"
        elif not 0 <= low <= high:
            expected = "expected 0 <= min_workers <= max_workers"
            yield f"{name}.min_workers", f"got {low} with max_workers {high}; {expected}"
    total, limit = sum(k.get("max_workers", 0) for k in workers.values()), config.get("max_workers")
    if limit is None:
        yield "max_workers", f"is missing, and Ray's default is 2; set it to the sum of the kinds', {total}"
    elif limit < total:
        yield "max_workers", f"got {limit}, but the kinds sum to {total}; raise it or lower theirs"


def _authentication(config: Manifest) -> Iterator[Finding]:
    if _TOKEN not in config.get("file_mounts", {}):
        yield "file_mounts", f"lacks {_TOKEN}; without the token on the nodes Ray starts open or not at all"
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in config.get(key, []) if "ray start" in command]
        if not starts:
            yield key, "starts no Ray; expected a `ray start` command"
        for command in starts:
            if not re.search(r"\bRAY_AUTH_MODE=token\b", command):
                yield key, "lacks `export RAY_AUTH_MODE=token` before `ray start`: anyone could run code here"
            host = re.search(r"--dashboard-host[= ](\S+)", command)
            if host and host[1] not in ("127.0.0.1", "localhost"):
                yield key, f"got --dashboard-host={host[1]}; expected 127.0.0.1, reached with `ray dashboard`"


def _docker(docker: Manifest) -> Iterator[Finding]:
    for key in ("image", "head_image", "worker_image"):
        if key in docker:
            yield from image_tag(docker[key], f"docker.{key}")
    if not docker.get("image"):
        yield "docker.image", "is missing; all nodes must run one image, built from cluster/Dockerfile"
    for option in (str(o) for key in docker if key.endswith("run_options") for o in docker[key]):
        if re.search(r"--privileged|--user[= ](root|0)\b|--cap-add[= ](ALL|SYS_ADMIN)", option):
            yield "docker.run_options", f"remove {option!r}, which makes the container root on its machine"


def image_tag(image: str, at: str) -> Iterator[Finding]:
    """An image that stays what it is."""
    tag = image.rpartition("/")[2].partition(":")[2]
    if "@sha256:" not in image and tag in ("", "latest"):
        yield at, f"got {image!r}; expected a tag other than latest, or a digest: all nodes must run the same"


def node_label(part: Manifest, at: str) -> Iterator[Finding]:
    """The label of worker nodes, by which stages choose them."""
    label = part.get("labels", {}).get(LABEL)
    if label not in KINDS:
        yield at, f"got {LABEL}={label!r}; expected one of {', '.join(KINDS)}, or no stage's work comes here"


def _node_type(kind: Manifest, cloud: str, *, is_head: bool) -> Iterator[Finding]:
    node, resources = kind["node_config"], kind.get("resources", {})
    if not is_head:
        yield from node_label(kind, "labels")
    elif resources.get("CPU") != 0 or resources.get("GPU"):
        expected = "expected CPU: 0 and no GPU, or tasks crowd out the scheduler"
        yield "resources", f"got {resources} on the head; {expected}"
    for unknown in resources.keys() - _RESOURCES:
        known = ", ".join(sorted(_RESOURCES))
        yield "resources", f"got {unknown!r}, which no stage asks for; expected {known}"
    if not is_head:
        yield from _resources(node, resources, cloud)
    details = _ec2_node(node) if cloud == "aws" else _gce_node(node, resources, is_head=is_head)
    yield from ((f"node_config.{key}", message) for key, message in details)
    if is_head and _is_spot(node):
        yield "node_config", "puts the head on spot, which can end the cluster; make it on-demand"
    if kind.get("labels", {}).get(LABEL) == "train" and _is_spot(node):
        yield "node_config", "trains on spot: one reclaimed node stops all; use on-demand nodes for training"


def _resources(node: Manifest, resources: Manifest, cloud: str) -> Iterator[Finding]:
    machine = MACHINES[cloud].get(str(node.get("InstanceType") or node.get("machineType")))
    if machine is None:
        return
    for key, has in (("CPU", machine.cpus), ("GPU", machine.gpus)):
        if (got := resources.get(key, 0)) != has:
            yield "resources", f"got {key}: {got}; a {machine.type} has {has}: say so"
    if resources.get("memory", 0) > machine.memory_gib * 2**30:
        yield "resources", f"got more memory than the {machine.memory_gib} GiB of a {machine.type}; lower it"


def _is_spot(node: Manifest) -> bool:
    """Whether a node of EC2 or Compute Engine is on spot."""
    gce = node.get("scheduling", {})
    return bool(
        node.get("InstanceMarketOptions") or gce.get("provisioningModel") == "SPOT" or gce.get("preemptible")
    )


def _ec2_node(node: Manifest) -> Iterator[Finding]:
    interfaces = node.get("NetworkInterfaces", [])
    if not (node.get("SecurityGroupIds") or (interfaces and all(i.get("Groups") for i in interfaces))):
        yield "SecurityGroupIds", "is missing; Ray's opens ssh to the internet: name that of aws-stack.yaml"
    if "IamInstanceProfile" not in node:
        yield "IamInstanceProfile", "is missing; Ray's own may do all of EC2: name that of aws-stack.yaml"
    if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
        yield "MetadataOptions", "lacks HttpTokens: required; without IMDSv2 a request can steal the role"
    for disk in node.get("BlockDeviceMappings") or [{}]:
        if not disk.get("Ebs", {}).get("Encrypted"):
            yield "BlockDeviceMappings", "has a disk without Ebs.Encrypted: true; encrypt it"
    efa = any("efa" in i.get("InterfaceType", "") for i in interfaces)
    if efa and not node.get("Placement", {}).get("GroupName"):
        yield "Placement", "lacks GroupName; nodes with EFA belong into one placement group"
    if len(interfaces) > 1 and any(i.get("AssociatePublicIpAddress") for i in interfaces):
        yield "NetworkInterfaces", "EC2 gives no public address to a node with several; use private subnets"


def _gce_node(node: Manifest, resources: Manifest, *, is_head: bool) -> Iterator[Finding]:
    interfaces, scheduling = node.get("networkInterfaces", []), node.get("scheduling", {})
    if not interfaces:
        yield "networkInterfaces", "is missing; the default network lets ssh in from anywhere: name yours"
    if not node.get("serviceAccounts"):
        yield "serviceAccounts", "is missing; the default account may edit the project: name a lesser one"
    if not is_head and any(i.get("accessConfigs") for i in interfaces):
        yield "networkInterfaces", "gives a worker a public address; remove accessConfigs, the NAT serves it"
    if resources.get("GPU") and scheduling.get("onHostMaintenance") != "TERMINATE":
        yield "scheduling", "lacks onHostMaintenance: TERMINATE; machines with GPUs cannot migrate"
    if _is_spot(node) and scheduling.get("automaticRestart"):
        yield "scheduling", "has automaticRestart on spot, which Compute Engine refuses; set it to false"


def _aws_provider(provider: Manifest) -> Iterator[Finding]:
    for rule in provider.get("security_group", {}).get("IpPermissions", []):
        for address_range in rule.get("IpRanges", []):
            yield from _not_open(address_range.get("CidrIp", ""), "provider.security_group")
    region = str(provider.get("region"))
    for zone in str(provider.get("availability_zone", "")).split(","):
        if zone and not zone.strip().startswith(region):
            yield "provider.availability_zone", f"got {zone!r}, which is not in region {region!r}"


def stack(template: Manifest) -> Iterator[Finding]:
    """A CloudFormation template: nothing open, no right to everything."""
    for name, resource in template.get("Resources", {}).items():
        at, properties = f"Resources.{name}", resource.get("Properties", {})
        is_rule = resource.get("Type") == "AWS::EC2::SecurityGroupIngress"
        for rule in [properties] if is_rule else properties.get("SecurityGroupIngress", []):
            for key in ("CidrIp", "CidrIpv6"):
                yield from _not_open(rule.get(key, ""), at)
        for statement in properties.get("PolicyDocument", {}).get("Statement", []):
            actions = statement.get("Action", [])
            for action in [actions] if isinstance(actions, str) else actions:
                if action == "*" or (action.endswith(":*") and statement.get("Effect") == "Allow"):
                    yield at, f"allows {action!r}; name the few actions that are needed"


def is_open(network: str) -> bool:
    """Whether `network` is so large that it includes strangers."""
    try:
        return ipaddress.ip_network(network).prefixlen < 8
    except ValueError:
        return False


def _not_open(network: str, at: str) -> Iterator[Finding]:
    if is_open(network):
        yield at, f"got {network}, which lets the internet in; name your networks, such as 203.0.113.7/32"


def _walk(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    yield at, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, f"{at}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, f"{at}[{index}]")

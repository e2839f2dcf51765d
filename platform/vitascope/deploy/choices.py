"""The few choices that shape a cluster, and the machines they name."""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from vitascope.config import read_toml
from vitascope.errors import Mistake
from vitascope.files import packaged
from vitascope.section import Section

Cloud = Literal["aws", "gcp", "kubernetes"]


@dataclass(frozen=True)
class Machine:
    """A machine type of a cloud; on Kubernetes a pod, without a `type`."""

    type: str
    cpus: int
    memory_gib: int
    gpus: int = 0
    cards: int = 1  # network cards that take an EFA interface
    spot_only: bool = False


HEAD = {
    "aws": Machine("m7i.2xlarge", 8, 32),
    "gcp": Machine("n2-standard-8", 8, 32),
    "kubernetes": Machine("", 4, 16),
}
DECODE = {
    "aws": Machine("m7i.8xlarge", 32, 128),
    "gcp": Machine("n2-standard-32", 32, 128),
    "kubernetes": Machine("", 15, 56),
}
TRAIN = {
    "aws": {
        "a10g": Machine("g5.48xlarge", 192, 768, 8),
        "l4": Machine("g6.48xlarge", 192, 768, 8),
        "l40s": Machine("g6e.48xlarge", 192, 1536, 8, cards=4),
        "a100": Machine("p4d.24xlarge", 96, 1152, 8, cards=4),
        "a100-80gb": Machine("p4de.24xlarge", 96, 1152, 8, cards=4),
        "h100": Machine("p5.48xlarge", 192, 2048, 8, cards=32),
        "h200": Machine("p5en.48xlarge", 192, 2048, 8, cards=16),
    },
    "gcp": {
        "l4": Machine("g2-standard-96", 96, 384, 8),
        "a100": Machine("a2-highgpu-8g", 96, 680, 8),
        "a100-80gb": Machine("a2-ultragpu-8g", 96, 1360, 8),
        "h100": Machine("a3-highgpu-8g", 208, 1872, 8),
    },
    "kubernetes": {
        "l4": Machine("", 40, 160, 4),
        "l40s": Machine("", 80, 640, 8),
        "a100": Machine("", 80, 600, 8),
        "a100-80gb": Machine("", 80, 900, 8),
        "h100": Machine("", 160, 1600, 8),
        "h200": Machine("", 160, 1600, 8),
    },
}
GENERATE = {
    "aws": {
        "a10g": Machine("g5.4xlarge", 16, 64, 1),
        "l4": Machine("g6.4xlarge", 16, 64, 1),
        "l40s": Machine("g6e.4xlarge", 16, 128, 1),
        "a100": Machine("p4d.24xlarge", 96, 1152, 8),
        "a100-80gb": Machine("p4de.24xlarge", 96, 1152, 8),
        "h100": Machine("p5.4xlarge", 16, 256, 1),
        "h200": Machine("p5en.48xlarge", 192, 2048, 8),
    },
    "gcp": {
        "l4": Machine("g2-standard-16", 16, 64, 1),
        "a100": Machine("a2-highgpu-1g", 12, 85, 1),
        "a100-80gb": Machine("a2-ultragpu-1g", 12, 170, 1),
        "h100": Machine("a3-highgpu-1g", 26, 234, 1, spot_only=True),
    },
    "kubernetes": {
        "l4": Machine("", 12, 48, 1),
        "l40s": Machine("", 12, 96, 1),
        "a100": Machine("", 10, 70, 1),
        "a100-80gb": Machine("", 10, 100, 1),
        "h100": Machine("", 15, 200, 1),
        "h200": Machine("", 20, 200, 1),
    },
}
"""GPU -> machine, per cloud: to train as many GPUs as share a fast link, to generate as few as can be had."""

_GKE, _KARPENTER = "cloud.google.com/gke-accelerator", "karpenter.k8s.aws/instance-gpu-name"
_KARPENTER_MIB, _NVIDIA = "karpenter.k8s.aws/instance-gpu-memory", "nvidia.com/gpu.product"
GPU_NODES: dict[str, dict[str, dict[str, str]]] = {
    "gke": {
        "l4": {_GKE: "nvidia-l4"},
        "a100": {_GKE: "nvidia-tesla-a100"},
        "a100-80gb": {_GKE: "nvidia-a100-80gb"},
        "h100": {_GKE: "nvidia-h100-80gb"},
        "h200": {_GKE: "nvidia-h200-141gb"},
    },
    "karpenter": {
        "l4": {_KARPENTER: "l4"},
        "l40s": {_KARPENTER: "l40s"},
        "a100": {_KARPENTER: "a100", _KARPENTER_MIB: "40960"},
        "a100-80gb": {_KARPENTER: "a100", _KARPENTER_MIB: "81920"},
        "h100": {_KARPENTER: "h100"},
        "h200": {_KARPENTER: "h200"},
    },
    "nvidia": {
        "l4": {_NVIDIA: "NVIDIA-L4"},
        "l40s": {_NVIDIA: "NVIDIA-L40S"},
        "a100": {_NVIDIA: "NVIDIA-A100-SXM4-40GB"},
        "a100-80gb": {_NVIDIA: "NVIDIA-A100-SXM4-80GB"},
        "h100": {_NVIDIA: "NVIDIA-H100-80GB-HBM3"},
        "h200": {_NVIDIA: "NVIDIA-H200"},
    },
}
"""kubernetes.gpu_nodes -> GPU -> the labels of nodes that have it.

The first two are known before there is a node, so that one is added for a waiting pod. NVIDIA's is set by a
program on the node itself: nodes that carry it must be there already.
"""

MACHINES = {
    cloud: {
        m.type: m
        for m in (HEAD[cloud], DECODE[cloud], *TRAIN[cloud].values(), *GENERATE[cloud].values())
        if m.type
    }
    for cloud in HEAD
}
"""Machine type -> machine, per cloud: what is known of the size of what a manifest names."""


def _named(pattern: str, expected: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"expected {expected}")
        return value

    return AfterValidator(check)


def _closed(value: str) -> str:
    try:
        network = ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError(f"expected a network such as 203.0.113.7/32 ({error})") from None
    if network.prefixlen < 8:
        raise ValueError("this opens ssh to the internet; name the networks your users come from")
    return value


def _tagged(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._:/-]*(:[\w.-]+|@sha256:[0-9a-f]{64})", value) or value.endswith(
        ":latest"
    ):
        raise ValueError(
            "expected an image such as registry.example.com/vitascope:0.1.0, with a tag other than latest or "
            "a digest: all nodes must run the same"
        )
    return value


DnsLabel = Annotated[
    str,
    _named(
        r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?",
        "at most 40 lower-case letters, digits and `-`, beginning with a letter",
    ),
]
Bucket = Annotated[
    str,
    _named(
        r"(?!\d+\.\d+\.\d+\.\d+$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
        "a bucket's name, without scheme and folder: 3 to 63 lower-case letters, digits, `-` and `.`",
    ),
]
Network = Annotated[str, AfterValidator(_closed)]


_GPU_NODES = "'gke' or 'karpenter' if those add the nodes, 'nvidia' if the nodes are always there"
_SPOT = "Cheaper nodes that the cloud may take back at any time, which costs the work since the last commit."


class Nodes(Section):
    """How many nodes of a kind the autoscaler keeps: at least `min`, at most `max`."""

    min: int = Field(0, ge=0, description="Nodes kept although idle; they cost all the time.")
    max: int = Field(1, ge=0, description="Nodes at most; 0 leaves the kind out of use.")

    @model_validator(mode="after")
    def _ordered(self) -> "Nodes":
        if self.min > self.max:
            raise ValueError(f"min = {self.min} is more than max = {self.max}; raise max or lower min")
        return self


class DecodeNodes(Nodes):
    """Nodes without a GPU, for `clips` and the decoding part of `encode`."""

    max: int = Field(8, ge=0, description="Nodes at most.")
    spot: bool = Field(False, description=_SPOT)


class TrainNodes(Nodes):
    """Nodes for `train` and `evaluate`: never spot, close together."""

    max: int = Field(2, ge=0, description="Nodes at most.")
    gpu: str = Field("h100", description="GPU of these nodes.")


class GenerateNodes(Nodes):
    """Nodes for `generate`."""

    max: int = Field(4, ge=0, description="Nodes at most.")
    gpu: str = Field("l40s", description="GPU of these nodes.")
    spot: bool = Field(False, description=_SPOT)


class Aws(Section):
    """Where in AWS."""

    region: Annotated[str, _named(r"[a-z]{2}(-[a-z]+)+-\d", "a region such as us-east-1")]
    zones: tuple[str, ...] = Field(min_length=1, description="Availability zones, the preferred one first.")
    bucket: Bucket = Field(description="S3 bucket that the nodes may use: videos, runs and outputs.")
    ssh_from: tuple[Network, ...] = Field(
        min_length=1, description="Networks from which ssh reaches the head."
    )
    vpc: Annotated[str, _named(r"vpc-[0-9a-f]{8,17}", "the id of a VPC, vpc-…")]
    subnets: tuple[Annotated[str, _named(r"subnet-[0-9a-f]{8,17}", "the id of a subnet, subnet-…")], ...] = (
        Field(min_length=1, description="Subnets of the VPC in these zones; training takes the first.")
    )
    private: bool = Field(
        False,
        description="The subnets have no public addresses; run `ray up` from within the VPC or a VPN. Only "
        "then training uses all network cards: a node with several gets no public address.",
    )
    security_group: (
        Annotated[str, _named(r"sg-[0-9a-f]{8,17}", "the id of a security group, sg-…")] | None
    ) = Field(
        None, description="SecurityGroup of aws-stack.yaml's outputs. Without it only that file is rendered."
    )
    placement_group: str | None = Field(None, description="PlacementGroup of aws-stack.yaml's outputs.")
    ami: str = Field(
        "resolve:ssm:/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id",
        description="Image of the machines, with docker and the NVIDIA driver.",
    )

    @model_validator(mode="after")
    def _fits(self) -> "Aws":
        for zone in self.zones:
            if not re.fullmatch(re.escape(self.region) + "[a-z]", zone):
                raise ValueError(
                    f"zone {zone!r} is not in region {self.region!r}; zones there are {self.region}a, …"
                )
        if (self.security_group is None) != (self.placement_group is None):
            raise ValueError(
                "give both security_group and placement_group, outputs of aws-stack.yaml, or neither"
            )
        return self


class Gcp(Section):
    """Where in Google Cloud."""

    project: Annotated[str, _named(r"[a-z][-a-z0-9]{4,28}[a-z0-9]", "a project's id")]
    zone: Annotated[str, _named(r"[a-z]+-[a-z]+\d+-[a-z]", "a zone such as us-central1-a")]
    bucket: Bucket = Field(description="Bucket that the nodes may use: videos, runs and outputs.")
    ssh_from: tuple[Network, ...] = Field(
        min_length=1, description="Networks from which ssh reaches the head."
    )
    vm_image: str = Field(
        "projects/deeplearning-platform-release/global/images/family/common-cu129-ubuntu-2204-nvidia-580",
        description="Image of the machines, with docker and the NVIDIA driver.",
    )

    @property
    def region(self) -> str:
        """The zone's region."""
        return self.zone.rpartition("-")[0]


class Kubernetes(Section):
    """Where on Kubernetes."""

    namespace: DnsLabel = "vitascope"
    storage_class: str | None = Field(
        None, description="Of Redis's volume; the cluster's default without it."
    )
    service_account: dict[str, str] = Field(
        {}, description="Annotations that give the pods' service account the rights to the bucket."
    )
    operator_namespace: DnsLabel = Field(
        "kuberay-operator", description="Where the KubeRay operator runs; it alone may reach the dashboard."
    )
    gpu_nodes: Literal["gke", "karpenter", "nvidia"] | None = Field(
        None,
        description="Who labels GPU nodes: `gke` or `karpenter` if those add them, `nvidia` (its GPU feature "
        "discovery) if the nodes are always there.",
    )
    train_nodes: dict[str, str] = Field({}, description="Node labels that replace those of the GPU.")
    generate_nodes: dict[str, str] = Field({}, description="Node labels that replace those of the GPU.")
    spot_nodes: dict[str, str] = Field(
        {}, description="Labels of spot nodes, which are their taints as well."
    )


class Choices(Section):
    """What a cluster is to be. Exactly one of the tables aws, gcp and kubernetes says where."""

    name: DnsLabel = Field("vitascope", description="Name of the cluster, part of the names of all it uses.")
    image: Annotated[str, AfterValidator(_tagged)] = Field(
        description="Container image built from cluster/Dockerfile."
    )
    idle_minutes: int = Field(10, ge=1, description="Minutes after which an idle node goes.")
    tls: bool = Field(False, description="Encrypt Ray's own traffic between nodes; see cluster/README.md.")
    decode: DecodeNodes = DecodeNodes()
    train: TrainNodes = TrainNodes()
    generate: GenerateNodes = GenerateNodes()
    aws: Aws | None = None
    gcp: Gcp | None = None
    kubernetes: Kubernetes | None = None

    def gpu_labels(self, kind: Literal["train", "generate"]) -> dict[str, str]:
        """The labels of the Kubernetes nodes with the GPU of `kind`.

        Raises:
            ValueError: they cannot be told from the choices.
        """
        where, gpu = self.kubernetes, getattr(self, kind).gpu
        if where is None:
            return {}
        if own := getattr(where, f"{kind}_nodes"):
            return dict(own)
        if where.gpu_nodes is None:
            raise ValueError(
                f"kubernetes.gpu_nodes is missing, so GPU nodes cannot be named; expected {_GPU_NODES}; "
                f"or name their labels in kubernetes.{kind}_nodes"
            )
        if gpu not in GPU_NODES[where.gpu_nodes]:
            raise ValueError(
                f"{kind}.gpu = {gpu!r} is not known for kubernetes.gpu_nodes = {where.gpu_nodes!r}; it has "
                f"{', '.join(GPU_NODES[where.gpu_nodes])}; or name the labels in kubernetes.{kind}_nodes"
            )
        return GPU_NODES[where.gpu_nodes][gpu]

    @property
    def cloud(self) -> Cloud:
        """Where the cluster is."""
        return "aws" if self.aws else "gcp" if self.gcp else "kubernetes"

    @model_validator(mode="after")
    def _agrees(self) -> "Choices":
        given = [cloud for cloud in ("aws", "gcp", "kubernetes") if getattr(self, cloud)]
        if len(given) != 1:
            raise ValueError(
                f"expected one of the tables [aws], [gcp], [kubernetes], got {given or 'none'}; keep one"
            )
        for kind, gpu, known in (
            ("train", self.train.gpu, TRAIN[self.cloud]),
            ("generate", self.generate.gpu, GENERATE[self.cloud]),
        ):
            if gpu not in known:
                raise ValueError(
                    f"{kind}.gpu = {gpu!r} is not known for {self.cloud}; it has {', '.join(known)}"
                )
        if (
            self.cloud != "kubernetes"
            and GENERATE[self.cloud][self.generate.gpu].spot_only
            and not self.generate.spot
        ):
            raise ValueError(
                f"{GENERATE[self.cloud][self.generate.gpu].type} is to be had on spot only; "
                "set generate.spot = true, or take another generate.gpu"
            )
        self.gpu_labels("train")
        self.gpu_labels("generate")
        if self.kubernetes and (self.decode.spot or self.generate.spot) and not self.kubernetes.spot_nodes:
            raise ValueError(
                "spot = true on Kubernetes needs kubernetes.spot_nodes, the labels of your spot nodes, "
                'such as { "karpenter.sh/capacity-type" = "spot" }'
            )
        return self


def load(source: str) -> Choices:
    """Reads a TOML file of choices.

    Raises:
        Mistake: naming each wrong key or value, what was got and what was expected.
    """
    if not Path(source).exists():
        raise Mistake(
            f"no file of choices at {source}; copy {packaged('cluster', 'choices.toml')} and fill it in"
        )
    document = read_toml(source)
    try:
        return Choices.model_validate(document)
    except ValidationError as error:
        raise Mistake(f"{source}: " + "\n".join(_explain(e) for e in error.errors())) from None


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    got = "" if isinstance(error["input"], dict) else f", got {error['input']!r}"
    return f"{where + ': ' if where else ''}{error['msg'].removeprefix('Value error, ')}{got}"

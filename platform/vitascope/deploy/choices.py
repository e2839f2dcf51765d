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
_WITH_GPUS = {
    "aws": {
        "a10g": (Machine("g5.48xlarge", 192, 768, 8), Machine("g5.4xlarge", 16, 64, 1)),
        "l4": (Machine("g6.48xlarge", 192, 768, 8), Machine("g6.4xlarge", 16, 64, 1)),
        "l40s": (Machine("g6e.48xlarge", 192, 1536, 8, cards=4), Machine("g6e.4xlarge", 16, 128, 1)),
        "a100": (Machine("p4d.24xlarge", 96, 1152, 8, cards=4), Machine("p4d.24xlarge", 96, 1152, 8)),
        "a100-80gb": (Machine("p4de.24xlarge", 96, 1152, 8, cards=4), Machine("p4de.24xlarge", 96, 1152, 8)),
        "h100": (Machine("p5.48xlarge", 192, 2048, 8, cards=32), Machine("p5.4xlarge", 16, 256, 1)),
        "h200": (Machine("p5en.48xlarge", 192, 2048, 8, cards=16), Machine("p5en.48xlarge", 192, 2048, 8)),
    },
    "gcp": {
        "l4": (Machine("g2-standard-96", 96, 384, 8), Machine("g2-standard-16", 16, 64, 1)),
        "a100": (Machine("a2-highgpu-8g", 96, 680, 8), Machine("a2-highgpu-1g", 12, 85, 1)),
        "a100-80gb": (Machine("a2-ultragpu-8g", 96, 1360, 8), Machine("a2-ultragpu-1g", 12, 170, 1)),
        "h100": (
            Machine("a3-highgpu-8g", 208, 1872, 8),
            Machine("a3-highgpu-1g", 26, 234, 1, spot_only=True),
        ),
    },
    "kubernetes": {
        "l4": (Machine("", 40, 160, 4), Machine("", 12, 48, 1)),
        "l40s": (Machine("", 80, 640, 8), Machine("", 12, 96, 1)),
        "a100": (Machine("", 80, 600, 8), Machine("", 10, 70, 1)),
        "a100-80gb": (Machine("", 80, 900, 8), Machine("", 10, 100, 1)),
        "h100": (Machine("", 160, 1600, 8), Machine("", 15, 200, 1)),
        "h200": (Machine("", 160, 1600, 8), Machine("", 20, 200, 1)),
    },
}
TRAIN, GENERATE = (
    {cloud: {gpu: both[use] for gpu, both in gpus.items()} for cloud, gpus in _WITH_GPUS.items()}
    for use in (0, 1)
)
"""Cloud -> GPU -> machine. TRAIN: as many GPUs as share a fast link; GENERATE: as few as the cloud offers."""

MACHINES = {
    cloud: {
        machine.type: machine
        for machine in (HEAD[cloud], DECODE[cloud], *TRAIN[cloud].values(), *GENERATE[cloud].values())
    }
    for cloud in ("aws", "gcp")
}
"""Cloud -> machine type -> machine: the known sizes of the machines that a manifest names."""

_GKE, _NAME = "cloud.google.com/gke-accelerator", "karpenter.k8s.aws/instance-gpu-name"
_MIB, _NVIDIA = "karpenter.k8s.aws/instance-gpu-memory", "nvidia.com/gpu.product"
_NODE_LABELS = {
    "l4": {_GKE: "nvidia-l4", _NAME: "l4", _NVIDIA: "NVIDIA-L4"},
    "l40s": {_NAME: "l40s", _NVIDIA: "NVIDIA-L40S"},
    "a100": {_GKE: "nvidia-tesla-a100", _NAME: "a100", _MIB: "40960", _NVIDIA: "NVIDIA-A100-SXM4-40GB"},
    "a100-80gb": {_GKE: "nvidia-a100-80gb", _NAME: "a100", _MIB: "81920", _NVIDIA: "NVIDIA-A100-SXM4-80GB"},
    "h100": {_GKE: "nvidia-h100-80gb", _NAME: "h100", _NVIDIA: "NVIDIA-H100-80GB-HBM3"},
    "h200": {_GKE: "nvidia-h200-141gb", _NAME: "h200", _NVIDIA: "NVIDIA-H200"},
}
_LABELLED_BY = {"gke": (_GKE,), "karpenter": (_NAME, _MIB), "nvidia": (_NVIDIA,)}
GPU_NODES = {
    who: {
        gpu: {key: labels[key] for key in keys if key in labels}
        for gpu, labels in _NODE_LABELS.items()
        if keys[0] in labels
    }
    for who, keys in _LABELLED_BY.items()
}
"""kubernetes.gpu_nodes -> GPU -> the labels of nodes that have it.

`gke` and `karpenter` know their labels before a node exists, so they add one for a waiting pod. NVIDIA's
label is set by a program on the node itself: nodes that carry it must already run.
"""


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


_A_LABEL = "at most 40 lower-case letters, digits and `-`, beginning with a letter"
_AN_IMAGE = (
    "an image such as registry.example.com/vitascope:0.1.0, with a tag other than latest or a digest: all "
    "nodes must run the same"
)
_A_BUCKET = "a bucket's name, without scheme and folder: 3 to 63 lower-case letters, digits, `-` and `.`"
_IPV4 = r"\d+\.\d+\.\d+\.\d+"
_TAG = r":[\w.-]+|@sha256:[0-9a-f]{64}"

DnsLabel = Annotated[str, _named(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", _A_LABEL)]
Image = Annotated[str, _named(rf"(?!.*:latest$)[a-z0-9][a-z0-9._:/-]*({_TAG})", _AN_IMAGE)]
Bucket = Annotated[str, _named(rf"(?!{_IPV4}$)[a-z0-9][a-z0-9.-]{{1,61}}[a-z0-9]", _A_BUCKET)]
Subnet = Annotated[str, _named(r"subnet-[0-9a-f]{8,17}", "the id of a subnet, subnet-…")]
Group = Annotated[str, _named(r"sg-[0-9a-f]{8,17}", "the id of a security group, sg-…")]
Networks = Annotated[
    tuple[Annotated[str, AfterValidator(_closed)], ...],
    Field(min_length=1, description="Networks from which ssh reaches the head."),
]
Labels = dict[str, str]

_BUCKET = "bucket that the nodes may use: videos, runs and outputs."
_MACHINE_IMAGE = "Image of the machines, with docker and the NVIDIA driver."
_MOST = "Nodes at most."
_OWN_LABELS = "Node labels that replace those of the GPU."
_SPOT = "Cheaper nodes that the cloud may reclaim at any time, which costs the work since the last commit."


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

    max: int = Field(8, ge=0, description=_MOST)
    spot: bool = Field(False, description=_SPOT)


class TrainNodes(Nodes):
    """Nodes for `train` and `evaluate`: never spot, close together."""

    max: int = Field(2, ge=0, description=_MOST)
    gpu: str = Field("h100", description="GPU of these nodes.")


class GenerateNodes(Nodes):
    """Nodes for `generate`."""

    max: int = Field(4, ge=0, description=_MOST)
    gpu: str = Field("l40s", description="GPU of these nodes.")
    spot: bool = Field(False, description=_SPOT)


class Aws(Section):
    """The account's network, storage and image on AWS."""

    region: Annotated[str, _named(r"[a-z]{2}(-[a-z]+)+-\d", "a region such as us-east-1")]
    zones: tuple[str, ...] = Field(min_length=1, description="Availability zones, the preferred one first.")
    bucket: Bucket = Field(description=f"S3 {_BUCKET}")
    ssh_from: Networks
    vpc: Annotated[str, _named(r"vpc-[0-9a-f]{8,17}", "the id of a VPC, vpc-…")]
    subnets: tuple[Subnet, ...] = Field(
        min_length=1, description="Subnets of the VPC in these zones; training takes the first."
    )
    private: bool = Field(
        False,
        description="The subnets have no public addresses; run `ray up` from within the VPC or a VPN. Only "
        "then training uses all network cards: a node with several gets no public address.",
    )
    security_group: Group | None = Field(
        None, description="SecurityGroup of aws-stack.yaml's outputs. Without it only that file is rendered."
    )
    placement_group: str | None = Field(None, description="PlacementGroup of aws-stack.yaml's outputs.")
    ami: str = Field(
        "resolve:ssm:/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id",
        description=_MACHINE_IMAGE,
    )

    @model_validator(mode="after")
    def _fits(self) -> "Aws":
        for zone in self.zones:
            if not re.fullmatch(re.escape(self.region) + "[a-z]", zone):
                raise ValueError(
                    f"zone {zone!r} is not in region {self.region!r}; its zones are {self.region}a, …"
                )
        if (self.security_group is None) != (self.placement_group is None):
            raise ValueError(
                "give both security_group and placement_group, outputs of aws-stack.yaml, or neither"
            )
        return self


class Gcp(Section):
    """The project, storage and image on Google Cloud."""

    project: Annotated[str, _named(r"[a-z][-a-z0-9]{4,28}[a-z0-9]", "a project's id")]
    zone: Annotated[str, _named(r"[a-z]+-[a-z]+\d+-[a-z]", "a zone such as us-central1-a")]
    bucket: Bucket = Field(description=f"Cloud Storage {_BUCKET}")
    ssh_from: Networks
    vm_image: str = Field(
        "projects/deeplearning-platform-release/global/images/family/common-cu129-ubuntu-2204-nvidia-580",
        description=_MACHINE_IMAGE,
    )

    @property
    def region(self) -> str:
        """The zone's region."""
        return self.zone.rpartition("-")[0]


class Kubernetes(Section):
    """The namespace, rights and nodes on Kubernetes."""

    namespace: DnsLabel = "vitascope"
    storage_class: str | None = Field(None, description="Of Redis's volume; default: the cluster's default.")
    service_account: Labels = Field(
        {}, description="Annotations that give the pods' service account the rights to the bucket."
    )
    operator_namespace: DnsLabel = Field(
        "kuberay-operator", description="Namespace of the KubeRay operator; it alone may reach the dashboard."
    )
    gpu_nodes: Literal["gke", "karpenter", "nvidia"] | None = Field(
        None,
        description="Who labels GPU nodes: `gke` or `karpenter` if those add them, `nvidia` (its GPU feature "
        "discovery) if the nodes always run.",
    )
    train_nodes: Labels = Field({}, description=_OWN_LABELS)
    generate_nodes: Labels = Field({}, description=_OWN_LABELS)
    spot_nodes: Labels = Field({}, description="Labels of spot nodes, which are their taints as well.")


class Choices(Section):
    """The shape of a cluster. Exactly one of the tables aws, gcp and kubernetes is given."""

    name: DnsLabel = Field("vitascope", description="Name of the cluster, part of the names of all it uses.")
    image: Image = Field(description="Container image built from cluster/Dockerfile.")
    idle_minutes: int = Field(10, ge=1, description="Minutes after which an idle node is removed.")
    tls: bool = Field(False, description="Encrypt Ray's own traffic between nodes; see cluster/README.md.")
    decode: DecodeNodes = DecodeNodes()
    train: TrainNodes = TrainNodes()
    generate: GenerateNodes = GenerateNodes()
    aws: Aws | None = None
    gcp: Gcp | None = None
    kubernetes: Kubernetes | None = None

    @property
    def cloud(self) -> str:
        """`aws`, `gcp` or `kubernetes`."""
        return "aws" if self.aws else "gcp" if self.gcp else "kubernetes"

    @property
    def machines(self) -> dict[str, Machine]:
        """The machine of the head and of each kind of worker nodes."""
        cloud = self.cloud
        return {
            "head": HEAD[cloud],
            "decode": DECODE[cloud],
            "train": TRAIN[cloud][self.train.gpu],
            "generate": GENERATE[cloud][self.generate.gpu],
        }

    @property
    def kinds(self) -> dict[str, Nodes]:
        """The worker nodes, by kind."""
        return {"decode": self.decode, "generate": self.generate, "train": self.train}

    def is_spot(self, kind: str) -> bool:
        """Whether the nodes of a kind, or the head, are spot nodes."""
        return getattr(self.kinds.get(kind), "spot", False)

    def gpu_labels(self, kind: str) -> Labels:
        """The labels of the Kubernetes nodes with the GPU of `kind`.

        Raises:
            ValueError: they do not follow from the choices.
        """
        site, gpu = self.kubernetes, getattr(self, kind).gpu
        assert site
        if own := getattr(site, f"{kind}_nodes"):
            return dict(own)
        instead = f"or name the labels in kubernetes.{kind}_nodes"
        if site.gpu_nodes is None:
            raise ValueError(
                "kubernetes.gpu_nodes is missing, so GPU nodes cannot be named; expected 'gke' or "
                f"'karpenter' if those add the nodes, 'nvidia' if the nodes always run; {instead}"
            )
        known = GPU_NODES[site.gpu_nodes]
        if gpu not in known:
            raise ValueError(
                f"{kind}.gpu = {gpu!r} is not known for kubernetes.gpu_nodes = {site.gpu_nodes!r}; it has "
                f"{', '.join(known)}; {instead}"
            )
        return known[gpu]

    @model_validator(mode="after")
    def _agrees(self) -> "Choices":
        given = [cloud for cloud in ("aws", "gcp", "kubernetes") if getattr(self, cloud)]
        if len(given) != 1:
            raise ValueError(
                f"expected one of the tables [aws], [gcp], [kubernetes], got {given or 'none'}; keep one"
            )
        known = TRAIN[self.cloud]  # GENERATE has the same
        for kind, gpu in (("train", self.train.gpu), ("generate", self.generate.gpu)):
            if gpu not in known:
                raise ValueError(
                    f"{kind}.gpu = {gpu!r} is not known for {self.cloud}; it has {', '.join(known)}"
                )
        machine = self.machines["generate"]
        if machine.spot_only and not self.generate.spot:
            raise ValueError(
                f"{machine.type} is offered on spot only; set generate.spot = true, or another generate.gpu"
            )
        if self.kubernetes:
            self.gpu_labels("train")
            self.gpu_labels("generate")
            if (self.decode.spot or self.generate.spot) and not self.kubernetes.spot_nodes:
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
    key = ".".join(str(part) for part in error["loc"])
    got = "" if isinstance(error["input"], dict) else f", got {error['input']!r}"
    return f"{key + ': ' if key else ''}{error['msg'].removeprefix('Value error, ')}{got}"

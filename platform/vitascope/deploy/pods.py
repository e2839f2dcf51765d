"""Our own checks of Kubernetes manifests: what their schemas let pass.

Each takes a manifest that its schema has accepted and yields (where, message): what was got, what was
expected, what to do.
"""

import re
from collections.abc import Iterator
from typing import Any

from vitascope.cluster.placement import KIND_OF, LABEL
from vitascope.deploy.checks import KINDS, Found, image_tag, is_open


def kubernetes(part: dict[str, Any]) -> Iterator[Found]:
    """A manifest of Kubernetes' own kinds."""
    spec = part.get("spec") or {}
    pod = spec if part["kind"] == "Pod" else (spec.get("template") or {}).get("spec")
    if pod:
        yield from _pod(pod, "spec.template.spec")
    if part["kind"] == "Service" and spec.get("type") in ("LoadBalancer", "NodePort"):
        yield (
            "spec.type",
            f"got {spec['type']}, which is reached from outside; expected ClusterIP and kubectl port-forward",
        )
    if part["kind"] == "NetworkPolicy":
        for index, rule in enumerate(spec.get("ingress") or []):
            sources = rule.get("from") or []
            networks = [(s.get("ipBlock") or {}).get("cidr", "") for s in sources]
            if not sources or any(is_open(n) for n in networks) or {"namespaceSelector": {}} in sources:
                yield f"spec.ingress[{index}]", "lets everyone in; name in `from` which pods may come"
            elif any(source.get("namespaceSelector") == {} for source in sources):
                yield (
                    f"spec.ingress[{index}]",
                    "goes by the pods' labels in any namespace, which anyone can give to a pod of theirs; "
                    "name the namespace: namespaceSelector with kubernetes.io/metadata.name",
                )


def kuberay(part: dict[str, Any]) -> Iterator[Found]:
    """A RayCluster, RayJob or RayService."""
    if "spec" not in part:
        yield "spec", "is missing; it says what is wanted"
        return
    if part["kind"] == "RayJob":
        yield from _ray_job(part["spec"])
    cluster = cluster_of(part)
    if not cluster:
        return
    groups = {g["groupName"]: g for g in cluster.get("workerGroupSpecs", [])}
    bare = [name for name, g in (groups | {"head": cluster["headGroupSpec"]}).items() if not _containers(g)]
    yield from ((name, "has no container in template.spec.containers; name Ray's") for name in bare)
    if not bare:
        yield from _ray_cluster(cluster)


def cluster_of(part: dict[str, Any]) -> dict[str, Any]:
    """The specification of the cluster in a RayCluster, RayJob or RayService; empty if it has none."""
    key = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}.get(part["kind"])
    spec: dict[str, Any] = part["spec"].get(key) or {} if key else part["spec"]
    return spec


def _ray_job(job: dict[str, Any]) -> Iterator[Found]:
    if not job.get("rayClusterSpec") and not job.get("clusterSelector"):
        yield "spec", "has neither rayClusterSpec nor clusterSelector; say on which cluster it runs"
    if job.get("clusterSelector") and job.get("backoffLimit"):
        yield (
            "spec.backoffLimit",
            "with clusterSelector KubeRay deletes the shared cluster to try again; use rayClusterSpec",
        )
    if job.get("ttlSecondsAfterFinished") and not job.get("shutdownAfterJobFinishes"):
        yield (
            "spec.ttlSecondsAfterFinished",
            "needs shutdownAfterJobFinishes: true; KubeRay refuses one without the other",
        )
    if job.get("rayClusterSpec") and not job.get("shutdownAfterJobFinishes"):
        yield (
            "spec.shutdownAfterJobFinishes",
            "is not true: the job's cluster would stay, and cost, after its end",
        )
    stage = re.search(r"(?:vitascope\.cli|vitascope) (\w+)", job.get("entrypoint", ""))
    if not stage or stage[1] not in KIND_OF:
        yield (
            "spec.entrypoint",
            f"got {job.get('entrypoint')!r}; expected python -m vitascope.cli {'|'.join(KIND_OF)} …",
        )


def _ray_cluster(cluster: dict[str, Any]) -> Iterator[Found]:
    scaling = cluster.get("autoscalerOptions") or {}
    if (cluster.get("authOptions") or {}).get("mode") != "token":
        yield (
            "authOptions",
            "lacks mode: token; without it anyone who reaches the head can run code on the cluster",
        )
    if not cluster.get("rayVersion"):
        yield "rayVersion", "is missing; KubeRay refuses token authentication without it"
    if not cluster.get("enableInTreeAutoscaling"):
        yield "enableInTreeAutoscaling", "is not true: the cluster would neither grow nor shrink"
    if scaling.get("version") != "v2":
        yield (
            "autoscalerOptions.version",
            f"got {scaling.get('version')!r}; expected v2, which goes by node labels",
        )
    if not scaling.get("idleTimeoutSeconds"):
        yield "autoscalerOptions.idleTimeoutSeconds", "is missing; say after how many idle seconds a pod goes"
    if scaling.get("image"):
        yield from image_tag(scaling["image"], "autoscalerOptions.image")
    head = cluster["headGroupSpec"]
    if (head.get("rayStartParams") or {}).get("num-cpus") != "0":
        yield "headGroupSpec.rayStartParams", 'lacks num-cpus: "0"; tasks on the head crowd out the scheduler'
    if head.get("serviceType", "ClusterIP") != "ClusterIP" or head.get("enableIngress"):
        yield (
            "headGroupSpec",
            "is reached from outside; expected serviceType ClusterIP, no ingress, kubectl port-forward",
        )
    yield from _ray_pod(head, "headGroupSpec")
    if any("gpu" in key for key in _limits(head)):
        yield "headGroupSpec", "asks for a GPU; the head runs no tasks: take it out"
    for group in cluster.get("workerGroupSpecs", []):
        yield from _worker_group(group)


def _worker_group(group: dict[str, Any]) -> Iterator[Found]:
    name, pod = group["groupName"], group["template"]["spec"]
    low, high = group["minReplicas"], group["maxReplicas"]
    if not 0 <= low <= group.get("replicas", low) <= high:
        yield (
            name,
            f"got minReplicas {low}, maxReplicas {high}; expected 0 <= minReplicas <= maxReplicas",
        )
    label = (group.get("labels") or {}).get(LABEL)
    if label not in KINDS:
        yield (
            f"{name}.labels",
            f"got {LABEL}={label!r}; expected one of {', '.join(KINDS)}, or no stage's work comes here",
        )
    if pod.get("nodeSelector") and any("gpu" in key for key in _limits(group)) and not pod.get("tolerations"):
        yield f"{name}.tolerations", "are missing; GPU nodes are tainted with nvidia.com/gpu: tolerate it"
    if label in ("train", "generate") and not any("gpu" in key for key in _limits(group)):
        yield f"{name}.resources", "has no nvidia.com/gpu in its limits: Ray would see no GPU there"
    yield from _ray_pod(group, name)


def _containers(group: dict[str, Any]) -> list[dict[str, Any]]:
    containers: list[dict[str, Any]] = group["template"].get("spec", {}).get("containers", [])
    return containers


def _limits(group: dict[str, Any]) -> dict[str, Any]:
    limits: dict[str, Any] = (_containers(group)[0].get("resources") or {}).get("limits") or {}
    return limits


def _ray_pod(group: dict[str, Any], name: str) -> Iterator[Found]:
    pod = group["template"]["spec"]
    yield from _pod(pod, name)
    if pod.get("restartPolicy", "Never") != "Never":
        yield (
            f"{name}.restartPolicy",
            f"got {pod['restartPolicy']}; autoscaler v2 wants Never: a lost pod is replaced",
        )
    ray = pod["containers"][0]
    if "cpu" not in _limits(group) or "memory" not in _limits(group):
        yield f"{name}.resources", "lacks limits of cpu and memory, from which Ray tells what it has"
    if not any(mount["mountPath"] == "/dev/shm" for mount in ray.get("volumeMounts") or []):
        yield (
            f"{name}.volumeMounts",
            "lacks /dev/shm (an emptyDir in Memory); the object store would go to a slow disk",
        )
    if not ray.get("livenessProbe") or not ray.get("readinessProbe"):
        yield (
            f"{name}.livenessProbe",
            "or readinessProbe is missing; a hung pod would stay: probe local_raylet_healthz",
        )


def _pod(pod: dict[str, Any], where: str) -> Iterator[Found]:
    """What a namespace with the pod security standard `restricted` refuses, and images that move."""
    shared = pod.get("securityContext") or {}
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield f"{where}.{key}", "shares the machine with the pod; take it out"
    for volume in pod.get("volumes") or []:
        if "hostPath" in volume:
            yield f"{where}.volumes", f"{volume['name']} mounts the machine's disk; use emptyDir or a claim"
    for container in [*pod.get("containers", []), *pod.get("initContainers", [])]:
        own, at = container.get("securityContext") or {}, f"{where}.{container['name']}"
        yield from image_tag(container.get("image", ""), f"{at}.image")
        user = own.get("runAsUser", shared.get("runAsUser"))
        if not own.get("runAsNonRoot", shared.get("runAsNonRoot")) or user == 0:
            yield (
                f"{at}.securityContext",
                f"may run as root (runAsUser {user}); set runAsNonRoot: true and a user",
            )
        if own.get("privileged") or own.get("allowPrivilegeEscalation") is not False:
            yield (
                f"{at}.securityContext",
                "may gain rights; set allowPrivilegeEscalation: false, and not privileged",
            )
        if "ALL" not in ((own.get("capabilities") or {}).get("drop") or []):
            yield f"{at}.securityContext", "keeps capabilities; set capabilities: {drop: [ALL]}"
        sizes = container.get("resources") or {}
        if not sizes.get("limits") or sizes.get("requests") != sizes["limits"]:
            yield (
                f"{at}.resources",
                "requests and limits differ or are missing; set both alike, or the pod is evicted first",
            )

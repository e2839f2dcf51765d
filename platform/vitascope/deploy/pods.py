"""Our own checks of Kubernetes manifests: what their schemas let pass.

Each takes a manifest that its schema has accepted and yields findings: the position, and what was got,
what was expected and what to do.
"""

import re
from collections.abc import Iterator

from vitascope.cluster.placement import KIND_OF, LABEL
from vitascope.deploy.checks import Finding, Manifest, image_tag, is_open, node_label


def kubernetes(part: Manifest) -> Iterator[Finding]:
    """A manifest of Kubernetes' own kinds."""
    spec = part.get("spec", {})
    pod = spec if part["kind"] == "Pod" else spec.get("template", {}).get("spec")
    if pod:
        yield from _pod(pod, "spec.template.spec")
    if part["kind"] == "Service" and (kind := spec.get("type")) in ("LoadBalancer", "NodePort"):
        yield "spec.type", f"got {kind}, open to the outside; expected ClusterIP and kubectl port-forward"
    if part["kind"] == "NetworkPolicy":
        for index, rule in enumerate(spec.get("ingress", [])):
            yield from ((f"spec.ingress[{index}]", message) for message in _too_wide(rule.get("from", [])))


def _too_wide(sources: list[Manifest]) -> Iterator[str]:
    networks = (source.get("ipBlock", {}).get("cidr", "") for source in sources)
    if not sources or any(map(is_open, networks)) or {"namespaceSelector": {}} in sources:
        yield "lets everyone in; name in `from` which pods may come"
    elif any(source.get("namespaceSelector") == {} for source in sources):
        yield (
            "goes by the pods' labels in any namespace, which anyone can give to a pod of theirs; name the "
            "namespace: namespaceSelector with kubernetes.io/metadata.name"
        )


def kuberay(part: Manifest) -> Iterator[Finding]:
    """A RayCluster, RayJob or RayService."""
    if "spec" not in part:
        yield "spec", "is missing; describe the cluster, job or service"
        return
    if part["kind"] == "RayJob":
        yield from _ray_job(part["spec"])
    cluster = cluster_of(part)
    if not cluster:
        return
    groups = {group["groupName"]: group for group in cluster.get("workerGroupSpecs", [])}
    groups["head"] = cluster["headGroupSpec"]
    bare = [n for n, group in groups.items() if not group["template"].get("spec", {}).get("containers")]
    yield from ((name, "has no container in template.spec.containers; name Ray's") for name in bare)
    if not bare:
        yield from _ray_cluster(cluster)


def cluster_of(part: Manifest) -> Manifest:
    """The specification of the cluster in a RayCluster, RayJob or RayService; empty if it has none."""
    key = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}.get(part["kind"])
    spec: Manifest = part["spec"].get(key, {}) if key else part["spec"]
    return spec


def _ray_job(job: Manifest) -> Iterator[Finding]:
    own, shared, ends = map(job.get, ("rayClusterSpec", "clusterSelector", "shutdownAfterJobFinishes"))
    if not own and not shared:
        yield "spec", "has neither rayClusterSpec nor clusterSelector; say on which cluster it runs"
    if shared and job.get("backoffLimit"):
        trap = "with clusterSelector KubeRay deletes the shared cluster to try again; use rayClusterSpec"
        yield "spec.backoffLimit", trap
    if job.get("ttlSecondsAfterFinished") and not ends:
        yield "spec.ttlSecondsAfterFinished", "is refused by KubeRay without shutdownAfterJobFinishes: true"
    if own and not ends:
        yield "spec.shutdownAfterJobFinishes", "is not true: the cluster would stay, and cost, after the job"
    stage = re.search(r"(?:vitascope\.cli|vitascope) (\w+)", job.get("entrypoint", ""))
    if not stage or stage[1] not in KIND_OF:
        expected = f"expected python -m vitascope.cli {'|'.join(KIND_OF)} …"
        yield "spec.entrypoint", f"got {job.get('entrypoint')!r}; {expected}"


def _ray_cluster(cluster: Manifest) -> Iterator[Finding]:
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield "authOptions", "lacks mode: token; without it anyone who reaches the head can run code on it"
    if not cluster.get("rayVersion"):
        yield "rayVersion", "is missing; KubeRay refuses token authentication without it"
    if not cluster.get("enableInTreeAutoscaling"):
        yield "enableInTreeAutoscaling", "is not true: the cluster would neither grow nor shrink"
    scaling, at = cluster.get("autoscalerOptions", {}), "autoscalerOptions"
    if (version := scaling.get("version")) != "v2":
        yield f"{at}.version", f"got {version!r}; expected v2, which goes by node labels"
    if not scaling.get("idleTimeoutSeconds"):
        yield f"{at}.idleTimeoutSeconds", "is missing; say after how many idle seconds a pod goes"
    if scaling.get("image"):
        yield from image_tag(scaling["image"], f"{at}.image")
    yield from _head_group(cluster["headGroupSpec"], "headGroupSpec")
    for group in cluster.get("workerGroupSpecs", []):
        yield from _worker_group(group, group["groupName"])


def _head_group(head: Manifest, at: str) -> Iterator[Finding]:
    if head.get("rayStartParams", {}).get("num-cpus") != "0":
        yield f"{at}.rayStartParams", 'lacks num-cpus: "0"; tasks on the head crowd out the scheduler'
    if head.get("serviceType", "ClusterIP") != "ClusterIP" or head.get("enableIngress"):
        yield at, "is reached from outside; expected serviceType ClusterIP, no ingress, kubectl port-forward"
    yield from _ray_pod(head, at)
    if _has_gpu(head):
        yield at, "asks for a GPU; the head runs no tasks: take it out"


def _worker_group(group: Manifest, at: str) -> Iterator[Finding]:
    pod, low, high = group["template"]["spec"], group["minReplicas"], group["maxReplicas"]
    if not 0 <= low <= group.get("replicas", low) <= high:
        expected = "expected 0 <= minReplicas <= maxReplicas"
        yield at, f"got minReplicas {low}, maxReplicas {high}; {expected}"
    yield from node_label(group, f"{at}.labels")
    if pod.get("nodeSelector") and _has_gpu(group) and not pod.get("tolerations"):
        yield f"{at}.tolerations", "are missing; GPU nodes are tainted with nvidia.com/gpu: tolerate it"
    if group.get("labels", {}).get(LABEL) in ("train", "generate") and not _has_gpu(group):
        yield f"{at}.resources", "has no nvidia.com/gpu in its limits: Ray would see no GPU"
    yield from _ray_pod(group, at)


def _limits(group: Manifest) -> Manifest:
    ray = group["template"]["spec"]["containers"][0]
    limits: Manifest = ray.get("resources", {}).get("limits", {})
    return limits


def _has_gpu(group: Manifest) -> bool:
    return any("gpu" in key for key in _limits(group))


def _ray_pod(group: Manifest, at: str) -> Iterator[Finding]:
    pod = group["template"]["spec"]
    ray = pod["containers"][0]
    yield from _pod(pod, at)
    if (policy := pod.get("restartPolicy", "Never")) != "Never":
        yield f"{at}.restartPolicy", f"got {policy}; autoscaler v2 wants Never: a lost pod is replaced"
    if not {"cpu", "memory"} <= _limits(group).keys():
        yield f"{at}.resources", "lacks limits of cpu and memory, from which Ray knows what it has"
    if not any(mount["mountPath"] == "/dev/shm" for mount in ray.get("volumeMounts", [])):
        cause = "the object store would go to a slow disk"
        yield f"{at}.volumeMounts", f"lacks /dev/shm (an emptyDir in Memory); {cause}"
    if not ray.get("livenessProbe") or not ray.get("readinessProbe"):
        cause = "a hung pod would stay: probe local_raylet_healthz"
        yield f"{at}.livenessProbe", f"or readinessProbe is missing; {cause}"


def _pod(pod: Manifest, at: str) -> Iterator[Finding]:
    """Violations of the pod security standard `restricted`, and images that move."""
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield f"{at}.{key}", "shares the machine with the pod; take it out"
    for volume in pod.get("volumes", []):
        if "hostPath" in volume:
            yield f"{at}.volumes", f"{volume['name']} mounts the machine's disk; use emptyDir or a claim"
    for container in [*pod.get("containers", []), *pod.get("initContainers", [])]:
        name, sizes = f"{at}.{container['name']}", container.get("resources", {})
        yield from image_tag(container.get("image", ""), f"{name}.image")
        for message in _rights(pod.get("securityContext", {}), container.get("securityContext", {})):
            yield f"{name}.securityContext", message
        if not sizes.get("limits") or sizes.get("requests") != sizes["limits"]:
            cause = "set both alike, or the pod is evicted first"
            yield f"{name}.resources", f"requests and limits differ or are missing; {cause}"


def _rights(pod: Manifest, own: Manifest) -> Iterator[str]:
    """Mistakes in the security context of a container, `own`, within its pod's."""
    user = own.get("runAsUser", pod.get("runAsUser"))
    if not own.get("runAsNonRoot", pod.get("runAsNonRoot")) or user == 0:
        yield f"may run as root (runAsUser {user}); set runAsNonRoot: true and a user"
    if own.get("privileged") or own.get("allowPrivilegeEscalation") is not False:
        yield "may gain rights; set allowPrivilegeEscalation: false, and not privileged"
    if "ALL" not in own.get("capabilities", {}).get("drop", []):
        yield "keeps capabilities; set capabilities: {drop: [ALL]}"

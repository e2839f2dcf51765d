#!/usr/bin/env bash
# Takes the cluster away, and then its namespace. The other way round it hangs: in a namespace that is being
# deleted the operator cannot start the job that clears Redis, and until that has run its finalizer keeps the
# cluster, and the cluster the namespace (KubeRay 1.6 for ever, later ones for five minutes).
set -euo pipefail

NAMESPACE=vitascope

# Jobs and services first, as they would make their clusters anew; then clusters, while Redis is still there.
for kind in rayjobs rayservices rayclusters; do
  kubectl --namespace "$NAMESPACE" delete "$kind.ray.io" --all --wait --timeout=10m || {
    echo "$kind are not gone yet, so the namespace stays; see what holds them, and run this again:" >&2
    echo "  kubectl --namespace $NAMESPACE describe $kind" >&2
    exit 1
  }
done
kubectl delete namespace "$NAMESPACE"

#!/usr/bin/env bash
# Removes the cluster, then its namespace. The reverse order hangs: in a namespace that is being deleted the operator
# cannot start the job that clears Redis; until it has run, its finalizer keeps the cluster, and the cluster the
# namespace (KubeRay 1.6 for ever, later versions for five minutes).
set -euo pipefail

NAMESPACE=vitascope

# Jobs and services first, because they would recreate their clusters; then clusters, while Redis still runs.
for kind in rayjobs rayservices rayclusters; do
  kubectl --namespace "$NAMESPACE" delete "$kind.ray.io" --all --wait --timeout=10m || {
    echo "$kind are not deleted yet, so the namespace stays; check what holds them, and run this again:" >&2
    echo "  kubectl --namespace $NAMESPACE describe $kind" >&2
    exit 1
  }
done
kubectl delete namespace "$NAMESPACE"

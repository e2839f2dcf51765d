#!/usr/bin/env bash
# What gcp.yaml needs in your project, and nothing more: a network of its own with a closed firewall, a service
# account for the head, a lesser one for the workers, and a placement policy. Rendered with your choices; then
#   ./gcp-setup.sh          creates it; run again, it continues
#   ./gcp-setup.sh remove   removes it, except the bucket
set -euo pipefail

NAME=vitascope
PROJECT=my-project
REGION=us-central1
BUCKET=my-vitascope-bucket
SSH_FROM=203.0.113.7/32

export CLOUDSDK_CORE_PROJECT="$PROJECT" CLOUDSDK_CORE_DISABLE_PROMPTS=1
domain="$PROJECT.iam.gserviceaccount.com"
role="${NAME//-/_}_autoscaler"

# unless SHOW-COMMAND -- CREATE-COMMAND: creates a resource unless it exists.
unless() {
  local show=()
  while [[ $1 != -- ]]; do
    show+=("$1")
    shift
  done
  shift
  gcloud "${show[@]}" >/dev/null 2>&1 || gcloud "$@"
}

make() {
  unless compute networks describe "$NAME" -- compute networks create "$NAME" --subnet-mode=custom
  unless compute networks subnets describe "$NAME" --region="$REGION" -- \
    compute networks subnets create "$NAME" --region="$REGION" --network="$NAME" --range=10.20.0.0/16 \
    --enable-private-ip-google-access

  # This network admits nothing except what these rules allow.
  unless compute firewall-rules describe "$NAME-ssh" -- \
    compute firewall-rules create "$NAME-ssh" --network="$NAME" --allow=tcp:22 \
    --source-ranges="$SSH_FROM" --target-tags="$NAME-head"
  unless compute firewall-rules describe "$NAME-inside" -- \
    compute firewall-rules create "$NAME-inside" --network="$NAME" --allow=all \
    --source-tags="$NAME-head,$NAME-worker" --target-tags="$NAME-head,$NAME-worker"

  # The workers have no public address; through this they pull the image.
  unless compute routers describe "$NAME" --region="$REGION" -- \
    compute routers create "$NAME" --region="$REGION" --network="$NAME"
  unless compute routers nats describe "$NAME" --router="$NAME" --region="$REGION" -- \
    compute routers nats create "$NAME" --router="$NAME" --region="$REGION" \
    --auto-allocate-nat-external-ips --nat-all-subnet-ip-ranges

  # As close together as capacity allows, for any number of nodes: a policy with --vm-count takes exactly that
  # many, created at once, and no nodes that are added one by one.
  unless compute resource-policies describe "$NAME-train" --region="$REGION" -- \
    compute resource-policies create group-placement "$NAME-train" --region="$REGION" --collocation=collocated

  # Both accounts: the bucket, and pulling the image.
  local account
  for account in "$NAME-head@$domain" "$NAME-worker@$domain"; do
    unless iam service-accounts describe "$account" -- iam service-accounts create "${account%@*}"
    gcloud storage buckets add-iam-policy-binding "gs://$BUCKET" \
      --member="serviceAccount:$account" --role=roles/storage.objectUser
    gcloud projects add-iam-policy-binding "$PROJECT" --condition=None \
      --member="serviceAccount:$account" --role=roles/artifactregistry.reader
  done

  # The head: starts and ends nodes, only as the workers' account.
  gcloud iam roles undelete "$role" --project="$PROJECT" >/dev/null 2>&1 || true # deleted, its name stays for a month
  unless iam roles describe "$role" --project="$PROJECT" -- iam roles create "$role" --project="$PROJECT" \
    --permissions="$(
      printf '%s,' compute.disks.create compute.images.useReadOnly compute.instances.{create,delete,get,list} \
        compute.instances.set{Labels,Metadata,ServiceAccount,Tags} compute.machineTypes.get \
        compute.resourcePolicies.use compute.subnetworks.use compute.zoneOperations.get | sed 's/,$//'
    )"
  gcloud projects add-iam-policy-binding "$PROJECT" --condition=None \
    --member="serviceAccount:$NAME-head@$domain" --role="projects/$PROJECT/roles/$role"
  gcloud iam service-accounts add-iam-policy-binding "$NAME-worker@$domain" \
    --member="serviceAccount:$NAME-head@$domain" --role=roles/iam.serviceAccountUser
}

remove() {
  local account failed=0
  gcloud compute routers delete "$NAME" --region="$REGION" || failed=1 # deletes its NAT too
  gcloud compute resource-policies delete "$NAME-train" --region="$REGION" || failed=1
  gcloud compute firewall-rules delete "$NAME-ssh" "$NAME-inside" || failed=1
  gcloud compute networks subnets delete "$NAME" --region="$REGION" || failed=1
  gcloud compute networks delete "$NAME" || failed=1
  for account in "$NAME-head@$domain" "$NAME-worker@$domain"; do
    gcloud iam service-accounts delete "$account" || failed=1
  done
  gcloud iam roles delete "$role" --project="$PROJECT" || failed=1
  return "$failed"
}

case "${1:-make}" in
make) make ;;
remove) remove ;;
*)
  echo "usage: $0 [make|remove], got $1" >&2
  exit 2
  ;;
esac

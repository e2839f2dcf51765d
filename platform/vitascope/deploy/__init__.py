"""For operators: manifests for clouds from one small file of choices, and dashboards for Grafana.

choices     one small file of choices            choices.toml ->
manifests   ... laid over the base manifests     -> aws.yaml, gcp.yaml, kuberay/*.yaml
validate    ... and validated (checks, pods: what schemas miss)
grafana     brings the dashboards into a Grafana server
"""

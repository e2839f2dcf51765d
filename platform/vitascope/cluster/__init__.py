"""Ray clusters: reach one or start a local one, run jobs on it, describe one for a cloud.

    local       join a cluster, or start one on this machine
    private     ... in a folder that other users cannot enter
    placement   which nodes a stage's work goes to
    jobs        submit, follow, list, stop, through Ray's job API
    pipeline    the flow as jobs, one after another
    choices     one small file of choices            choices.toml ->
    manifests   ... laid over the base manifests     -> aws.yaml, gcp.yaml, kuberay/*.yaml
    validate    ... and validated (checks, pods: what schemas miss)

In: settings, or a file of choices. Out: this process connected to Ray; a job; manifests.
"""

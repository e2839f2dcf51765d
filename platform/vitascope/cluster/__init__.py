"""Ray clusters: reach one or start a local one, and run jobs on it.

    local       join a cluster, or start one on this machine
    private     ... in a folder that other users cannot enter
    ray_private the private parts of Ray that we use
    placement   the nodes of each stage
    jobs        submit, follow, list, stop, through Ray's job API
    failures    the cause of an error that crossed Ray

In: settings. Out: this process connected to Ray; a job.
"""

"""Ray clusters: reach one or start a local one, and run jobs on it.

    local       join a cluster, or start one on this machine
    private     ... in a folder that other users cannot enter
    ray_private what is used of Ray that it does not promise to keep
    placement   which nodes a stage's work goes to
    jobs        submit, follow, list, stop, through Ray's job API

In: settings. Out: this process connected to Ray; a job.
"""

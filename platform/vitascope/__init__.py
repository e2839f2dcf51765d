"""Vitascope: train video diffusion transformers on mixed sizes, and generate video with them in bulk.

    videos ──clips──> clip table ──encode──> latent shards ──feed──> packs ──train──> model ──generate──> mp4

Read in the order the data flows:

    errors      errors as the user sees them: mistakes and failures, as opposed to bugs
    signals     Ctrl-C, and requests to end
    config      compose the stages' settings from one TOML file (section: their base)
    records     frozen value types and table schemas that pass between stages
    storage     one way to read, list and commit files on s3://, gs:// and local paths
    ledger      the outcome of every item, and why (checksum: files that prove they are whole)
    stages      every stage, declared once; which are finished; the flow
    metrics     every metric, declared once and published through Ray
    media       read any video or image; write mp4
    clips       videos and images -> clip table
    encode      clips -> latent shards
    feed        latent shards -> packs of equal cost
    model       the diffusion transformer and its objective
    train       packs -> checkpoints
    generate    checkpoint -> videos
    evaluate    held-out losses
    report      pages about a run and its data
    cluster     reach or start a Ray cluster; jobs on it
    deploy      for operators: manifests for clouds, dashboards for Grafana
    doctor      settings against a cluster, before money is spent
    cli         the `vitascope` command
"""

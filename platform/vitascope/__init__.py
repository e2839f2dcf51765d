"""Vitascope: train video diffusion transformers on mixed sizes, and generate video with them in bulk.

    videos ──clips──> clip table ──encode──> latent shards ──feed──> packs ──train──> model ──generate──> mp4

The ground, which everything may import:

    errors      errors as the user sees them: mistakes and failures, as opposed to bugs
    signals     Ctrl-C, and requests to end
    config      compose the stages' settings from one TOML file (section: their base)
    records     frozen value types and table schemas that pass between stages
    storage     one way to read, list and commit files on s3://, gs:// and local paths (stores: their clients)
    ledger      the outcome of every item, and why (checksum: files that prove they are whole)
    metrics     every metric, declared once and published through Ray
    stages      every stage, declared once; which are finished; the flow
    cluster     reach or start a Ray cluster; jobs on it

The core, in the order the data flows; a room imports the ground and earlier rooms:

    media       read any video or image; write mp4
    clips       videos and images -> clip table
    caption     captions from a model
    encode      clips -> latent shards
    feed        latent shards -> packs of equal cost
    model       the diffusion transformer and its objective
    train       packs -> checkpoints
    generate    checkpoint -> videos
    evaluate    held-out losses

Around it, imported by nothing of the core:

    report      pages about a run and its data
    deploy      for operators: manifests for clouds, dashboards for Grafana
    doctor      settings against a cluster, before money is spent
    demo        the whole flow on real video
    cli         the `vitascope` command

To add

    a score     a field of `clips.filters.Filters`; for a new series of numbers, also an entry of
                `clips.analysis.series` and its value in `clips.analysis.features`
    a codec     a class in a file of encode/codecs, its line in `CODECS`, its strides in `encode.settings`
    a stage     `<name>/stage.py` with `run(settings)`, its entry in `stages.registry`, its settings' section
                in `config`
    a figure    of a run: in `report.accounting.figures`, and a tile in report/templates/report.html; a plot:
                a function of `report.charts`, and a panel in the template
    a metric    an entry of `metrics.METRICS`
"""

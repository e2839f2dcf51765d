"""Vitascope: train video diffusion transformers on mixed sizes, and generate video with them in bulk.

    videos ──clips──> clip table ──encode──> latent shards ──feed──> packs ──train──> model ──generate──> mp4

The ground, which everything may import:

    errors      errors as the user sees them: mistakes and failures, as opposed to bugs
    signals     Ctrl-C, and requests to end
    config      compose the stages' settings from one TOML file (section: their base)
    records     values that pass between stages, and table schemas (of clips: `clips.table`)
    storage     one way to read, list and commit files on s3://, gs:// and local paths (stores: their clients;
                copies: of files of any size)
    ledger      the outcome of every item, and why (checksum, weights: files that prove they are whole)
    metrics     every metric, declared once and published through Ray
    stages      every stage, declared once; which are finished; the flow
    precision   bf16 or float32, by what the processor does
    wording     numbers and nouns in sentences (progress: lines and bars; credentials: never shown)
    cluster     reach or start a Ray cluster; jobs on it (imports the rest of the ground)

The core, in the order the data flows; a room imports the ground and earlier rooms:

    media       read any video or image; write mp4
    clips       videos and images -> clip table
    caption     captions from a model
    encode      clips -> latent shards
    feed        latent shards -> packs of equal cost
    model       the diffusion transformer and its objective
    train       packs -> checkpoints
    generate    checkpoint -> videos
    api         generation over HTTP
    evaluate    held-out losses

Around it, imported by nothing of the core:

    report      pages about a run and its data
    deploy      for operators: manifests for clouds, dashboards for Grafana
    doctor      settings against a cluster, before money is spent
    demo        the whole flow on real video
    cli         the `vitascope` command

`tests/test_layout.py` enforces this, says which modules may import Ray, and holds the lines of each room.
Settings modules import only pydantic, `section` and `clips.filters`.

To add

    a score     a field of `clips.filters.Filters`; for a new series of numbers, an entry of
                `clips.analysis.series` and its value in `clips.analysis.features` (of frames at 256 px) or
                `clips.analysis.scan` (at their own size, like combing). Files are then scanned again.
    a codec     a class in a file of encode/codecs, its line in `CODECS`, its name and strides in
                `encode.settings`; for another class of diffusers' autoencoders only a line in
                `encode.autoencoders.FAMILIES`, with the functions that stream frames through it
    a network   a subclass of `model.network.Network` in a file of model, its line in `model.networks`, its
                name in `model.settings`
    a text      a class in a file of encode/text, its line in `TEXT_ENCODERS`, its name in `encode.settings`
    encoder
    a stage     a room with settings.py and stage.py, whose `run(settings)` uses `stages.running`; an entry in
                `stages.registry`, also in what `report` needs; its section in `config`; jobs/<name>.py; for
                nodes of its own, cluster/kuberay/rayjob-<name>.yaml; its room in tests/test_layout.py
    a figure    of a run: in `_of_<stage>` of `report.accounting`, and a tile in the template's `head`. For a
                plot: a function of `report.charts`, its data from the part's function in `report.stage`, and
                a panel in the part's macro.
    a metric    an entry of `metrics.METRICS`
"""

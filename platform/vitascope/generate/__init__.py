"""Generate videos in bulk: a request file goes in, mp4 files and a manifest come out.

    opened     the model, of our own or published, checked and loaded
    models     the models that requests may choose from, by name
    document   the JSON object of a request
    request    what one output is to be
    parse      one JSON line becomes a checked Request, or is rejected with a reason
    chunks     cuts a long video into chunks that are made one after the other
    cost       what a request costs, from its fields alone
    changes    differences between an output and its request
    layout     which frames of an output come from its media
    media      their frames, read from pictures and videos
    conditions the conditioning frames of a request's latent
    denoise/   from noise to latents: many requests in shared forward passes
    writing    writes an output's file while its latents are made
    finished   keeps the finished chunks of a long video until it is whole
    sidecar    records how an output was made
    app/       text encoding, denoising, decoding and writing as Ray Serve deployments
    starting   why a replica cannot start
    batch/     the request file, in windows and ordered by cost, and the outcome of every request
    stage      the job: streams the request file through the app
    tracing    the destination of a traced request's spans

In: JSON lines, CSV or Parquet (fields: see `request.Request`) and the folder of a model, or of a published
pipeline. Out, under outputs/<batch>/: for every request `<name>.mp4` (`.png` for one frame), jpegs of its
conditioning frames and the sidecar `<name>.json`, whose creation makes the request finished;
`manifest.parquet`, `records.MANIFEST`, with a row for every line of the request file; `.batch/`, the
user's wish and the progress.
"""

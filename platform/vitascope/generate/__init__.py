"""Generate videos in bulk: a request file goes in, mp4 files and a manifest come out.

    opened     the model, of our own or published, checked and loaded
    document   the JSON object of a request
    request    what one output is to be
    parse      one JSON line becomes a checked Request, or is rejected with a reason
    changes    differences between an output and its request
    conditions the conditioning frames of a request's latent
    media      conditioning frames, read from pictures and videos
    denoise/   from noise to latents: many requests in shared forward passes
    sidecar    records how an output was made
    app/       text encoding, denoising, decoding and writing as Ray Serve deployments
    starting   why a replica cannot start
    batch/     the request file, line by line, and the outcome of every request
    stage      the job: streams the request file through the app
    tracing    where the spans of a traced request go

In: JSON lines (fields: see `request.Request`) and the folder of a model, or of a published pipeline. Out,
under outputs/<batch>/: for every request `<name>.mp4` (`.png` for one frame), jpegs of its conditioning
frames and the sidecar `<name>.json`, whose creation makes the request finished; `manifest.parquet`,
`records.MANIFEST`, with a row for every line of the request file.
"""

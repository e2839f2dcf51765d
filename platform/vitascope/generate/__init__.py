"""Generate videos in bulk: a request file goes in, mp4 files and a manifest come out.

    lines      the request file, read line by line
    request    one JSON line becomes a checked Request, or is rejected with a reason
    changes    differences between an output and its request
    conditions the conditioning frames of a request's latent
    media      conditioning frames, read from pictures and videos
    sampler    the state of one request between noise and latent, and one step of it
    scheduler  selects the requests of the next forward pass
    engine     the loop that runs the passes
    divide     divides a failing pass until the culprit is alone
    sidecar    records how an output was made
    app        text encoding, denoising, decoding and writing as Ray Serve deployments
    starting   why a replica cannot start
    stage      the job: streams the request file through the app
    manifest   the outcome of every request

In: JSON lines (fields: see `request.Request`) and a model folder. Out, under outputs/<batch>/: for every
request `<name>.mp4` (`.png` for one frame), jpegs of its conditioning frames and the sidecar `<name>.json`,
whose creation makes the request finished; `manifest.parquet`, `records.MANIFEST`, with a row for every line
of the request file.
"""

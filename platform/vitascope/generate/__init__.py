"""Generate videos in bulk: a request file goes in, mp4 files and a manifest come out.

    opened     the model, of our own or published, checked and loaded
    lines      the request file, read line by line
    request    one JSON line becomes a checked Request, or is rejected with a reason
    changes    differences between an output and its request
    conditions the conditioning frames of a request's latent
    media      conditioning frames, read from pictures and videos
    sampler    the state of one request between noise and latent, and one step of it
    sampling   a model's defaults: solver, steps, guidance, shift
    schedule   the noise levels of a request's steps
    solvers    from one noise level to the next
    scheduler  selects the requests of the next forward pass
    experts    the networks of a model, and the pass that they compute
    engine     the loop that runs the passes
    divide     divides a failing pass until the culprit is alone
    sidecar    records how an output was made
    app        text encoding, denoising, decoding and writing as Ray Serve deployments
    starting   why a replica cannot start
    stage      the job: streams the request file through the app
    manifest   the outcome of every request

In: JSON lines (fields: see `request.Request`) and the folder of a model, or of a published pipeline. Out,
under outputs/<batch>/: for every request `<name>.mp4` (`.png` for one frame), jpegs of its conditioning
frames and the sidecar `<name>.json`, whose creation makes the request finished; `manifest.parquet`,
`records.MANIFEST`, with a row for every line of the request file.
"""

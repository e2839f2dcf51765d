"""Generate over HTTP, in the shape of OpenAI's API: any of its clients works unchanged.

    settings   what a service allows
    shapes     the objects that clients see
    failures   errors, as clients see them
    fields     OpenAI's fields become a request
    store/     what the service keeps: documents, files, keys
    jobs       creates, shows and deletes videos and pictures
    batches    files of requests, line by line
    previews   thumbnails and sprite sheets
    measured   the cluster's metrics
    runner     sends what is unfinished to the generation app
    routes/    the addresses
    app        the whole as Ray Serve deployments
    local      `vitascope serve`: the app on one machine

In: HTTP requests. Out: under outputs/<generate.batch>/ of the run, where every replica finds them, also after
a restart:

    keys/<name>.json                         a key, as a hash
    objects/<owner>/<kind>s/<span>/<id>.json what was asked for; its absence means that it was deleted
    objects/<owner>/outcomes/<span>/<id>.json how it ended
    objects/<owner>/media/<span>/<id>/       its files
    pending/<owner>/<id>.json                it is not finished, or not cleaned up

Replicas that answer HTTP write and read these files and compute nothing; one runner works off what is
pending. An id begins with the time, of which `<span>` holds the first digits (4.7 hours), so that a page of
the newest objects reads few names.
"""

"""Videos and still images to a clip table.

In: a folder or bucket of media files, or of tars of them, with captions in sidecars (`name.txt`,
`name.json`) or in one Parquet/CSV table (columns name, caption).

Out: `{run}/videos/*.parquet` (records.VIDEOS, a row for every file found) and `{run}/clips/*.parquet`
(records.CLIPS, a row for every clip cut). What cannot be used is a row too, with its reason.

What is learnt of a file is kept in a catalog of every version of every file (records.CATALOG), so that a run
over more files looks only at those, and other thresholds cost no decoding.

    features   what every frame looks like, in numbers (`phash`, `hashing`: fingerprints)
    scan       one file: what it is, and its features
    inputs     which files are media, and which caption them
    tar_table  what tars hold
    catalog    which files are known, and the parts to look at
    shots      where a source is cut
    cut        spans within shots, and the split
    scores     a clip's scores, and what is dropped for them (`filters`: the settings, `hooks`: your own)
    hooked     hooks' scores, kept
    letterbox  the picture inside black bars
    captions   sidecar files and caption tables (`utf8`: their text)
    derive     the clips of a file, from its catalog row
    dedup      twins among clips
    twins      what of the clip table is dropped as one
    notes_on   what was chosen in silence, in words
    stage      the stage, on Ray Data
"""

"""Videos and still images to a clip table.

In: a folder or bucket of media files, with captions in sidecars (`name.txt`, `name.json`) or in one
Parquet/CSV table (columns name, caption).

Out: `{run}/videos/*.parquet` (records.VIDEOS, a row for every file found) and `{run}/clips/*.parquet`
(records.CLIPS, a row for every clip cut). What cannot be used is a row too, with its reason.

    isolate    run risky decoding in a killable child
    probe      what a media file is
    decode     frames of a clip, by timestamp
    cut        spans and split, from probe results
    captions   sidecar files and caption tables
    phash      fingerprint of how a frame looks
    pipeline   the stage, on Ray Data
"""

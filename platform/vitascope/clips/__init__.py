"""Videos and still images to a clip table.

In: a folder or bucket of media files, or of tars of them, with captions in sidecars (`name.txt`,
`name.json`) or in one Parquet/CSV table (columns name, caption).

Out: `{run}/videos/*.parquet` (table.VIDEOS, a row for every file found) and `{run}/clips/*.parquet`
(table.CLIPS, a row for every clip cut). What cannot be used is a row too, with its reason.

What is learnt of a file is kept in a catalog of every version of every file (series.CATALOG), so that a run
over more files looks only at those, and other thresholds cost no decoding.

    index      files, their captions, and what is known of each
    analysis   what one file looks like, and the clips that follow from it
    filters    the settings of scores and filters (`hooks`: functions of your own)
    dedup      duplicates among clips
    notes_on   what was chosen in silence, in words
    stage      the stage, on Ray Data
"""

"""Videos and still images to a clip table.

In: a folder or bucket of media files, or of tars of them, with captions in sidecars (`name.txt`,
`name.json`) or in one Parquet/CSV table (columns name, caption).

Out: `{run}/videos/*.parquet` (table.VIDEOS, a row for every file found) and `{run}/clips/*.parquet`
(table.CLIPS, a row for every clip cut). Unusable files and clips are rows too, with the reason.

The facts of every version of every file are kept in a catalog (series.CATALOG), so that a run over more files
scans only the new ones, and other thresholds cost no decoding.

    index      files, their captions, and the catalog
    analysis   the frames of one file as numbers, and the clips that follow from them
    filters    every score, declared once, and its limits (`hooks`: user-defined functions)
    dedup      duplicates among clips
    table      the tables, and the one view of clips and their captions
    notes_on   notes on choices that no table shows
    stage      the stage, on Ray Data
"""

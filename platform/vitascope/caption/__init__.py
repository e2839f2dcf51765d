"""Captions for clips from a vision-language model. Off by default.

In: the clip table. Out: `{run}/captions/part-*.parquet` (clips.table.CAPTIONS), a row for every requested
field of every clip: the caption, or why there is none. Each part is committed once, so an interrupted run
continues with the questions that no part answers.

    answers    which clips and fields to ask for, and rows from answers
    frames     a few small pictures of a clip
    endpoint   ask an OpenAI-compatible endpoint
    local      ask a transformers model in a folder
    stage      the stage, on Ray Data
"""

"""Captions for clips, asked of a vision-language model. Off by default.

In: the clip table. Out: `{run}/captions/part-*.parquet` (answers.CAPTIONS), a row for every field of every
clip that was asked for: the caption, or why there is none. Each part is committed once, so a run that was cut
short goes on with what no part answers.

    answers    which clips are asked, and what was answered
    frames     a few small pictures of a clip
    endpoint   ask an OpenAI-compatible endpoint
    local      ask a transformers model in a folder
    stage      the stage, on Ray Data
"""

"""Packs go in; a model comes out, by way of checkpoints that any number of ranks can go on from.

schedule and shards are pure; engine is DeepSpeed ZeRO-3, job what a run trains on, step one step, held_out
the loss on held-out samples, guard what is done about values that are not finite, loop what every rank runs,
log the step metrics, stage the Ray Train shell. Writes train/metrics/*.jsonl, train/checkpoints/,
train/not_finite/ (the samples of skipped steps) and model/ in the run's folder.
"""

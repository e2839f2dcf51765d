"""Packs go in; a model comes out, through checkpoints that any number of ranks can continue from.

schedule and shards are pure; engine is DeepSpeed ZeRO-3, job the inputs of a run, step one step, held_out the
loss on held-out samples, guard the handling of values that are not finite, loop the program of every rank,
log the step metrics, stage the Ray Train shell. Writes train/metrics/*.jsonl, train/checkpoints/,
train/not_finite/ (the samples of skipped steps) and model/ in the run's folder.
"""

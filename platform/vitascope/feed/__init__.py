"""Latent shards go in; packs of equal cost come out, in the planned order, for each rank.

From lengths alone, windows cuts an epoch, costly takes out what cannot be levelled, packing deals out the
rest, and plan makes steps of it. patches and packs are what a pack is; source loads one; stream has Ray Data
do so ahead of need.
"""

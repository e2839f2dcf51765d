"""Latent shards go in; packs of equal cost come out, in the planned order, for each rank.

From lengths alone, windows cuts an epoch, costly separates samples that cannot be levelled, packing
distributes the rest, and plan makes steps of them. patches and packs define a pack; source loads one; stream
has Ray Data load packs ahead of need.
"""

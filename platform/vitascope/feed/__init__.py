"""Latent shards go in; packs of equal cost come out, in the planned order, for each rank.

packing and plan decide, from lengths alone, which samples meet in which pack of which step; patches and packs
are what a pack is; source loads one; stream has Ray Data do so ahead of need.
"""

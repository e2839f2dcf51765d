"""One file: the series of its frames, and the clips that follow from them.

series     the series of numbers that describe frames, declared once
scan       probe a file and compute its series
features   the series of consecutive frames (`phash`: perceptual hash)
shots      shot boundaries
letterbox  the picture inside black bars
cut        spans within shots, and the split
scores     scores of clips, and which ones they drop (`hooked`: scores of hooks, kept)
derive     the clips of a file, from its catalog row
"""

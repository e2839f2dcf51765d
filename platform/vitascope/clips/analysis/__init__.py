"""What one file looks like, and the clips that follow from it.

scan       one file: what it is, and its features
features   what every frame looks like, in numbers (`phash`: fingerprints)
shots      where a source is cut
letterbox  the picture inside black bars
cut        spans within shots, and the split
scores     a clip's scores, and what is dropped for them (`hooked`: those of hooks, kept)
derive     the clips of a file, from its catalog row
"""

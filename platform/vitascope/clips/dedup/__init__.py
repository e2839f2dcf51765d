"""Twins among clips.

hashing  hashes of looks that survive copying
joins    which clips are twins, by hashes
twins    what of the clip table is dropped as one
"""

"""Duplicates among clips.

hashing  hashes of looks that survive copying
joins    finds duplicate clips by their hashes
duplicates    drops duplicates from the clip table
"""

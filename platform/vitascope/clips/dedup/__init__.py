"""Duplicates among clips.

hashing     perceptual hashes that copies share
joins       find duplicate clips by their hashes
duplicates  drop duplicates from the clip table
"""

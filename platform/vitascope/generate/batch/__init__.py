"""A batch: the request file that goes in, and the manifest that comes out.

lines      the request file, read line by line
manifest   the outcome of every request
"""

"""What the input holds: files, members of tars, their captions, and what is known of each.

inputs     which files are media, and which caption them
tar_table  what tars hold
captions   sidecar files and caption tables (`utf8`: their text)
catalog    which files are known, and the parts to look at
"""

"""The input: files, tar members, their captions, and the catalog of what is known of each.

inputs     media files and their sidecars
tar_table  contents of tars
captions   sidecar files and caption tables (`utf8`: their text)
catalog    files already described, and the parts still to process
"""

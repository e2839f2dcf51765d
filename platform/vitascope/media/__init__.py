"""Read any video or picture, and write our own.

In: a `Clip`: a location and a span, at a size. Out: frames, uint8 BT.709 RGB, upright, over white.

    clip        which frames of a source, and how they are read
    probe       the facts about a file
    isolate     decoding in a child process that its time limit kills
    readers     open sources, and their frames by timestamp (`clock`: how exact those are)
    containers  the format, the track that players show (`boxes`), and what ffmpeg's errors mean (`formats`)
    pictures    stills and animations (`animation`: composed as in browsers; `profiles`: colours to sRGB)
    colour      decoded frames to RGB (`fields`: deinterlaced)
    geometry    sizes: displayed, covering, cropped; and which way up
    tars        members of tar files, read in place
    mp4         frames to the bytes of an mp4 or png
"""

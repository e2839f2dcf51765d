"""Read any video or picture, and write our own.

In: a location, and the times and sizes that are wanted. Out: frames, uint8 BT.709 RGB, upright, over white.

    isolate     decoding in a child process that its time limit kills
    probe       what a file is
    clip        the frames of a clip, and of a whole source
    readers     open sources, and their frames by timestamp (`clock`: how exact those are)
    containers  the format, the track that players show (`boxes`), and what ffmpeg's errors mean (`formats`)
    pictures    stills and animations (`animation`: composed as in browsers; `profiles`: colours to sRGB)
    colour      decoded frames to RGB (`fields`: deinterlaced)
    geometry    sizes: displayed, covering, cropped; and which way up
    tars        members of tar files, read in place
    mp4         frames to the bytes of an mp4 or png
"""

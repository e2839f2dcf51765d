"""How exact the times of frames are."""

HOLD_S = 0.1  # that the last frame may stand longer than its duration: containers round durations
TIME_TOLERANCE_S = 0.002  # decord's timestamps are float32: 1 ms coarse after three hours
LONGEST_S = 300.0  # that a frame may stand; more is a broken timestamp, and would be hours of work on nothing
LAST_STANDS_S = 0.5  # at most: a last frame without a duration stands as long as the one before it

"""How exact the times of frames are."""

HOLD_S = 0.1  # how much longer than it says the last frame may stand: containers round their durations
TIME_TOLERANCE_S = 0.002  # decord's timestamps are float32: 1 ms coarse after three hours
LONGEST_S = 300.0  # that a frame may stand; more is a broken timestamp, and would be hours of work on nothing
LAST_STANDS_S = 0.5  # at most, that the last frame stands as long as the one before it, if nothing says more

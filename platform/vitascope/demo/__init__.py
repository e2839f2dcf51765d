"""The whole flow on real video, small enough for a laptop.

In: media that installed packages ship (`inputs`), or the user's own. Out: all outputs of the flow, including
summary.json and report.html.
"""

"""The stages: what each is, in which order they run, and the flow as jobs.

registry  every stage, declared once
runner    which stages of a run are finished, and the flow of those that are not
as_jobs   the flow as jobs on a cluster, one after another
"""

"""The stages: what each is, in which order they run, and the flow as jobs.

registry   every stage, declared once
resources  what stages take of a cluster at once
runner     which stages of a run are finished, and the flow of those that are not
running    a stage at work: timed, shown, published, summed up
as_jobs    the flow as jobs on a cluster, one after another
"""

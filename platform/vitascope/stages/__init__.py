"""The stages: their declarations, their order, and the flow as jobs.

registry   every stage, declared once
resources  resources that a stage needs at once
runner     the finished stages of a run, and the flow of the others
running    time, summary, progress and metrics of a running stage
as_jobs    the flow as consecutive jobs on a cluster
"""

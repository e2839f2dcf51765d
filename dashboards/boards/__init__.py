"""The dashboards, as code. Each module says one dashboard; `kit` turns them into Grafana's JSON.

overview      one run from videos to outputs: stages, rates, time left, cost
data          clips, encoding and the feed: what is lost, what is slow
training      is it learning, is it fast, is it safe
generation    queue, occupancy, latency, failures, cost of a clip
cluster       nodes, GPUs, memory, object store, disks
"""

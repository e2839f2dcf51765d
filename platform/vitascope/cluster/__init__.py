"""Reach a Ray cluster, or start a local one.

In: `ClusterSettings`. Out: this process connected to Ray.
"""

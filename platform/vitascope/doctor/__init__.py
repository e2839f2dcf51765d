"""Settings checked against a cluster, before money is spent.

    facts        what the cluster, its nodes and the storage are like      Ray
    checks       what of it stands in the way of these settings            pure
    stage        both, and what was found in words

In: settings. Out: findings, each with what to do about it.
"""

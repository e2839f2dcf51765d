"""The network: a pack goes in, the velocity of every patch comes out.

rope and attention are the parts, dit and wan the networks, networks their list, cost their FLOPs, flow the
objective. card holds our files; weights reads and writes those of others.
"""

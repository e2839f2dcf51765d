"""The network: a pack goes in, the velocity of every patch comes out.

rope and attention are the parts, dit and wan the networks, networks their list, cost their FLOPs, objective
how a family is trained, flow its noise and loss. card holds our files; weights reads and writes those of
others, purpose says what they are for.
"""

"""The network: a pack goes in, the velocity of every patch comes out.

rope and attention are the parts, dit and wan the networks, networks their list, cost their FLOPs, lora their
adapters, objective how a family is trained, flow its noise and loss. formats reads and writes them as files.
"""

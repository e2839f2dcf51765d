"""The network: a pack goes in, the velocity of every patch comes out.

rope and attention are the parts, dit the model, cost its FLOPs, flow the objective, card the files.
"""

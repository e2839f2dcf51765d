"""From noise to latents: many requests in shared forward passes.

sampler    the state of one request between noise and latent, and one step of it
sampling   a model's defaults: solver, steps, guidance, shift
schedule   the noise levels of a request's steps
solvers    from one noise level to the next
experts    the networks of a model, and the pass that they compute
scheduler  selects the requests of the next forward pass
engine     the loop that runs the passes
versions   the versions of a model that a replica runs
divide     divides a failing pass until the culprit is alone
"""

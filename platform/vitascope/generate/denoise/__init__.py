"""From noise to latents: many requests in shared forward passes.

sampler    the state of one request between noise and latent, and one step of it
sampling   a model's defaults: solver, steps, guidance, shift
schedule   the noise levels of a request's steps
solvers    from one noise level to the next
reuse      steps that need no pass, because earlier ones predict them
experts    the networks of a model, and the pass that they compute
saturation the pack size from which on a larger pass gains nothing
scheduler  orders the requests, and selects those of the next forward pass
engine     the loop that runs the passes
pace       how long passes take
versions   the versions of a model that a replica runs
divide     divides a failing pass until the culprit is alone
states     saved states of running requests
"""

"""What a request costs, from its fields alone."""

from functools import lru_cache

from vitascope.encode.buckets import Patching
from vitascope.generate.chunks import alone, chunks_of
from vitascope.generate.denoise.sampling import Sampling
from vitascope.generate.denoise.schedule import as_published
from vitascope.generate.layout import layout
from vitascope.generate.request import Request
from vitascope.model.cost import Cost


def cost(request: Request, patching: Patching, sampling: Sampling, network: Cost) -> float:
    """The work of a request's denoising, in patch-passes: what a patch of a tiny image costs in a pass.

    A patch of a large request costs more than one, because attention is quadratic in a request's patches. A
    guided pass counts twice; a long video costs what its chunks do. The cost of text is left out: it is the
    same for requests of all sizes.

    Args:
        network: of the model, `model.networks.cost_of`.
    """
    chunks = chunks_of(request, patching)
    parts = [alone(request, chunk, patching) for chunk in chunks] if len(chunks) > 1 else [request]
    sizes = [layout(part, patching).made for part in parts]
    of_a_pass = sum(float(network.of(patching.n_tokens(size), 0)) for size in sizes)
    return _n_passes(request, sampling) * of_a_pass / network.per_token


def _n_passes(request: Request, sampling: Sampling) -> int:
    """The request's segments in all its passes: a guided step has two."""
    n_segments = [1 if scale == 1 else 2 for scale in request.scales]
    return sum(n_segments[expert] for expert in _experts(request, sampling)[-request.n_passes :])


def _experts(request: Request, sampling: Sampling) -> tuple[int, ...]:
    """The index of each step's network."""
    if sampling.boundary is None or sampling.n_train is None:
        return (0,) * request.steps
    shift = request.shift if request.shift is not None else sampling.shift or 1.0
    return _published(request.solver, request.steps, shift, (sampling.n_train, sampling.boundary))


@lru_cache(maxsize=1024)
def _published(solver: str, steps: int, shift: float, of: tuple[int, float]) -> tuple[int, ...]:
    n_train, boundary = of
    return as_published(solver, steps, shift, n_train=n_train, boundary=boundary).experts

"""The side of torch, imported in a separate process."""

import math

import torch


def fill(kind, dim, params, n, rows, device):
    """The call that draws n rows, into a new tensor or repeatedly into one tensor of ``rows`` rows.

    Args:
      kind: "box", "diagonal normal" or "normal".
      params: low and width, mean and scale, or mean and scale_tril.
    """
    first, second = (torch.tensor(p, device=device) for p in params)
    buffer = rows and torch.empty(rows, dim, device=device)

    def draw(out):
        if kind == "box":
            torch.rand(out.shape, out=out).mul_(second).add_(first)
        elif kind == "diagonal normal":
            torch.randn(out.shape, out=out).mul_(second).add_(first)
        else:
            torch.addmm(first, torch.randn(out.shape, device=device), second.T, out=out)
        _finish(device)

    def call():
        if rows is None:
            draw(torch.empty(n, dim, device=device))
        else:
            for start in range(0, n, rows):
                draw(buffer[: n - start])

    return call


ROWS = 2**17  # that a mixture takes at once


def mixture_log_prob(weights, mean, scale_tril, n, device):
    """The call that scores n rows under a mixture of normals, by one product for all components."""
    weights, mean, scale_tril = (
        torch.tensor(v, device=device) for v in (weights, mean, scale_tril)
    )
    count, dim = mean.shape
    eye = torch.eye(dim, device=device).expand(count, dim, dim)
    factor = torch.linalg.solve_triangular(scale_tril, eye, upper=False)  # precision's factors
    product = factor.reshape(count * dim, dim).T.contiguous()
    shift = torch.einsum("kij,kj->ki", factor, mean).reshape(-1)
    determinant = scale_tril.diagonal(dim1=1, dim2=2).log().sum(-1)
    constant = weights.log() - determinant - 0.5 * dim * math.log(2 * math.pi)
    x = 4 * torch.randn(n, dim, device=device)

    def call():
        out = torch.empty(n, device=device)
        for start in range(0, n, ROWS):
            z = torch.addmm(-shift, x[start : start + ROWS], product).square_()
            squares = z.view(-1, count, dim).sum(-1)
            out[start : start + ROWS] = torch.logsumexp(constant - 0.5 * squares, -1)
        _finish(device)
        return out

    return call


def mixture_sample(weights, mean, scale_tril, n, device):
    """The call that draws n rows of a mixture of normals."""
    weights, mean, scale_tril = (
        torch.tensor(v, device=device) for v in (weights, mean, scale_tril)
    )

    def call():
        out = torch.empty(n, mean.shape[1], device=device)
        for start in range(0, n, ROWS):
            block = out[start : start + ROWS]
            component = torch.multinomial(weights, len(block), replacement=True)
            noise = torch.randn(*block.shape, 1, device=device)
            block[:] = mean[component] + (scale_tril[component] @ noise)[..., 0]
        _finish(device)
        return out

    return call


def _finish(device):
    if device == "cuda":
        torch.cuda.synchronize()

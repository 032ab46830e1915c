"""The side of torch, imported in a separate process."""

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
        if device == "cuda":
            torch.cuda.synchronize()

    def call():
        if rows is None:
            draw(torch.empty(n, dim, device=device))
        else:
            for start in range(0, n, rows):
                draw(buffer[: n - start])

    return call

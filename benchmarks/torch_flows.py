"""Scores, draws and a training loop that the flow libraries of torch share."""

import torch

BATCH, RATE = 256, 1e-3


def log_prob(flow, score, x, device):
    flow, x = flow.to(device), torch.from_numpy(x).to(device)
    return _without_gradients(lambda: score(flow, x), device)


def sample(flow, draw, n, device):
    flow = flow.to(device)
    return _without_gradients(lambda: draw(flow, n), device)


def fit(build, score, x, held, epochs, device):
    """The call that trains a new flow by Adam, and scores held-out rows after each epoch."""
    x, held = (torch.from_numpy(v).to(device) for v in (x, held))

    def call():
        flow = build().to(device)
        optimizer = torch.optim.Adam(flow.parameters(), lr=RATE)
        for _ in range(epochs):
            for rows in torch.randperm(len(x), device=device).split(BATCH):
                optimizer.zero_grad()
                (-score(flow, x[rows]).mean()).backward()
                optimizer.step()
            with torch.no_grad():
                score(flow, held).mean().item()

    return call


def _without_gradients(compute, device):
    def call():
        with torch.no_grad():
            compute()
        if device == "cuda":
            torch.cuda.synchronize()

    return call

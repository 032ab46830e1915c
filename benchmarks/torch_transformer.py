"""The transformer of ``jaxgen.networks`` in torch: its training steps and its draws.

It runs in a separate process. Attention is torch's own fused function.
"""

import torch
from torch import nn
from torch.nn import functional as F

BASE, SMALLEST = 10000.0, 1e-6


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norms = nn.ParameterList([nn.Parameter(torch.ones(width)) for _ in range(2)])
        sizes = {"qkv": (width, 3 * width), "out": (width, width)}
        sizes |= {"up": (width, 4 * width), "down": (4 * width, width)}
        self.of = nn.ModuleDict({k: nn.Linear(*s, bias=False) for k, s in sizes.items()})

    def norm(self, i, x):
        return F.rms_norm(x, x.shape[-1:], self.norms[i], SMALLEST)

    def heads_of(self, x, rotation):
        """Queries, keys and values of x (rows, positions, width)."""
        parts = self.of["qkv"](self.norm(0, x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in parts)
        return rotated(q, rotation), rotated(k, rotation), v

    def after(self, x, seen):
        x = x + self.of["out"](seen.flatten(-2))
        return x + self.of["down"](F.relu(self.of["up"](self.norm(1, x))).square())

    def forward(self, x, rotation):
        parts = (part.transpose(1, 2) for part in self.heads_of(x, rotation))
        seen = F.scaled_dot_product_attention(*parts, is_causal=True)
        return self.after(x, seen.transpose(1, 2))

    def step(self, x, rotation, cache, i):
        """x (rows, 1, width) of position i after it reads the cache, which gets its key."""
        q, k, v = self.heads_of(x, rotation)
        cache[0][:, :, i], cache[1][:, :, i] = k[:, 0], v[:, 0]
        known = (part[:, :, : i + 1] for part in cache)
        seen = F.scaled_dot_product_attention(q.transpose(1, 2), *known)
        return self.after(x, seen.transpose(1, 2))


class Transformer(nn.Module):
    def __init__(self, vocabulary, width, heads, layers):
        super().__init__()
        self.vocabulary, self.size = vocabulary, width // heads
        self.embedding = nn.Embedding(vocabulary + 1, width)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(layers)])
        self.norm = nn.Parameter(torch.ones(width))
        self.head = nn.Linear(width, vocabulary, bias=False)

    def logits(self, x):
        return self.head(F.rms_norm(x, x.shape[-1:], self.norm, SMALLEST))

    def forward(self, tokens):
        x, rotation = self.embedding(tokens), rotations(tokens.shape[1], self.size, tokens.device)
        for block in self.blocks:
            x = block(x, rotation)
        return self.logits(x)

    def start(self, rows):
        return torch.full((rows, 1), self.vocabulary, device=self.norm.device)


def rotations(positions, size, device):
    rates = BASE ** (-2 * torch.arange(size // 2, device=device) / size)
    angles = torch.arange(positions, device=device)[:, None, None] * rates
    return angles.cos(), angles.sin()


def rotated(x, rotation):
    (first, second), (cos, sin) = x.chunk(2, -1), rotation
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


def steps(sizes, tokens, batch, device):
    """The call that takes a training step (AdamW, clipped gradients) for each batch of tokens."""
    model = Transformer(*sizes).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    tokens = torch.from_numpy(tokens).long().to(device)

    def call():
        for rows in tokens.split(batch):
            inputs = torch.cat([model.start(len(rows)), rows[:, :-1]], 1)
            loss = F.cross_entropy(model(inputs).flatten(0, 1), rows.flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        synchronize(device)

    return call


def draw(sizes, rows, length, cached, device):
    """The call that draws ``rows`` sequences, with or without a cache of keys and values."""
    model = Transformer(*sizes).to(device)
    shape = rows, sizes[2], length, model.size

    def next_token(x):
        return torch.multinomial(F.softmax(x, -1), 1)

    @torch.no_grad()
    def with_cache():
        cache = [[torch.zeros(shape, device=device) for _ in range(2)] for _ in model.blocks]
        cos, sin = rotations(length, model.size, device)
        tokens = [model.start(rows)]
        for i in range(length):
            x = model.embedding(tokens[-1])
            for block, part in zip(model.blocks, cache, strict=True):
                x = block.step(x, (cos[i], sin[i]), part, i)
            tokens.append(next_token(model.logits(x)[:, 0]))
        synchronize(device)
        return torch.cat(tokens[1:], 1)

    @torch.no_grad()
    def without_cache():
        tokens = model.start(rows)
        for _ in range(length):
            tokens = torch.cat([tokens, next_token(model(tokens)[:, -1])], 1)
        synchronize(device)
        return tokens[:, 1:]

    return with_cache if cached else without_cache


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()

"""The models of ``image_models`` in torch: their training steps and their draws.

They run in a separate process.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.image_sizes import (
    CHANNELS,
    FEATURES,
    HEADS,
    HIDDEN,
    LATENT,
    LAYERS,
    PATCH,
    SHAPE,
    STEPS,
    WIDTH,
)  # fmt: skip
from benchmarks.torch_transformer import Block as Attention
from benchmarks.torch_transformer import rotations, synchronize

SIZE, GRID = math.prod(SHAPE), SHAPE[0] // PATCH
PIXELS, PATCHES, CODES = PATCH**2, GRID**2, 4


class Residual(nn.Module):
    """The residual network of ``networks.MLP``, with a linear layer behind it."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(inputs, WIDTH), nn.Linear(WIDTH, WIDTH)])
        self.out = nn.Linear(WIDTH, outputs)

    def forward(self, x):
        h = F.relu(self.layers[0](x))
        return self.out(h + F.relu(self.layers[1](h)))


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Residual(SIZE, 2 * LATENT), Residual(LATENT, SIZE)

    def loss(self, x):
        x = x.flatten(1)
        mean, log_scale = self.encoder(x).chunk(2, -1)
        z = mean + log_scale.exp() * torch.randn_like(mean)
        divergence = 0.5 * (mean**2 + (2 * log_scale).exp() - 1) - log_scale
        score = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none")
        return (divergence.sum(-1) + score.sum(-1)).mean()

    def draw(self, rows, device):
        p = torch.sigmoid(self.decoder(torch.randn(rows, LATENT, device=device)))
        return torch.bernoulli(p).view(-1, *SHAPE)


class Convolutions(nn.Module):
    """A residual block of ``networks.UNet``."""

    def __init__(self, channels, context):
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(channels // 8, channels) for _ in range(2)])
        self.layers = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)])
        self.modulation = nn.Linear(context, 2 * channels)

    def forward(self, h, context):
        new = self.norms[1](self.layers[0](F.silu(self.norms[0](h))))
        scale, shift = self.modulation(context)[..., None, None].chunk(2, 1)
        return h + self.layers[1](F.silu(new * (1 + scale) + shift))


class Diffusion(nn.Module):
    def __init__(self, waves=8):
        super().__init__()
        one, two, hidden = CHANNELS, 2 * CHANNELS, 4 * CHANNELS
        self.context, self.start = nn.Linear(waves, hidden), nn.Conv2d(1, one, 3, padding=1)
        self.blocks = nn.ModuleList([Convolutions(c, hidden) for c in (one, two, two, two, one)])
        self.down = nn.ModuleList([nn.Conv2d(one, two, 2, 2), nn.Conv2d(two, two, 2, 2)])
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(two, one, 2, 2), nn.ConvTranspose2d(two, two, 2, 2)]
        )
        self.norm, self.out = nn.GroupNorm(one // 8, one), nn.Conv2d(one, 1, 1)

    def velocity(self, z, time):
        angles = time[:, None] * math.pi * torch.arange(1, 5, device=z.device)
        context = F.silu(self.context(torch.cat([angles.cos(), angles.sin()], -1)))
        h, known = self.start(z), []
        for i in range(2):
            known.append(self.blocks[i](h, context))
            h = self.down[i](known[-1])
        h = self.blocks[2](h, context)
        for i in (1, 0):
            h = self.blocks[4 - i](self.up[i](h) + known[i], context)
        return self.out(F.silu(self.norm(h)))

    def loss(self, x):
        x = x[:, None]
        noise, time = torch.randn_like(x), torch.rand(len(x), device=x.device)
        t = time[:, None, None, None]
        error = self.velocity(t * x + (1 - t) * noise, time) - (x - noise)
        return error.square().sum((1, 2, 3)).mean()

    def draw(self, rows, device):
        z = torch.randn(rows, 1, *SHAPE, device=device)
        for i in range(STEPS):
            z = z + self.velocity(z, torch.full((rows,), i / STEPS, device=device)) / STEPS
        return z[:, 0]


class Pixels(nn.Module):
    """A transformer over patches, and a masked network for the pixels of a patch."""

    def __init__(self):
        super().__init__()
        self.codes = nn.Embedding(2, CODES)
        self.embedding = nn.Linear(4 * PIXELS * CODES, FEATURES, bias=False)
        self.position = nn.Parameter(0.1 * torch.randn(PATCHES, FEATURES))
        self.blocks = nn.ModuleList([Attention(FEATURES, HEADS) for _ in range(LAYERS)])
        self.norm = nn.Parameter(torch.ones(FEATURES))
        sizes = (PIXELS * CODES + FEATURES, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, PIXELS)
        self.layers = nn.ModuleList([nn.Linear(*size) for size in sizes])
        source = torch.cat([torch.arange(PIXELS).repeat_interleave(CODES), -torch.ones(FEATURES)])
        rank = -1 + torch.arange(HIDDEN) * PIXELS // HIDDEN
        masks = rank[:, None] >= source, rank[:, None] >= rank
        masks = *masks, torch.arange(PIXELS)[:, None] > rank
        for i, mask in enumerate(masks):
            self.register_buffer(f"mask{i}", mask.float())

    def neighbours(self, codes):
        """Codes (rows, grid, grid, numbers) of the patches above left, above, right and left."""
        padded = F.pad(codes, (0, 0, 1, 1, 1, 0))
        places = (0, 0), (0, 1), (0, 2), (1, 0)
        return torch.cat([padded[:, i : i + GRID, j : j + GRID] for i, j in places], -1)

    def logits(self, codes, features):
        h = torch.cat([codes, features], -1)
        h = F.relu(F.linear(h, self.layers[0].weight * self.mask0, self.layers[0].bias))
        h = h + F.relu(F.linear(h, self.layers[1].weight * self.mask1, self.layers[1].bias))
        return F.linear(h, self.layers[2].weight * self.mask2, self.layers[2].bias)

    def normed(self, x):
        return F.rms_norm(x, x.shape[-1:], self.norm, 1e-6)

    def loss(self, x):
        patches = x.view(-1, GRID, PATCH, GRID, PATCH).transpose(2, 3).flatten(3)
        codes = self.codes(patches.long()).flatten(-2)
        h = self.embedding(self.neighbours(codes).flatten(1, 2)) + self.position
        rotation = rotations(PATCHES, FEATURES // HEADS, x.device)
        for block in self.blocks:
            h = block(h, rotation)
        logits = self.logits(codes.flatten(1, 2), self.normed(h))
        score = F.binary_cross_entropy_with_logits(logits, patches.flatten(1, 2), reduction="none")
        return score.sum((1, 2)).mean()

    def draw(self, rows, device):
        shape = rows, HEADS, PATCHES, FEATURES // HEADS
        cache = [[torch.zeros(shape, device=device) for _ in range(2)] for _ in self.blocks]
        cos, sin = rotations(PATCHES, FEATURES // HEADS, device)
        known = torch.zeros(rows, GRID + 1, GRID + 2, PIXELS * CODES, device=device)
        drawn = torch.zeros(rows, PATCHES, PIXELS, device=device)
        for t in range(PATCHES):
            i, j = divmod(t, GRID)
            near = [known[:, i + a, j + b] for a, b in ((0, 0), (0, 1), (0, 2), (1, 0))]
            h = (self.embedding(torch.cat(near, -1)) + self.position[t])[:, None]
            for block, part in zip(self.blocks, cache, strict=True):
                h = block.step(h, (cos[t], sin[t]), part, t)
            features, codes = self.normed(h)[:, 0], known[:, i + 1, j + 1]
            for k in range(PIXELS):
                p = torch.sigmoid(self.logits(codes, features)[:, k])
                drawn[:, t, k] = torch.bernoulli(p)
                codes[:, k * CODES : (k + 1) * CODES] = self.codes(drawn[:, t, k].long())
        return drawn.view(-1, GRID, GRID, PATCH, PATCH).transpose(2, 3).reshape(-1, *SHAPE)


MODELS = {"vae": VAE, "diffusion": Diffusion, "pixels": Pixels}


def steps(name, images, batch, epochs, device):
    """The call that takes a training step (AdamW, clipped gradients) for each batch of images, in
    each of the epochs."""
    model = MODELS[name]().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    images = torch.from_numpy(images).to(device)

    def call():
        for x in images.split(batch) * epochs:
            loss = model.loss(x)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        synchronize(device)

    return call


def draw(name, rows, device):
    """The call that draws ``rows`` images."""
    model = MODELS[name]().to(device)

    @torch.no_grad()
    def call():
        images = model.draw(rows, device)
        synchronize(device)
        return images

    return call

"""The models of images that ``image_fit`` and ``image_sample`` time, each with a twin in torch."""

from benchmarks import image_sizes as sizes
from jaxgen import models, networks


def vae():
    each = networks.MLP(width=sizes.WIDTH)
    return models.VAE(sizes.SHAPE, sizes.LATENT, 2, encoder=each, decoder=each)


def diffusion():
    network = networks.UNet(sizes.CHANNELS)
    return models.Diffusion(sizes.SHAPE, network=network, steps=sizes.STEPS, solver="euler")


def pixels():
    network = networks.Transformer(sizes.FEATURES, sizes.HEADS, sizes.LAYERS)
    return models.PixelAutoregressive(sizes.SHAPE, 2, network, sizes.PATCH, sizes.HIDDEN)

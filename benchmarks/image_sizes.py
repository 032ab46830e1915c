"""Sizes of the models of images that ``image_fit`` and ``image_sample`` time, here and in torch."""

SHAPE, LATENT, WIDTH, CHANNELS = (28, 28), 40, 512, 32
PATCH, FEATURES, HEADS, LAYERS, HIDDEN = 4, 64, 4, 4, 256
STEPS = 8  # of the sampler of ``diffusion``

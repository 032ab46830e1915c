"""What the latent coordinates of a model mean: moved events, classifiers of labels, and maps."""

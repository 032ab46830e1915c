"""Functions of normal distributions that ``Gaussian`` and ``GaussianMixture`` share.

Params are those of a ``Gaussian``: ``mean`` and a scale, whose name and shape depend on the
covariance (see ``covariances``). Those of a mixture have a leading axis of components.
"""

"""What models made of one other model take from it."""

from __future__ import annotations

from jaxgen.model import Model


class Wrapper(Model):
    """Base of models around another, which is their ``inner``: its facts are theirs."""

    @property
    def inner(self) -> Model:
        raise NotImplementedError(f"{type(self).__name__} must define inner")

    @property
    def event_shape(self):
        return self.inner.event_shape

    @property
    def y_shape(self):
        return self.inner.y_shape

    @property
    def y_support(self):
        return self.inner.y_support

    @property
    def classes(self):
        return self.inner.classes

    @property
    def density(self):
        return self.inner.density

    @property
    def support(self):
        return self.inner.support

    @property
    def tile(self):
        return self.inner.tile

    @property
    def scratch(self):
        return self.inner.scratch

    @property
    def learning_rate(self):
        return self.inner.learning_rate

    @property
    def fit_method(self):
        return self.inner.fit_method

    @property
    def keep(self):
        return self.inner.keep

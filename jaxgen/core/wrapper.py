"""What models made of one other model take from it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from jaxgen.core.model import Model


class Wrapper(Model):
    """Base of models around another, which is their ``inner``: its facts are theirs."""

    same_events: ClassVar[bool] = False  # are the events of ``inner`` those of the wrapper?

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

    def for_data(self, x, y=None, params=None):
        if params is not None:
            return self
        own = y if self.inner.y_shape is not None else None
        found = self.inner.for_data(x if self.same_events else None, own)
        fields = [f.name for f in dataclasses.fields(self)]
        changed = {name: found for name in fields if getattr(self, name) is self.inner}
        return self if found is self.inner else dataclasses.replace(self, **changed)

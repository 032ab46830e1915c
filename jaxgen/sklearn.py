"""scikit-learn estimators around any model, for pipelines, grid searches and cross-validation.

They need scikit-learn: ``pip install 'jaxgen[sklearn]'``. Their ``fit`` is ``jaxgen.fit``, and
``fitted_`` is the ``jaxgen.Fitted`` that it returns.

>>> from sklearn.pipeline import make_pipeline
>>> from sklearn.preprocessing import StandardScaler
>>> from jaxgen.sklearn import DensityEstimator
>>> density = DensityEstimator(jaxgen.models.GaussianMixture(components=2), random_state=0)
>>> make_pipeline(StandardScaler(), density).fit(x).score_samples(x).shape
(200,)
"""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import jax
import numpy as np

from jaxgen.compose import PerClass
from jaxgen.core import places
from jaxgen.core.model import Model
from jaxgen.core.places import Message
from jaxgen.core.spec import Spec
from jaxgen.core.template import Template, model_for_data
from jaxgen.models import Gaussian, GaussianMixture
from jaxgen.training.api import fit
from jaxgen.training.fitted import Fitted

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, ClusterMixin, DensityMixin
    from sklearn.utils import Tags, check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError("jaxgen.sklearn needs scikit-learn: pip install 'jaxgen[sklearn]'") from error

__all__ = ["Classifier", "Clusterer", "DensityEstimator"]

_JITTER = 1e-6  # of the default models, which are then fitted to constant features too


class _Estimator(BaseEstimator):
    """The arguments, the fit and the draws that the estimators share.

    ``set_params`` and grid searches also take the fields of the model, as "model__components".

    Args:
      model: a model; its number of features and of labels may be left out, as in ``Gaussian()``.
        None takes the default model of the estimator.
      options: arguments of ``jaxgen.fit`` by name, such as ``{"epochs": 50}``.
      random_state: a seed, a NumPy ``RandomState`` or None, as in scikit-learn.

    Attributes:
      fitted_: the ``jaxgen.Fitted``.
      n_features_in_, feature_names_in_: as in scikit-learn.
    """

    _default: Any = Gaussian(jitter=_JITTER)  # type: ignore[call-arg] # a template

    def __init__(
        self,
        model: Model | Template | None = None,
        *,
        options: dict[str, Any] | None = None,
        random_state: Any = None,
    ):
        self.model = model
        self.options = options
        self.random_state = random_state

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments by name; with ``deep``, also the fields of the model, as "model__dim"."""
        params = super().get_params(deep)
        return params | _nested("model", self.model) if deep else params

    def set_params(self, **params: Any) -> Self:
        """Set arguments by name, and fields of the model by names such as "model__components".

        Raises:
          ValueError: an argument or a field is unknown.
          TypeError: a field of the model has another type.
        """
        nested = {name: value for name, value in params.items() if name.startswith("model__")}
        super().set_params(**{k: v for k, v in params.items() if k not in nested})
        for name, value in nested.items():
            model = self._default if self.model is None else self.model
            self.model = _with_field(model, name.split("__")[1:], value, name)
        return self

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Draws from the model, (n_samples, n_features)."""
        check_is_fitted(self)
        return np.asarray(self.fitted_.sample(_key(random_state), n_samples))

    def _fit(self, X: Any, labels: Any, weights: Any) -> None:
        """Fit the model to X, which is validated."""
        options = {"progress": False} | (self.options or {})
        key = _key(self.random_state)
        self.fitted_: Fitted = fit(self._spec(), X, labels, key=key, weights=weights, **options)
        names = getattr(self, "feature_names_in_", None)
        self.fitted_.columns = None if names is None else tuple(names)

    def _validated(self, X: Any, y: Any = "no_validation", *, reset: bool = False) -> Any:
        """X as floats (n_samples, n_features), with NaN only if the model takes missing values.

        With y, a tuple of X and y.
        """
        if not reset:
            check_is_fitted(self)
        finite = "allow-nan" if self._knows_missing_values() else True
        floats = (np.float64, np.float32)
        return validate_data(self, X, y, reset=reset, dtype=floats, ensure_all_finite=finite)

    def _spec(self) -> Any:
        if self.model is None:
            return self._default
        if not isinstance(self.model, (Model, Template)):
            raise TypeError(f"model must be a model such as Gaussian(), got {self.model!r:.60}")
        return self.model

    def _knows_missing_values(self) -> bool:
        try:
            features = getattr(self, "n_features_in_", 2)
            model = model_for_data(self._spec(), np.zeros((2, features)), np.arange(2))
        except (TypeError, ValueError):  # it suits other data, or none
            return False
        return model.learning.missing is not None

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._knows_missing_values()
        return tags


class DensityEstimator(DensityMixin, _Estimator):
    """Any model p(x) as a scikit-learn estimator, like ``sklearn.neighbors.KernelDensity``.

    The default model is a ``Gaussian``. Arguments and attributes are those of ``Clusterer``.

    >>> from jaxgen.sklearn import DensityEstimator
    >>> DensityEstimator(jaxgen.models.KDE()).fit(x).sample(5).shape
    (5, 2)
    """

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the model to X (n_samples, n_features); y is ignored."""
        self._fit(self._validated(X, reset=True), None, sample_weight)
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """The log density of each row of X, (n_samples,), in nats."""
        X = self._validated(X)
        return np.asarray(self.fitted_.log_prob(X))

    def score(self, X: Any, y: Any = None) -> float:
        """The mean log density of the rows of X, in nats."""
        return float(self.score_samples(X).mean(dtype=np.float64))

    def aic(self, X: Any) -> float:
        """Akaike's information criterion of X; lower is better."""
        X = self._validated(X)
        return self.fitted_.aic(X)

    def bic(self, X: Any) -> float:
        """The Bayesian information criterion of X; lower is better."""
        X = self._validated(X)
        return self.fitted_.bic(X)


class Clusterer(ClusterMixin, DensityEstimator):
    """A mixture as a scikit-learn clusterer, whose clusters are the components.

    Args:
      model: a model with components, such as ``GaussianMixture(components=3)``, whose number of
        features may be left out. None takes ``GaussianMixture(components=8)``.
      options: arguments of ``jaxgen.fit`` by name, such as ``{"restarts": 5}``.
      random_state: a seed, a NumPy ``RandomState`` or None, as in scikit-learn.

    Attributes:
      fitted_: the ``jaxgen.Fitted``.
      labels_: the component of each row of the data, (n_samples,).
      weights_: the weights of the components, (components,), if the model has ``weights``.
      means_: their means, (components, n_features), if the model has ``means``.
      covariances_: their covariances, (components, n_features, n_features) for every kind of
        covariance, if the model has ``covariances``.
      n_features_in_, feature_names_in_: as in scikit-learn.

    >>> from jaxgen.sklearn import Clusterer
    >>> Clusterer(jaxgen.models.GaussianMixture(components=2)).fit_predict(x).shape
    (200,)
    """

    _default = GaussianMixture(components=8)  # type: ignore[call-arg] # a template

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the mixture to X (n_samples, n_features); y is ignored."""
        X = self._validated(X, reset=True)
        self._fit(X, None, sample_weight)
        self.labels_ = self._clusters(X)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The most probable component of each row of X, (n_samples,)."""
        return self._clusters(self._validated(X))

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each component given each row of X, (n_samples, components)."""
        X = self._validated(X)
        return np.asarray(self.fitted_.responsibilities(X))

    @property
    def weights_(self) -> np.ndarray:
        """The weights of the components, (components,)."""
        return self._of_components("weights")

    @property
    def means_(self) -> np.ndarray:
        """The means of the components, (components, n_features)."""
        return self._of_components("means")

    @property
    def covariances_(self) -> np.ndarray:
        """The covariances of the components, (components, n_features, n_features)."""
        return self._of_components("covariances")

    def _of_components(self, name: str) -> np.ndarray:
        check_is_fitted(self)
        found = getattr(self.fitted_.model, name, None)
        if found is None:
            raise AttributeError(f"{name}_ is not known: {self.fitted_.model} has no {name}")
        return np.asarray(found(self.fitted_.params))

    def _clusters(self, X: Any) -> np.ndarray:
        return _most_probable(np.asarray(self.fitted_.responsibilities(X)))


class Classifier(ClassifierMixin, _Estimator):
    """Any model p(x|y) as a scikit-learn classifier: p(y|x) follows from it by Bayes' rule.

    Args:
      model: a model of labels, such as ``compose.Labelled(SplineCoupling())``, or a model p(x),
        which each class gets with its own params (``compose.PerClass``). None takes ``Gaussian``.
      options: arguments of ``jaxgen.fit`` by name, such as ``{"epochs": 50}``.
      random_state: a seed, a NumPy ``RandomState`` or None, as in scikit-learn.

    Attributes:
      fitted_: the ``jaxgen.Fitted``; its labels are the indices of ``classes_``.
      classes_: the classes, (n_classes,).
      n_features_in_, feature_names_in_: as in scikit-learn.

    >>> from jaxgen.sklearn import Classifier
    >>> Classifier().fit(x, y).predict_proba(x).shape
    (200, 3)
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model to X (n_samples, n_features) and its classes y (n_samples,)."""
        X, y = self._validated(X, y, reset=True)
        check_classification_targets(y)
        if sample_weight is not None:  # a class without weight is no class
            sample_weight = np.asarray(sample_weight)
            weighted = sample_weight != 0
            if weighted.shape == (len(X),) and weighted.any():
                X, y, sample_weight = X[weighted], y[weighted], sample_weight[weighted]
        self.classes_, labels = np.unique(y, return_inverse=True)
        self._fit(X, labels, sample_weight)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row of X, (n_samples,).

        Raises:
          ValueError: a row has zero density under every class.
        """
        columns = _most_probable(self.predict_log_proba(X))
        return self.classes_[columns]

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class given each row of X, (n_samples, n_classes).

        It is NaN for a row that has zero density under every class.
        """
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The log probability of each class given each row of X, (n_samples, n_classes)."""
        X = self._validated(X)
        return np.asarray(self.fitted_.classify(X))

    def _spec(self) -> Any:
        model = super()._spec()
        return model if _has_labels(model) else PerClass(model)


def _most_probable(probabilities: np.ndarray) -> np.ndarray:
    """The column of the largest entry in each row; raises for a row of NaN."""
    unknown = np.isnan(probabilities).any(1)
    if unknown.any():
        where = places.row(unknown.argmax())
        raise ValueError(
            Message("X must lie in the support of the model; ", where, " has zero density")
        )
    return probabilities.argmax(1)


def _has_labels(model: Any) -> bool:
    if isinstance(model, Template):
        return model.has_field("classes")
    return model.classes is not None


def _nested(name: str, spec: Any) -> dict[str, Any]:
    """The fields of a spec, and of the specs in them, by names such as "model__components"."""
    found: dict[str, Any] = {}
    for field, value in _fields(spec).items():
        found[f"{name}__{field}"] = value
        found |= _nested(f"{name}__{field}", value)
    return found


def _with_field(spec: Any, path: list[str], value: Any, name: str) -> Any:
    """The spec with another value of the field that the path leads to."""
    field, *rest = path
    fields = _fields(spec)
    follows = isinstance(spec, Template) and spec.has_field(field)  # such as dim, from data
    if field not in fields and not follows:
        raise ValueError(
            f"Invalid parameter {name!r}: {spec!r:.80} has the fields {', '.join(fields) or '()'}"
        )
    changed = _with_field(fields.get(field), rest, value, name) if rest else value
    if isinstance(spec, Template):
        return spec.replace(**{field: changed})
    return dataclasses.replace(spec, **{field: changed})


def _fields(spec: Any) -> dict[str, Any]:
    """The values of the fields of a spec or of a template; none of any other value."""
    if isinstance(spec, Template):
        return spec.fields()
    if not isinstance(spec, Spec):
        return {}
    return {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}  # type: ignore[arg-type]


def _key(random_state: Any) -> jax.Array:
    """A JAX key that follows from a seed or state of scikit-learn."""
    return jax.random.key(check_random_state(random_state).randint(2**31))

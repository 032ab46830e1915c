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

from typing import Any, Self

import jax
import numpy as np

from jaxgen.compose import PerClass
from jaxgen.core import places
from jaxgen.core.model import Model
from jaxgen.core.places import Message
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


def _key(random_state: Any) -> jax.Array:
    """A JAX key that follows from a seed or state of scikit-learn."""
    return jax.random.key(check_random_state(random_state).randint(2**31))

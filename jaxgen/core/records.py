"""Records in which a model states how it is learnt and how it is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from jaxgen.core.spec import Params

Method = Literal["closed_form", "em", "gradient", "mcmc"]
TOGETHER = 2  # of ``Learning.rescalable``: features that have to share one scale


class Learning(NamedTuple):
    """How ``fit`` learns a model.

    Attributes:
      method: "closed_form" calls ``estimate``, "em" repeats ``em_step``, "gradient" minimises
        ``loss``, and "mcmc" calls ``hooks.draw_posteriors``.
      keep: which params a fit by gradients returns, those of the best epoch or of the last.
      rate: peak learning rate of the optimizer that ``fit`` takes by default.
      batch_size: rows in a minibatch that ``fit`` takes by default.
      frozen: names of the params that gradients must not change, such as bounds; "a/b" is within
        nested params.
      missing: how ``fit`` learns from missing values (NaN in x); None if it cannot. A model that
        sets it takes the argument ``observed`` in ``log_prob``, ``estimate`` and ``em_step``, and
        defines ``complete``.
      rescalable: whether ``rescale`` can change the units of the features: one answer, or an array
        of the event's shape with one for each feature. ``TOGETHER`` marks features that have to
        share one scale, as those of a spherical normal.
      noise: pytree of noise leaves (see ``jaxgen.random``) that the loss of one event takes, drawn
        anew at each step. An ``Events`` leaf is the number of events that are learnt from, by which
        a loss can weigh a prior of the params.
      hooks: steps that the model adds to ``fit``; None for most models.

    >>> jaxgen.Learning("closed_form", frozen=("low", "high")).keep
    'best'
    """

    method: Method = "gradient"
    keep: Literal["best", "last"] = "best"
    rate: float = 5e-3
    batch_size: int = 256
    frozen: tuple[str, ...] = ()
    missing: Literal["closed_form", "em"] | None = None
    rescalable: int | np.ndarray = False
    noise: Any = ()
    hooks: Hooks | None = None


class Traits(NamedTuple):
    """The requests that a model answers (the first five), and facts that make it fast.

    Attributes:
      density: what ``log_prob`` returns: the exact log density, an estimate of it, a lower bound on
        it (in expectation, if it is random), or none at all.
      reparameterized: whether gradients pass through samples.
      invertible: whether ``pull`` works; None if that follows from the class defining it.
      components: a ``Components``, for a mixture, whose responsibilities a user may ask for; None
        for a model that has no components.
      degrees_of_freedom: a function of the params, of which it reads the shapes alone, that counts
        the free numbers in them; None if all numbers count that are not frozen.
      elementwise: whether ``push`` reads each noise scalar once, so that XLA can fuse the two.
      row_major: whether ``push`` is faster if the numbers of an event's noise lie side by side in
        memory, as for work on whole events; work on single features wants those of a feature so.
      guarded: whether ``log_prob`` itself is NaN where x holds NaN and -inf where x is infinite,
        with gradients that are not NaN, so that rows need not be read once more for that.
      tile: rows that a network takes at once on a CPU core; None for all of them.
      draw_tile: rows that a draw takes at once, if that is another number.
      scratch: scalars that scoring one event holds in memory, beside the event.
      log_prob_and_k: for a density by importance sampling, a function like ``log_prob`` that
        returns log p and the Pareto k of the weights.
      log_weights: for a density by importance sampling, a function like ``log_prob`` that returns
        the log weights of the draws, (draws,), of which log p is the log of the mean.
      support_at: for a support that depends on params, such as bounds, a function of the params
        that returns it as a NumPyro constraint; None if ``support`` is the support.
      covariates: names of the numbers in y, for a model whose conditions have names.
      token_log_probs: for a model of sequences, a function like ``log_prob`` that returns log p of
        each entry of x given those before it, which sum to log p(x).
      bijector: for a model whose events are x = f(z) with f a bijector, the functions ``forward``
        and ``inverse`` of f, like those of ``jaxgen.bijectors.Bijector`` but with the params of the
        model; None for other models.
      changeable: names of the fields that may change after a fit (``Fitted.replace``), as neither
        the params nor what they mean depend on them.

    >>> jaxgen.Traits(reparameterized=True).density
    'exact'
    """

    density: Literal["exact", "estimate", "bound", "none"] = "exact"
    reparameterized: bool = False
    invertible: bool | None = None
    components: Any = None
    degrees_of_freedom: Callable[[Params], int] | None = None
    elementwise: bool = False
    row_major: bool = False
    guarded: bool = False
    tile: int | None = None
    draw_tile: int | None = None
    scratch: int = 0
    log_prob_and_k: Any = None
    log_weights: Any = None
    support_at: Any = None
    covariates: Covariates | None = None
    token_log_probs: Any = None
    bijector: tuple[Callable[..., Any], Callable[..., Any]] | None = None
    changeable: tuple[str, ...] = ()


class Covariates(NamedTuple):
    """Names of a model's conditions, of which y is an array.

    Attributes:
      names: the name of each covariate.
      from_table: a function from a table of covariates (see ``jaxgen.core.dataframes``), which may
        have other columns too, to y (..., *y_shape).
      roles: a sentence that says which of the model's arguments is x and which are y, for errors.
    """

    names: tuple[str, ...]
    from_table: Callable[[Any], Any]
    roles: str


class Components(NamedTuple):
    """The components of a mixture, p(x) = sum_k w_k p_k(x).

    Attributes:
      count: number of components.
      joint: function of (params, x, y, observed) that returns log w_k + log p_k(x) of one event,
        (count,), in nats. y and observed may be left out.
      which: function of (params, noise, y) that returns the index of the component whose event
        ``push`` makes of the noise. y may be left out.
      sizes: how the family gives mixtures with other numbers of components; None if it does not.
      collapsed: function of params and rows x (n, *event_shape) that returns whether a component
        has collapsed onto equal rows, so that its likelihood means little; None if the family
        cannot tell.

    >>> mixture = jaxgen.models.GaussianMixture(2, components=3)
    >>> components, params = mixture.traits.components, mixture.init(key)
    >>> joint = components.joint(params, jnp.zeros(2))
    >>> components.count, jax.nn.softmax(joint).shape
    (3, (3,))
    """

    count: int  # type: ignore[assignment]
    joint: Callable[..., Any]
    which: Callable[..., Any]
    sizes: Sizes | None = None
    collapsed: Callable[[Any, Any], bool] | None = None


class Sizes(NamedTuple):
    """Mixtures of one family with other numbers of components, which can share programs.

    A smaller mixture is a larger one in which some components have no weight (logits of -inf), and
    ``em_step`` leaves them without.

    Attributes:
      model: function of a number of components that returns the mixture.
      resize: function of (params, count) that cuts the last components off, or adds components
        without weight.
      init: function of (count, key, x, y) like the mixture's ``init``, where all but the first
        ``count`` components have no weight.
    """

    model: Callable[[int], Any]
    resize: Callable[[Params, int], Params]
    init: Callable[..., Params]


class Hooks(Protocol):
    """Steps that a model adds to ``fit``, and a warning that it adds to scores.

    All run on the host, outside of every trace.
    """

    def for_data(self, x: Any, y: Any = None) -> Any:
        """The model to fit to these rows, called before anything is computed.

        x is a NumPy array (n, *event_shape), or None where only y is known.

        Raises:
          ValueError: the model cannot be fitted to them.
        """

    def prepare(self, params: Params, x: Any, y: Any, weights: Any) -> Params:
        """Params to start training by gradients from, made of those of ``init``.

        x and y are JAX arrays of all rows; weights (n,) sum to the number of events, and rows
        without weight are padding.
        """

    def check_fitted(self, params: Params, x: Any, y: Any = None) -> None:
        """Raise ValueError if the model does not suit the rows at its fitted params."""

    def diagnose(
        self, params: Params, x: Any, y: Any, weights: Any, key: Any, scores: Any
    ) -> tuple[dict[str, Any], str]:
        """Entries for the history after training by gradients, and a warning, or "" for none.

        x, y and weights are those of ``prepare``; scores (epochs,) are the mean scores of the
        training rows, in nats.
        """

    def warn_of_tails(self, k: Any) -> None:
        """Warn of rows whose density estimate cannot be trusted, by the Pareto k (n,) of them."""

    def draw_posteriors(
        self, keys: Any, data: list[Any], progress: bool | None = None
    ) -> tuple[Params, list[dict[str, Any]]]:
        """Params that hold draws of posteriors, for the method "mcmc", and their histories.

        keys are (fits,); data is a list of (x, y, weights) with as many rows in each. The params
        have a leading axis of fits.
        """

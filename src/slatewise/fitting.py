"""Choice models from clicks: the likelihood of what users did, and the model that makes it largest."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from slatewise.choice import NAMES, Affinity, Bilinear, Choice, InnerProduct, PositionBased
from slatewise.errors import InputError, unknown_name
from slatewise.interactions import Interactions

LEAST = 1e-300  # probability that a click which cannot be is given while fitting
ITERATIONS = 2000
SINGULAR = 1e-10  # smallest eigenvalue of the scaled curvature below which parameters are not determined
HELD = InnerProduct(0)  # stands where a model needs an affinity and its scores are known


def log_likelihood(choice: Choice, scores: Tensor, clicked: Tensor, mask: Tensor) -> Tensor:
    """Return the log-probability of what was clicked, float64 [B]; −∞ for what cannot be.

    scores: [B, K] of the shown items.  clicked: bool [B, K].  mask: bool [B, K], false for holes.
    Raises InputError for clicks on holes, and for more than one click under a single-choice model.
    """
    _check_clicks(choice.name, clicked, mask)
    return click_log_likelihood(choice, scores.double(), clicked, mask, least=0.0)


@dataclass(frozen=True)
class Fit:
    """A fitted choice model.

    log_likelihood: mean over rows, without the penalty.  slope: the largest absolute derivative that is left, of the
    penalised mean log-likelihood: 0 at the optimum, except where a cascade's probabilities are cut at 1.
    parameters, standard_errors: what was fitted, by name, and its standard errors from the curvature at the optimum
    (empty unless asked for); see `fit` for the names.
    """

    choice: Choice
    log_likelihood: float
    slope: float
    rows: int
    parameters: dict[str, Tensor]
    standard_errors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


def fit(
    name: str,
    interactions: Interactions,
    affinity: Affinity | None = None,
    penalty: float = 1.0,
    standard_errors: bool = False,
) -> Fit:
    """Fit a choice model to what users clicked, by penalised maximum likelihood (L-BFGS in float64, no randomness).

    affinity: None fits uᵀWd + w·d + b from all user and item features; one that is given is held, and only the
    constants are fitted.  penalty: of ½ (‖W‖² + ‖w‖²), a normal prior of variance 1 / penalty; constants have none.
    Fitted, as in `Fit.parameters`: `weights` W [U, E + D] and `items` w [E + D], and
    - `logit`: `no_click`; b is 0, because only its difference from no_click shows.
    - `proportional`: `no_click`, for a given affinity.
    - `exponential-cascade`, `proportional-cascade` (of a given affinity): `scaling`; attention stays 0.65 and b is 0,
      because only attention · scaling · exp(b) shows.
    - `position-based`: `examination` [K]. With a fitted affinity also `bias` b, and the first position's is 1: only
      the ratios of examination probabilities show, and the first is taken to be looked at most.
    Raises InputError for what is not interactions, for a model that cannot be fitted so, for clicks that it does not
    allow, and for standard errors of parameters that the clicks do not determine.
    """
    given = cast(object, interactions)  # a log, say, which only the type would refuse
    if not isinstance(given, Interactions):
        raise InputError(
            f"interactions is a {type(given).__name__}: a choice model is fitted to interactions, of a log log.read()"
        )
    problem = _problem(name, interactions, affinity, penalty)
    theta = _maximised(problem)
    leaf = theta.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(problem.loss(leaf), leaf)
    with torch.no_grad():
        parts = {key: part.clone() for key, part in problem.parameters(theta).items()}
        likelihood = float(problem.log_likelihood(theta).mean())
    errors = _standard_errors(problem, theta) if standard_errors else {}
    return Fit(
        as_data(name, affinity, parts), likelihood, float(gradient.abs().max()), len(interactions), parts, errors
    )


@dataclass(frozen=True, eq=False)
class _Problem:
    """What is fitted: a flat vector θ, cut into named parts, each transformed into a parameter.

    features: [B, K, F] of the shown items.  scores: [B, K], of an affinity that is held; then features are unused.
    """

    name: str
    user: Tensor
    features: Tensor
    scores: Tensor | None
    clicked: Tensor
    mask: Tensor
    penalty: float
    start: dict[str, Tensor]

    def parts(self, theta: Tensor) -> dict[str, Tensor]:
        """Cut θ into its parts."""
        sizes = [part.numel() for part in self.start.values()]
        return {key: t.view_as(self.start[key]) for key, t in zip(self.start, theta.split(sizes), strict=True)}

    def parameters(self, theta: Tensor) -> dict[str, Tensor]:
        """Return the parameters, on their own scales."""
        key, transform = CONSTANTS[self.name]
        return {name: transform(part) if name == key else part for name, part in self.parts(theta).items()}

    def log_likelihood(self, theta: Tensor) -> Tensor:
        """Return the log-probability of each row [B], differentiable in θ."""
        values = self.parameters(theta)
        scores = self.scores
        if scores is None:
            wanted = self.user @ values["weights"] + values["items"]
            scores = torch.einsum("bf,bkf->bk", wanted, self.features) + values.get("bias", 0.0)
        return click_log_likelihood(model_of(self.name, HELD, values), scores, self.clicked, self.mask, LEAST)

    def loss(self, theta: Tensor) -> Tensor:
        """Return what is minimised: the mean over rows of −log-likelihood, and the penalty's share."""
        parts = self.parts(theta)
        squares = [parts[key].square().sum() for key in ("weights", "items") if key in parts]
        likelihood = self.log_likelihood(theta)
        return -likelihood.mean() + self.penalty / 2 / len(likelihood) * sum(squares, torch.zeros_like(theta[0]))


# The constants of a model that are fitted, and how they come from the whole line to where they live.
CONSTANTS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "logit": ("no_click", torch.clone),
    "proportional": ("no_click", torch.exp),
    "exponential-cascade": ("scaling", torch.exp),
    "proportional-cascade": ("scaling", torch.exp),
    "position-based": ("examination", torch.sigmoid),
}


def _problem(name: str, interactions: Interactions, affinity: Affinity | None, penalty: float) -> _Problem:
    if name not in NAMES:
        raise unknown_name("choice model", name, NAMES)
    if name not in CONSTANTS:
        raise InputError(f"{name} has nothing to fit: fit {', '.join(CONSTANTS)}")
    if affinity is None and name in ("proportional", "proportional-cascade"):
        other = "logit" if name == "proportional" else "exponential-cascade"
        raise InputError(f"{name} needs scores above −shift, which a fitted affinity does not keep: fit {other}")
    if penalty < 0:
        raise InputError(f"penalty={penalty}: it must not be negative")
    if len(interactions) == 0:
        raise InputError("there are no interactions to fit a choice model to")
    observation, slate = interactions.observation, interactions.decision.slate
    features = observation.features(slate).double()
    scores = affinity(observation).gather(1, slate.clamp(min=0)).double() if affinity is not None else None
    start: dict[str, Tensor] = {}
    if affinity is None:
        sizes = observation.user.shape[1], features.shape[2]
        start = {"weights": features.new_zeros(sizes), "items": features.new_zeros(sizes[1])}
    # Of a fitted position-based model the first position is looked at for certain.
    slots = slate.shape[1] - (affinity is None)
    constants = features.new_zeros(slots if name == "position-based" else ())
    start[CONSTANTS[name][0]] = constants - 3 if "cascade" in name else constants
    if name == "position-based" and affinity is None:
        start["bias"] = features.new_zeros(())
    clicked, mask = interactions.response.clicked, slate >= 0
    _check_clicks(name, clicked, mask)
    return _Problem(name, observation.user.double(), features, scores, clicked, mask, penalty, start)


def model_of(name: str, affinity: Affinity, values: dict[str, Tensor]) -> Choice:
    """Return the choice model of some parameters, whose constants stay tensors.

    So a fit differentiates the formulas of `choice` themselves.
    """
    key = CONSTANTS[name][0]
    constant = values[key]
    if "bias" in values:
        constant = torch.cat([constant.new_ones(1), constant])
    return cast(Any, NAMES[name])(affinity, **{key: constant})


def as_data(name: str, affinity: Affinity | None, values: dict[str, Tensor]) -> Choice:
    """Return the choice model of some parameters as data: numbers, not tensors."""
    if affinity is None:
        weights = tuple(tuple(row) for row in cast(list[list[float]], values["weights"].tolist()))
        affinity = Bilinear(weights, tuple(values["items"].tolist()), float(values.get("bias", 0.0)))
    model = model_of(name, affinity, values)
    key = CONSTANTS[name][0]
    constant = cast(Tensor, getattr(model, key))
    return replace(cast(Any, model), **{key: tuple(constant.tolist()) if constant.ndim else float(constant)})


def _check_clicks(name: str, clicked: Tensor, mask: Tensor) -> None:
    hole = (clicked & ~mask).any(1)
    if bool(hole.any()):
        raise InputError(f"row {int(hole.nonzero()[0])} has a click on a hole of its slate: clear it")
    several = clicked.sum(1) > 1
    if name != PositionBased.name and bool(several.any()):
        row = int(several.nonzero()[0])
        raise InputError(
            f"row {row} has {int(clicked[row].sum())} clicks, and under {name} a user consumes at most one item "
            f"({int(several.sum())} rows are affected): use position-based"
        )


def click_log_likelihood(choice: Choice, scores: Tensor, clicked: Tensor, mask: Tensor, least: float = LEAST) -> Tensor:
    """Return `log_likelihood`, differentiable and unchecked: probabilities are `least` at least."""
    if isinstance(choice, PositionBased):
        click = choice.click_probabilities(scores, mask)
        return torch.where(clicked, click, 1 - click).clamp(min=least).log().sum(1)
    nothing = ~clicked.any(1, keepdim=True)
    chosen = torch.cat([clicked, nothing], 1)
    return choice.probabilities(scores, mask).masked_fill(~chosen, 0.0).sum(1).clamp(min=least).log()


def _maximised(problem: _Problem) -> Tensor:
    """Return θ of the smallest loss, from where the problem starts."""
    theta = torch.cat([part.flatten() for part in problem.start.values()]).requires_grad_(True)
    optimiser = torch.optim.LBFGS(
        [theta],
        max_iter=ITERATIONS,
        max_eval=2 * ITERATIONS,
        tolerance_grad=1e-7,
        tolerance_change=1e-16,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = problem.loss(theta)
        loss.backward()
        return loss

    optimiser.step(cast(Any, closure))
    return theta.detach()


def _standard_errors(problem: _Problem, theta: Tensor) -> dict[str, Tensor]:
    """Return the errors of the parameters, from the inverse of the curvature of the penalised log-likelihood."""
    rows = len(problem.clicked)
    curvature = cast(Tensor, torch.autograd.functional.hessian(problem.loss, theta)) * rows
    scale = curvature.diagonal().clamp(min=1e-300).sqrt()
    alike = curvature / scale.outer(scale)  # of diagonal 1, whatever the units of the features
    if not bool(alike.isfinite().all()) or float(torch.linalg.eigvalsh(alike)[0]) < SINGULAR:
        raise InputError(
            f"no standard errors: these clicks do not determine every parameter of {problem.name} (features may be "
            f"constant, or repeat each other): raise the penalty above {problem.penalty:g}, or give more rows"
        )
    variance = torch.linalg.inv(alike).diagonal() / scale.square()
    _, slopes = torch.autograd.functional.jvp(
        lambda t: torch.cat([part.flatten() for part in problem.parameters(t).values()]), theta, torch.ones_like(theta)
    )
    errors = cast(Tensor, slopes).abs() * variance.sqrt()
    return {key: part.clone() for key, part in problem.parts(errors).items()}

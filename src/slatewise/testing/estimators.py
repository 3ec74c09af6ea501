"""`check_estimator`: what every off-policy estimator promises, asked on a population small enough to enumerate.

The population is a log in which every action of every context occurs exactly as often as the logging policy shows it,
with its mean reward: what an estimator says of it is what it would say of endless data.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from slatewise.estimators import Estimator
from slatewise.testing.base import Broken, ask

LOGGED = ((6, 3, 2, 1), (1, 2, 3, 6))  # how often each action was shown, by context
TARGET = ((0.1, 0.2, 0.3, 0.4), (0.7, 0.1, 0.1, 0.1))
GROUPS = (0, 0, 1, 1)  # of actions, equal in reward
EXACT = 1e-12


class Population:
    """Rewards, weights and predictions of every decision, [B], and the truth."""

    def __init__(self, estimator: Estimator, seed: int, shift: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        counts, target = torch.tensor(LOGGED), torch.tensor(TARGET, dtype=torch.float64)
        logged = counts.double() / counts.sum(1, keepdim=True)
        of_group = shift + torch.randn(len(LOGGED), 2, generator=generator, dtype=torch.float64)
        rewards = of_group[:, list(GROUPS)]
        self.model = torch.randn(target.shape, generator=generator, dtype=torch.float64)
        weights = target / logged
        if estimator.marginal:
            same = torch.tensor(GROUPS).unsqueeze(0) == torch.tensor(GROUPS).unsqueeze(1)
            weights = (target @ same.double()) / (logged @ same.double())
        self.context, self.action = (x.repeat_interleave(counts.flatten()) for x in _cells(target))
        self.reward, self.weights = rewards[self.context, self.action], weights[self.context, self.action]
        self.rewards, self.target = rewards, target
        self.truth = float((target * rewards).sum(1).mean())

    def ask(self, estimator: Estimator, model: Tensor | None = None, parameter: float = math.inf) -> float:
        """Return what an estimator says, with a wrong model unless one is given, [contexts, actions]."""
        predictions = self.model if model is None else model
        predicted, at_target = predictions[self.context, self.action], (self.target * predictions).sum(1)[self.context]
        return float(estimator.value(self.reward, self.weights, predicted, at_target, parameter))


def _cells(target: Tensor) -> tuple[Tensor, Tensor]:
    contexts, actions = target.shape
    cell = torch.arange(contexts * actions)
    return cell // actions, cell % actions


def check_estimator(estimator: Estimator, seed: int = 1) -> dict[str, str]:
    """Ask an off-policy estimator for everything that estimators promise.

    Returns the promises, each with "kept" or why it could not be asked.
    Raises ContractError at the first broken promise: which, the smallest example, and what to do.
    """
    return ask(estimator.source, {promise: partial(check, estimator, seed) for promise, check in PROMISES.items()})


def _unbiased(estimator: Estimator, seed: int) -> str | None:
    population = Population(estimator, seed)
    if estimator.weighting(torch.ones(1, dtype=torch.float64), math.inf).item() != 1:
        return "it does not use weights"
    said = population.ask(estimator)
    if abs(said - population.truth) > EXACT:
        raise Broken(
            f"on endless data it says {said:.6g}, with unchanged weights and a wrong model; the value is "
            f"{population.truth:.6g}",
            "Correct the model by the weighted rest, and divide by the number of decisions or the sum of weights",
        )
    return None


def _true_model(estimator: Estimator, seed: int) -> str | None:
    if not estimator.modelled:
        return "it has no model"
    population = Population(estimator, seed)
    for parameter in estimator.grid or (math.inf,):
        said = population.ask(estimator, population.rewards, parameter)
        if abs(said - population.truth) > EXACT:
            raise Broken(
                f"with the true model and parameter {parameter:g} it says {said:.6g} of {population.truth:.6g}",
                "Weigh nothing but the rest that the model leaves over",
            )
    return None


def _constant(estimator: Estimator, seed: int) -> str | None:
    if not (estimator.normalised or estimator.modelled):
        return "it is neither normalised nor has it a model"
    one, other = Population(estimator, seed), Population(estimator, seed, shift=100.0)
    shifted = other.ask(estimator, other.model + 100) - one.ask(estimator)
    if abs(shifted - 100) > 1e-9:
        raise Broken(
            f"100 more for every reward (and prediction) moves it by {shifted:.6g}",
            "Divide by the sum of the very weights that rewards are multiplied with",
        )
    return None


def _weighting(estimator: Estimator, seed: int) -> str | None:  # noqa: ARG001 - the signature of all checks
    weights = torch.tensor([0.0, 1e-9, 0.3, 1.0, 7.0, 1e6, 1e12], dtype=torch.float64)
    for parameter in (*estimator.grid, math.inf):
        used = estimator.weighting(weights, parameter)
        bad = ~((used >= 0) & (used <= weights * (1 + 1e-12)))
        if bool(bad.any()):
            at = int(bad.nonzero()[0])
            raise Broken(
                f"a weight of {float(weights[at]):g} becomes {float(used[at]):g} with parameter {parameter:g}",
                "Return weights between 0 and what they were",
            )
    return None


def _grid(estimator: Estimator, seed: int) -> str | None:  # noqa: ARG001 - the signature of all checks
    if not estimator.grid:
        return "it has no parameter"
    weights = torch.tensor([0.3, 1.0, 7.0, 1e3], dtype=torch.float64)
    if list(estimator.grid) != sorted(estimator.grid) or not torch.equal(
        estimator.weighting(weights, estimator.grid[-1]), weights
    ):
        raise Broken(
            f"its grid is {estimator.grid}", "Let it rise, and end with a value that leaves weights as they are"
        )
    return None


def _rows(estimator: Estimator, seed: int) -> str | None:
    population = Population(estimator, seed)
    generator = torch.Generator().manual_seed(seed)
    before = [population.ask(estimator, parameter=p) for p in (*estimator.grid, math.inf)]
    order = torch.randperm(len(population.reward), generator=generator).repeat(2)
    for name in ("context", "action", "reward", "weights"):
        setattr(population, name, getattr(population, name)[order])
    after = [population.ask(estimator, parameter=p) for p in (*estimator.grid, math.inf)]
    worst = max(abs(a - b) for a, b in zip(before, after, strict=True))
    if worst > 1e-9:
        raise Broken(
            f"the same decisions twice, in another order, move it by {worst:.6g}", "Make it a function of means"
        )
    return None


PROMISES: dict[str, Callable[[Estimator, int], str | None]] = {
    "weights stay between 0 and what they were": _weighting,
    "the grid ends with unchanged weights": _grid,
    "with unchanged weights endless data give the value, whatever the model": _unbiased,
    "the true model gives the value, whatever the weights": _true_model,
    "a constant added to all rewards is added to the value": _constant,
    "neither the order of decisions nor copies of them matter": _rows,
}

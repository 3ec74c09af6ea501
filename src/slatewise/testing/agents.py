"""`check_agent`: what every agent promises, asked on a problem small enough to enumerate.

A check is a function of a problem: it returns None where the promise is kept, why it could not be asked, or raises
`Broken` with the smallest example.
"""

from collections.abc import Callable
from functools import partial

from slatewise.testing import deciding, learning
from slatewise.testing.base import ask, make_name
from slatewise.testing.problems import MakeAgent, MakeWorld, Problem, small_world

PROMISES: dict[str, Callable[[Problem], str | None]] = {
    "decisions are valid": deciding.valid,
    "observe counts steps, update returns metrics": learning.learns,
    "the process-wide generators are left alone": deciding.process_generators,
    "nobody writes on an observation": deciding.untouched,
    "without exploration one slate is certain": deciding.greedy,
    "a batch is decided as its rows one by one": deciding.batches,
    "the order of candidates does not matter": deciding.order,
    "propensities over all slates sum to 1": deciding.propensities,
    "probabilities of all candidates are the propensities of one": deciding.all_candidates,
    "slates are shown as often as their propensities say": deciding.frequencies,
    "importance weights of a random log average 1": deciding.weights,
    "masked candidates are never shown, and missing ones leave holes": deciding.masks,
    "every slate has the probability that explore_floor grants": deciding.floor,
    "a seed fixes every bit, whatever else draws": learning.seed,
    "saving and loading changes nothing": learning.saving,
    "rewards that are not known are left out or refused": learning.missing,
}


def check_agent(make: MakeAgent, world: MakeWorld = small_world, seed: int = 1) -> dict[str, str]:
    """Ask an agent for everything that agents promise, before and after it has learned something.

    make: called with a spec, a choice model (or None) and a seed: a class, or a function that gives it settings.
    world: called with `users` and `seed`, makes a world with few slates; by default interest evolution with 4
    candidates and slates of 2.
    Returns the promises, each with "kept" or why it could not be asked.
    Raises ContractError at the first broken promise: which, the smallest example, and what to do.
    """
    problem = Problem(make, world, seed)
    return ask(make_name(make), {promise: partial(check, problem) for promise, check in PROMISES.items()})

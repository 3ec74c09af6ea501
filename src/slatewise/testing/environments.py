"""`check_environment`: what every world promises.

A check is a function of a case: it returns None where the promise is kept, why it could not be asked, or raises
`Broken` with the smallest example.
"""

from collections.abc import Callable
from functools import partial

from slatewise.environments.base import Environment
from slatewise.testing import reproducing, sessions
from slatewise.testing import users as people
from slatewise.testing.base import ask, make_name
from slatewise.testing.worlds import Case

PROMISES: dict[str, Callable[[Case], str | None]] = {
    "the process-wide generators are left alone": reproducing.process_generators,
    "a seed fixes every bit, whatever else draws": reproducing.seed,
    "the spec says what is observed": sessions.spec,
    "a session is terminated or truncated, never both": sessions.ends,
    "every step is a valid record": sessions.valid,
    "episodes are unique and their steps count from 0": sessions.episodes,
    "finished users restart alone and keep their last observation": sessions.restarts,
    "totals and history are those of the session's responses": sessions.totals,
    "records stay what they were": sessions.memory,
    "a bad slate raises InputError and changes nothing": reproducing.bad_slates,
    "a snapshot continues to the bit": reproducing.snapshot,
    "the noise depends on no policy and no other user": reproducing.noise,
    "one user alone behaves as one of many": people.alone,
    "clicks follow the choice model": people.choice,
    "what it says of its users is what they do": people.oracle,
    "rules show valid slates": people.rules,
    "references have random and a ceiling": people.references,
    "its settings make the same world again": reproducing.settings,
}


def check_environment(
    make: Callable[..., Environment], users: int = 40, steps: int = 300, seed: int = 0
) -> dict[str, str]:
    """Ask a world for everything that worlds promise.

    make: called with `users` and `seed`: a class, or `functools.partial(MyWorld, horizon=5)` for other settings.
    users: of most walks.  steps: the longest walk; it stops when each user has finished a session on average.
    Returns the promises, each with "kept" or why it could not be asked.
    Raises ContractError at the first broken promise: which, the smallest example, and what to do.
    """
    case = Case(make, users, seed, steps)
    return ask(make_name(make), {promise: partial(check, case) for promise, check in PROMISES.items()})

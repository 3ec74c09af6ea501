"""The one error that users are meant to read."""

from collections.abc import Iterable
from difflib import get_close_matches

NO_RUN = "it is no run's folder either"  # of a policy that is neither a rule nor a run


class InputError(ValueError):
    """Bad input: the message names the argument, the value and the remedy."""


def unknown_name(kind: str, name: str, known: Iterable[str], also: str = "") -> InputError:
    """Return the error for a name that is not in a table, with the nearest known one; also: what else it is not."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(
        f"unknown {kind} {name!r}: {hint}known are {', '.join(names) or 'none'}{f', and {also}' if also else ''}"
    )


def check_seed(seed: int) -> None:
    """Raise InputError for a seed that generators do not take."""
    if not 0 <= seed < 2**63:
        raise InputError(f"seed={seed}: a seed lies between 0 and 2**63 - 1")

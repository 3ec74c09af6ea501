"""Who, when, and in which session: the order of the decisions of a table."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from slatewise.logs.table_columns import encoded, refuse, texts, times, user_ids
from slatewise.logs.table_mapping import TableMapping

Array = np.ndarray[Any, Any]
MINUTE = 60_000_000  # microseconds


@dataclass(frozen=True, eq=False)
class Moments:
    """Decisions in the order of a log: sessions by their start, each whole and in order of time.

    order: int64 [D], which decision comes where. The others, [D], are in that order: episode and step, whether a
    session ends here, user and time (or None).
    """

    order: Array
    episode: Array
    step: Array
    last: Array
    user: Array | None
    time: Array | None

    @staticmethod
    def of(mapping: TableMapping, table: dict[str, Any], slots: Array) -> "Moments":
        """Read users, times and sessions at the first of the rows of decisions, slots [D, K], −1 where there is none.

        A session is what has the same session and user, or a user's decisions without too long a gap; without either
        every decision is a session of its own. What has no time, or the same, stays in the order of the table.
        """
        first = slots[:, 0]
        rows = pa.array(first)
        user = user_ids(mapping.user, table[mapping.user]) if mapping.user else None
        if mapping.user and user is not None:
            _one_user(mapping.user, user, slots)
        time = times(mapping.time, table[mapping.time], mapping.time_unit) if mapping.time else None
        user, time = (None if values is None else values[first] for values in (user, time))
        when = np.arange(len(first)) if time is None else time
        session = np.arange(len(first))
        if mapping.session is not None:
            session = encoded(texts(mapping.session, table[mapping.session]).take(rows))[0]
            session = session if user is None else _pairs(session, user)
        elif mapping.session_gap is not None and user is not None:
            session = _without_gaps(user, when, mapping.session_gap * MINUTE)
        episode = _by_start(session, when)
        order = np.lexsort((when, episode))
        new = _new(episode[order])
        starts = np.flatnonzero(new)
        step = np.arange(len(first)) - starts[np.cumsum(new) - 1]
        last = np.concatenate([new[1:], [True]])
        at = (None if values is None else values[order] for values in (user, time))
        return Moments(order, episode[order], step, last, *at)


def _one_user(name: str, user: Array, slots: Array) -> None:
    """Raise InputError, naming rows, for decisions of several users: ids that are counted anew for each, say."""
    other = slots[(user[slots] != user[slots[:, :1]]) & (slots >= 0)]
    bad = np.zeros(len(user), np.bool_)
    bad[other] = True
    refuse(name, "differs from the first row of its decision", bad, "give every decision an id that no other user has")


def _pairs(session: Array, user: Array) -> Array:
    return np.unique(np.stack([session, user], 1), axis=0, return_inverse=True)[1].reshape(-1)


def _without_gaps(user: Array, time: Array, gap: float) -> Array:
    """Number the stretches of a user's decisions that no gap interrupts."""
    order = np.lexsort((time, user))
    new = _new(user[order])
    new[1:] |= np.diff(time[order]) > gap
    session = np.empty(len(user), np.int64)
    session[order] = np.cumsum(new)
    return session


def _by_start(session: Array, when: Array) -> Array:
    """Number sessions anew, in order of their first decisions."""
    order = np.argsort(when, kind="stable")
    _, first, which = np.unique(session[order], return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    episode = np.empty(len(session), np.int64)
    episode[order] = rank[which.reshape(-1)]
    return episode


def _new(sorted_values: Array) -> Array:
    """Return where a value differs from the one before, the first included."""
    return np.concatenate([[True], sorted_values[1:] != sorted_values[:-1]])

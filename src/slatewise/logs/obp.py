"""The dictionaries of Open Bandit Pipeline (Saito et al. 2021, arXiv 2008.07146), called bandit feedback there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slatewise.errors import InputError
from slatewise.interactions import Catalogue, Decision, Interactions, Observation, Response, Spec
from slatewise.logs.log import Log
from slatewise.logs.writer import LogWriter

Array = np.ndarray[Any, Any]
EXPECTED = "expected_reward"
POSITION = "position_"


def from_obp(feedback: Mapping[str, Any], out: str | Path, overwrite: bool = False) -> Log:
    """Write bandit feedback of Open Bandit Pipeline to `out` as a log of single decisions, and return it.

    Keys: `n_rounds`, `n_actions`, `context` [n, d], `action` [n], `reward` [n], `pscore` [n]; if they are there and not
    None, `action_context` [A, e] (else one-hot), `position` [n] (from 0), `expected_reward` [n, A], `pi_b` [n, A, L].
    `user` is the position one-hot (`position_1`, …), then the context; the actions are the catalogue, and all are
    candidates. `expected_reward` of the action that was taken becomes a signal; `clicked` is a reward above 0.
    `pi_b` is held against `pscore`, and not kept.

    Raises InputError for a missing key, arrays of other shapes, values out of range, propensities that do not agree, or
    feedback about slates.
    """
    rounds, actions = (_count(feedback, name) for name in ("n_rounds", "n_actions"))
    if feedback.get("slate_id") is not None:
        raise InputError("this bandit feedback is about slates (slate_id): from_obp reads one action a row")
    context = _array(feedback, "context", (rounds, None))
    action = _whole(feedback, "action", rounds, actions)
    reward, pscore = (_array(feedback, name, (rounds,)) for name in ("reward", "pscore"))
    _check(pscore, (pscore > 0) & (pscore <= 1), "pscore", "a probability in (0, 1]")
    position, names = _position(feedback, rounds)
    _check_behaviour(feedback, action, position, pscore, actions)
    features = np.eye(actions)
    if feedback.get("action_context") is not None:
        features = _array(feedback, "action_context", (actions, None))
    user = np.concatenate([np.eye(len(names))[position] if names else np.empty((rounds, 0)), context], 1)
    signals = {}
    if feedback.get(EXPECTED) is not None:
        signals[EXPECTED] = _array(feedback, EXPECTED, (rounds, actions))[np.arange(rounds), action]
    catalogue = Catalogue.of(torch.from_numpy(features).float(), [str(i) for i in range(actions)])
    spec = Spec(
        (*names, *(f"context_{i}" for i in range(context.shape[1]))),
        tuple(f"action_context_{i}" for i in range(features.shape[1])),
        (),
        tuple(signals),
        actions,
        1,
    )
    with LogWriter(out, spec, {"kind": "obp"}, overwrite) as writer:
        writer.add(_interactions(user, catalogue, action, pscore, reward, list(signals.values())))
    return Log(out)


def to_obp(log: Log) -> dict[str, Any]:
    """Return a log of single decisions as bandit feedback of Open Bandit Pipeline.

    `n_rounds`, `n_actions`, `context` [n, d], `action_context` [A, e], `action`, `position` (or None), `reward`,
    `pscore` [n], and `expected_reward` and `pi_b` None: a log knows them of the action that was taken only. Rows
    without a known reward are left out. What belongs to the candidates of a moment is appended to the context,
    candidate by candidate; the first columns of `user` are the position if they are called `position_1`, ….

    Raises InputError for slates of several items, candidates that change from row to row, or unknown propensities.
    """
    spec = log.spec
    if spec.slate_size != 1:
        raise InputError(f"{log.path} has slates of {spec.slate_size}: bandit feedback has one action a row")
    if log.propensities["kind"] == "unknown":
        raise InputError(f"{log.path} has no propensities, and `pscore` needs them: estimate them first")
    positions = len([name for name in spec.user if name.startswith(POSITION)])
    placed = positions > 0 and spec.user[:positions] == tuple(f"{POSITION}{i + 1}" for i in range(positions))
    parts = [_feedback(log, block, positions if placed else 0) for block in log.blocks()]
    if not parts:
        raise InputError(f"{log.path} has no interactions: there is nothing to hand over")
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    features = log.catalogue.features.numpy().astype(np.float64) if log.catalogue else np.eye(spec.candidates)
    return {
        "n_rounds": len(joined["action"]),
        "n_actions": spec.candidates,
        "action_context": features,
        "expected_reward": None,
        "pi_b": None,
        **joined,
        "position": joined["position"] if placed else None,
    }


def _feedback(log: Log, rows: Interactions, positions: int) -> dict[str, Array]:
    ids = rows.observation.item_ids
    same = torch.equal(ids, torch.arange(ids.shape[1]).expand(ids.shape))
    if not same or (log.catalogue is not None and len(log.catalogue) != ids.shape[1]):
        raise InputError(
            f"{log.path}: candidates change from row to row, and bandit feedback has the same actions everywhere: "
            "export a table instead (slatewise logs export --format parquet)"
        )
    rows = rows[rows.response.reward_known & (rows.decision.slate[:, 0] >= 0)]
    user, items = rows.observation.user, rows.observation.items.flatten(1)
    return {
        "context": torch.cat([user[:, positions:], items], 1).double().numpy(),
        "action": rows.decision.slate[:, 0].numpy(),
        "position": user[:, :positions].argmax(1).numpy() if positions else np.zeros(len(rows), np.int64),
        "reward": rows.response.total_reward.numpy(),
        "pscore": rows.decision.propensity[:, 0].numpy(),
    }


def _interactions(
    user: Array, catalogue: Catalogue, action: Array, pscore: Array, reward: Array, signals: list[Array]
) -> Interactions:
    rows, actions = len(action), len(catalogue)
    observation = Observation(
        torch.from_numpy(user).float(),
        torch.arange(actions).expand(rows, actions),
        torch.zeros(rows, actions, 0),
        catalogue,
    )
    earned, yes = torch.from_numpy(reward).unsqueeze(1), torch.ones(rows, dtype=torch.bool)
    response = Response(
        earned > 0,
        torch.from_numpy(np.array(signals).reshape(len(signals), rows).T).float().unsqueeze(1),
        earned,
        torch.zeros(rows, dtype=torch.float64),
        yes,
    )
    decision = Decision(torch.from_numpy(action).unsqueeze(1), torch.from_numpy(pscore).unsqueeze(1))
    at = torch.arange(rows)
    return Interactions(observation, decision, response, None, yes, ~yes, at, torch.zeros_like(at))


def _position(feedback: Mapping[str, Any], rounds: int) -> tuple[Array, tuple[str, ...]]:
    """Return the position of every row, from 0, and names for all of them: none where there is one or none at all."""
    if feedback.get("position") is None:
        return np.zeros(rounds, np.int64), ()
    length = np.shape(feedback["pi_b"])[-1] if feedback.get("pi_b") is not None else None
    position = _whole(feedback, "position", rounds, length)
    count = length or int(position.max()) + 1
    return position, tuple(f"{POSITION}{i + 1}" for i in range(count)) if count > 1 else ()


def _check_behaviour(feedback: Mapping[str, Any], action: Array, position: Array, pscore: Array, actions: int) -> None:
    if feedback.get("pi_b") is None:
        return
    said = _array(feedback, "pi_b", (len(action), actions, None))[np.arange(len(action)), action, position]
    wrong = ~np.isclose(said, pscore, rtol=1e-6, atol=1e-12)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"pscore[{row}] is {pscore[row]:.6g}, pi_b says {said[row]:.6g} for the action and position of that row; "
            f"{int(wrong.sum())} rows disagree: give the pscore that belongs to pi_b, or set pi_b to None"
        )


def _count(feedback: Mapping[str, Any], name: str) -> int:
    value = _present(feedback, name)
    if not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} is {value!r}: expected a whole number above 0")
    return int(value)


def _present(feedback: Mapping[str, Any], name: str) -> Any:
    if feedback.get(name) is None:
        raise InputError(f"this bandit feedback has no {name!r}, found {', '.join(map(str, feedback)) or 'nothing'}")
    return feedback[name]


def _array(feedback: Mapping[str, Any], name: str, shape: tuple[int | None, ...]) -> Array:
    """Return finite numbers of a shape (None: any length) as float64."""
    try:
        values = np.ascontiguousarray(_present(feedback, name), np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is no array of numbers ({error})") from None
    if values.ndim != len(shape) or any(e not in (None, n) for e, n in zip(shape, values.shape, strict=True)):
        wanted = [e if e is not None else "any" for e in shape]
        raise InputError(f"{name} has shape {list(values.shape)}, expected {wanted}")
    _check(values, np.isfinite(values), name, "a finite number")
    return values


def _whole(feedback: Mapping[str, Any], name: str, rounds: int, limit: int | None) -> Array:
    values = _array(feedback, name, (rounds,))
    good = (values >= 0) & (values == np.floor(values)) & (values < (limit if limit is not None else np.inf))
    _check(values, good, name, f"a whole number from 0 to {limit - 1}" if limit is not None else "a number from 0")
    return values.astype(np.int64)


def _check(values: Array, good: Array, name: str, allowed: str) -> None:
    if not good.all():
        at = tuple(int(i) for i in np.argwhere(~good)[0])
        raise InputError(
            f"{name}{list(at)} is {values[at]:.6g}: expected {allowed}; {int((~good).sum())} values are affected, "
            "drop or correct these rows"
        )

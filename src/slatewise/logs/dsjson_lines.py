"""One line of Vowpal Wabbit's dsjson: what was decided, with which probability, and what it cost."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

from slatewise.errors import InputError

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Event:
    """One line.  shown: action and probability of every slot.  rewards: of every slot, or None."""

    context: dict[str, Any]
    actions: list[dict[str, Any]]
    shown: list[tuple[int, float]]
    rewards: list[float] | None
    decision_reward: float
    pdrop: float
    time: int | None
    decision_id: str | None
    policy_version: str | None


class BadLine(InputError):
    """What is wrong with a line."""


def decisions(path: Path, strict: bool = True) -> Iterator[tuple[int, Any]]:
    """Yield number and decision of every line that is not empty: None where it is skipped.

    strict: raise `BadLine` where a line is wrong, else yield it instead of the decision.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield number, _event(line)
                except BadLine as bad:
                    if strict:
                        raise
                    yield number, bad


def _event(line: bytes) -> Event | None:
    try:
        event: Any = json.loads(line, parse_constant=_not_finite)
    except (ValueError, RecursionError) as error:
        raise BadLine(f"is not a JSON object ({error})") from None
    if not isinstance(event, dict):
        raise BadLine(f"is a JSON {type(event).__name__}, expected an object")
    event = cast(dict[str, Any], event)
    if event.get("_skipLearn") is True or ("c" not in event and "RewardValue" in event):
        return None
    context = _is(event.get("c"), dict, "`c`, an object with the features of the decision")
    actions = _is(context.get("_multi"), list, "`c._multi`, a list of the actions")
    if not actions or not all(isinstance(action, dict) for action in actions):
        raise BadLine("has no actions in `c._multi`: expected a list of objects, one an action")
    _check_same_for_all_slots(context, actions)
    shown, rewards, decision_reward = _outcomes(event) if "_outcomes" in event else _outcome(event)
    _check_shown(shown, len(actions))
    return Event(
        context,
        actions,
        shown,
        rewards,
        decision_reward,
        _number(event.get("pdrop", 0), "pdrop", 0, 1),
        _time(event.get("Timestamp")),
        _decision_id(event),
        _text(event.get("VWState"), "m"),
    )


def _check_same_for_all_slots(context: dict[str, Any], actions: list[dict[str, Any]]) -> None:
    slots = _is(context.get("_slots", []), list, "list in `c._slots`")
    if any("_slot_id" in action for action in actions) or any("_inc" in s for s in slots if isinstance(s, dict)):
        raise BadLine("keeps actions for one slot (`_slot_id` or `_inc`): expected the same actions for all slots")


def _outcome(event: dict[str, Any]) -> tuple[list[tuple[int, float]], list[float] | None, float]:
    """Return the single slot of a contextual bandit; without a label, what was shown stands first in `a` and `p`."""
    if "_labelIndex" in event:
        action, probability = event["_labelIndex"], event.get("_label_probability")
    else:
        action, probability = _first(event.get("a"), "a"), _first(event.get("p"), "p")
        action = _whole(action, "a[0]") - 1  # counts from 1, unlike all else
    shown = [(_whole(action, "_labelIndex"), _number(probability, "_label_probability", 0, 1))]
    cost = event.get("_label_cost")
    return shown, None if cost is None else [0 - _number(cost, "_label_cost")], 0.0


def _outcomes(event: dict[str, Any]) -> tuple[list[tuple[int, float]], list[float] | None, float]:
    """Return the slots of a conditional contextual bandit, and what the decision earned besides."""
    slots = _is(event["_outcomes"], list, "`_outcomes`, a list of the slots")
    shown: list[tuple[int, float]] = []
    costs: list[Any] = []
    for slot in slots:
        slot = _is(slot, dict, "an object for every slot in `_outcomes`")
        action, probability = _first(slot.get("_a"), "_a"), _first(slot.get("_p"), "_p")
        shown.append((_whole(action, "_a"), _number(probability, "_p", 0, 1)))
        costs.append(slot.get("_label_cost"))
    besides = 0 - _number(event.get("_label_cost", 0), "_label_cost")
    if any(cost is None for cost in costs):
        return shown, None, besides
    return shown, [0 - _number(cost, "_label_cost") for cost in costs], besides


def _check_shown(shown: list[tuple[int, float]], actions: int) -> None:
    if not shown:
        raise BadLine("shows nothing: expected a slot or more in `_outcomes`")
    for action, probability in shown:
        if not 0 <= action < actions:
            raise BadLine(f"shows action {action}, `c._multi` has {actions} (0 to {actions - 1})")
        if probability == 0:
            raise BadLine("shows an action of probability 0: expected the probability with which it was drawn")
    if len({action for action, _ in shown}) < len(shown):
        raise BadLine("shows an action in two slots: expected each at most once")


def _not_finite(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _is(value: Any, kind: type, expected: str) -> Any:
    if not isinstance(value, kind):
        raise BadLine(f"has no {expected}")
    return value


def _first(value: Any, name: str) -> Any:
    """Return the first entry of a list, or the value itself: what was shown comes first."""
    if isinstance(value, list):
        value = value[0] if value else None
    if value is None:
        raise BadLine(f"does not say what was shown: expected `_labelIndex`, or `{name}`")
    return value


def _whole(value: Any, name: str) -> int:
    if type(value) is not int:
        raise BadLine(f"has {name} {value!r}: expected the number of an action")
    return value


def _number(value: Any, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    if type(value) not in (int, float) or not low <= value <= high:
        between = f"from {low:g} to {high:g}" if low > -math.inf else ""
        raise BadLine(f"has {name} {value!r}: expected a number {between}".rstrip())
    return float(value)


def _time(text: Any) -> int | None:
    """Return microseconds since 1970, UTC, of an ISO 8601 text."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise BadLine(f"has Timestamp {text!r}: expected a time like 2021-07-29T10:00:00.999Z") from None
    passed = (time if time.tzinfo else time.replace(tzinfo=UTC)) - EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds


def _decision_id(event: dict[str, Any]) -> str | None:
    slots = event.get("_outcomes")
    return _text(event, "EventId") or (_text(slots[0], "_id") if slots else None)


def _text(values: Any, name: str) -> str | None:
    found = cast(dict[str, Any], values).get(name) if isinstance(values, dict) else None
    return found if isinstance(found, str) else None

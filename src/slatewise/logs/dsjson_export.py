"""A log as Vowpal Wabbit's dsjson: one JSON object a decision, which `import_dsjson` reads back."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slatewise.errors import InputError
from slatewise.interactions import Interactions
from slatewise.logs.export import item_names, whole_file
from slatewise.logs.log import Log

Features = dict[str, dict[str, float]]


def export_dsjson(log: Log, out: str | Path, overwrite: bool = False) -> int:
    """Write a log to a dsjson file, one line a decision that showed something, and return how many.

    K = 1 is a contextual bandit (`_labelIndex`, …), more slots a conditional one (`_outcomes`). The cost is minus the
    reward; a decision without a known reward has no label, or, with several slots, no line, because Vowpal Wabbit would
    take the missing cost for an infinite one. A feature `space.name` is the feature `name` of namespace
    `space`; other features are in `user`, `catalogue` and `item`. Features of value 0 are left out, as are candidates
    that may not be shown, signals, clicks, sessions, users and histories, for which the format has no place.

    Raises InputError for unknown propensities (Vowpal Wabbit would take them for true), two features of one name, a
    file that exists unless `overwrite`, or a log without interactions.
    """
    if log.propensities["kind"] == "unknown":
        raise InputError(
            f"{log.path} has no propensities, and dsjson needs them: estimate them first, or export a table"
        )
    lines = _Lines(log)
    with whole_file(out, overwrite) as path:
        with path.open("w", encoding="utf-8") as file:
            for block in log.blocks():
                for line in lines.of(block):
                    file.write(json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n")
        if not lines.count:
            raise InputError(f"{log.path} has no decisions that showed anything: there is nothing to export")
    return lines.count


class _Lines:
    def __init__(self, log: Log) -> None:
        spec = log.spec
        self.user = _places(spec.user, "user")
        self.items = _places(spec.items, "item")
        catalogue = _places(spec.catalogue, "catalogue")
        _check_different(log, self.user)
        _check_different(log, [*catalogue, *self.items])
        names = item_names(log)
        rows = log.catalogue.features.numpy() if log.catalogue else []
        self.catalogue: list[dict[str, Any]] = [
            {"_tag": names[i] if names else str(i), **_features(row, catalogue)} for i, row in enumerate(rows)
        ]
        self.single = spec.slate_size == 1
        self.count = 0

    def of(self, rows: Interactions) -> Iterable[dict[str, Any]]:
        """Yield a JSON object for every decision that showed something."""
        numbers = rows.observation.mask.cumsum(1) - 1  # of the actions, once those that may not be shown are left out
        shown = numbers.gather(1, rows.decision.slate.clamp(min=0)).tolist()
        slate, propensity = rows.decision.slate.tolist(), rows.decision.propensity.tolist()
        ids, items, user = (
            rows.observation.item_ids.tolist(),
            rows.observation.items.numpy(),
            rows.observation.user.numpy(),
        )
        response, heads = rows.response, _heads(rows)
        reward, besides = response.reward.tolist(), response.decision_reward.tolist()
        known = response.reward_known.tolist()
        for i, head in enumerate(heads):
            slots = [k for k, at in enumerate(slate[i]) if at >= 0]
            if not slots or not (self.single or known[i]):
                continue
            self.count += 1
            drawn = [(shown[i][k], propensity[i][k]) for k in slots]
            costs = [0 - reward[i][k] for k in slots]
            actions = [self._action(item, items[i, c]) for c, item in enumerate(ids[i]) if item >= 0]
            context: dict[str, Any] = {**_features(user[i], self.user), "_multi": actions}
            if self.single:
                yield {**_outcome(drawn[0], costs[0] - besides[i] if known[i] else None), **head, "c": context}
            else:  # Vowpal Wabbit reads from left to right, and wants the slots before their outcomes
                yield {**head, "c": context | {"_slots": [{} for _ in slots]}, **_outcomes(drawn, costs, besides[i])}

    def _action(self, item: int, features: Any) -> dict[str, Any]:
        action: dict[str, Any] = dict(self.catalogue[item]) if self.catalogue else {"_tag": str(item)}
        for space, values in _features(features, self.items).items():
            action[space] = action.get(space, {}) | values
        return action


def _outcome(drawn: tuple[int, float], cost: float | None) -> dict[str, Any]:
    action, probability = drawn
    label = {"_label_cost": cost, "_label_probability": probability, "_labelIndex": action}
    return ({} if cost is None else label) | {"a": [action + 1], "p": [probability]}


def _outcomes(drawn: Sequence[tuple[int, float]], costs: Sequence[float], besides: float) -> dict[str, Any]:
    slots = [
        {"_label_cost": cost, "_a": [action], "_p": [probability]}
        for (action, probability), cost in zip(drawn, costs, strict=True)
    ]
    return ({"_label_cost": 0 - besides} if besides else {}) | {"_outcomes": slots}


def _heads(rows: Interactions) -> list[dict[str, Any]]:
    """Return what identifies every decision."""
    ids = rows.decision_id
    if ids is None:
        ids = [f"{e}-{s}" for e, s in zip(rows.episode.tolist(), rows.step.tolist(), strict=True)]
    heads: list[dict[str, Any]] = [{"Version": "1", "EventId": str(name)} for name in ids]
    if rows.time is not None:
        for head, time in zip(heads, np.datetime_as_string(rows.time.numpy().astype("M8[us]")), strict=True):
            head["Timestamp"] = f"{time}Z"
    if rows.policy_version is not None:
        for head, version in zip(heads, rows.policy_version, strict=True):
            head["VWState"] = {"m": str(version)}
    return heads


def _check_different(log: Log, places: list[tuple[str, str]]) -> None:
    twice = [".".join(place) for place, count in Counter(places).items() if count > 1]
    if twice:
        raise InputError(f"{log.path}: two features are called {twice[0]!r}: give them different names")


def _places(names: Sequence[str], space: str) -> list[tuple[str, str]]:
    """Return namespace and name of every feature."""
    split = [name.partition(".") for name in names]
    return [
        (first, rest) if rest and first and first[0] != "_" else (space, name)
        for name, (first, _, rest) in zip(names, split, strict=True)
    ]


def _features(values: Any, places: Sequence[tuple[str, str]]) -> Features:
    found: Features = {}
    for i in np.flatnonzero(values).tolist():
        space, name = places[i]
        found.setdefault(space, {})[name] = float(values[i])
    return found

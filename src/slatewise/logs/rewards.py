"""The reward that a reader of a log names: a signal, or a weighted sum of signals."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from slatewise.errors import InputError, unknown_name
from slatewise.interactions import Response

CLICKED = "clicked"
TERM = re.compile(
    r"\s*(?P<sign>[+-]?)\s*(?:(?P<weight>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)\s*\*\s*)?(?P<name>[^\s+*\d.][^\s+*]*)\s*"
)


@dataclass(frozen=True)
class Reward:
    """A weighted sum of signals, per slot.

    weights: by signal, `clicked` among them (1 where the slot was clicked).  text: as the reader wrote it.
    """

    text: str
    weights: Mapping[str, float]

    @staticmethod
    def of(text: str, signals: Sequence[str]) -> "Reward":
        """Read `watch`, or `clicked + 0.1 * watch`. Raises InputError for another form or an unknown signal."""
        weights: dict[str, float] = {}
        at = 0
        while at < len(text):
            term = TERM.match(text, at)
            if term is None or (at > 0 and not term["sign"]):
                raise InputError(f"reward {text!r} is no sum of signals: write, for instance, 'clicked + 0.1 * watch'")
            name = term["name"]
            if name != CLICKED and name not in signals:
                raise unknown_name("signal of the log", name, {*signals, CLICKED})
            weight = float(term["weight"] or 1) * (-1 if term["sign"] == "-" else 1)
            weights[name] = weights.get(name, 0.0) + weight
            at = term.end()
        if not weights:
            raise InputError(f"reward {text!r} names no signal: this log has {', '.join(sorted({*signals, CLICKED}))}")
        return Reward(text.strip(), weights)

    def __call__(self, response: Response, signals: Sequence[str], shown: torch.Tensor) -> Response:
        """Return the response with this reward; nothing is earned beside the slots.  shown: bool [B, K], no holes."""
        reward = torch.zeros_like(response.reward)
        for name, weight in self.weights.items():
            values = response.signals[:, :, signals.index(name)] if name in signals else response.clicked
            reward += weight * values.double()
        return replace(response, reward=reward * shown, decision_reward=torch.zeros_like(response.decision_reward))

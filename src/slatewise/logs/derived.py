"""What a log leaves out, because a reader rebuilds it to the bit: the catalogue as candidates, and histories."""

from typing import Final

import torch
from torch import Tensor

from slatewise.history import interaction_features, push
from slatewise.interactions import Interactions, Observation

ITEM_IDS: Final = "item_ids"
HISTORY: Final = "history"
DERIVED: Final = (ITEM_IDS, HISTORY)


def first_items(rows: int, candidates: int) -> Tensor:
    """Return item_ids [B, C] of rows that may show the first C items of the catalogue, in order: one row in memory."""
    return torch.arange(candidates).expand(rows, candidates)


class Histories:
    """Rebuilds the histories of rows that come block by block, whole sessions in order.

    length: H, remembered interactions.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self._episode: Tensor | None = None  # of the last rows, at most H
        self._features: Tensor | None = None

    def of(self, rows: Interactions) -> tuple[Tensor, Tensor]:
        """Return the history before and after each interaction, each float32 [B, H, F]."""
        newest = interaction_features(rows.observation, rows.decision, rows.response)
        episode, features = rows.episode, newest
        if self._episode is not None and self._features is not None:
            episode, features = torch.cat([self._episode, episode]), torch.cat([self._features, features])
        before = _windows(episode, features, self.length)[-len(rows) :]
        self._episode, self._features = episode[-self.length :], features[-self.length :]
        return before, push(before, newest)


def _windows(episode: Tensor, features: Tensor, length: int) -> Tensor:
    """Return the `length` interactions of the same session before each row, newest last, [B, H, F]."""
    padded = torch.cat([features.new_zeros(length, features.shape[1]), features])
    session = torch.cat([torch.zeros(1, dtype=torch.int64), (episode[1:] != episode[:-1]).cumsum(0)])
    session = torch.cat([torch.full((length,), -1), session])
    at = torch.arange(len(episode)).unsqueeze(1) + torch.arange(length)  # rows i − H … i − 1, counted with the padding
    same = session[at] == session[length:].unsqueeze(1)
    return torch.where(same.unsqueeze(2), padded[at], 0.0)


def derivable(rows: Interactions, nexts: Observation | None, at: Tensor) -> tuple[str, ...]:
    """Return which columns of whole sessions in order can be left out: what would be rebuilt equals them to the bit.

    nexts: the stored next observations; at: [B], which of them a row has, or −1.
    """
    found: list[str] = []
    observation = rows.observation
    if torch.equal(observation.item_ids, first_items(*observation.item_ids.shape)):
        found.append(ITEM_IDS)
    if observation.history is not None and observation.history.shape[1] > 0:
        before, after = Histories(observation.history.shape[1]).of(rows)
        kept = True
        if nexts is not None and nexts.history is not None:
            kept = _same(after[at >= 0], nexts.history[at[at >= 0]])
        if kept and _same(before, observation.history):
            found.append(HISTORY)
    return tuple(found)


def _same(left: Tensor, right: Tensor) -> bool:
    return torch.equal(left.contiguous().view(torch.int32), right.contiguous().view(torch.int32))

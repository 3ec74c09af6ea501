"""What a session leaves behind: running totals and remembered interactions.

One piece of code for environments, log readers and services; agents stay functions of the observation.
"""

from collections.abc import Sequence
from itertools import compress

import numpy as np
import torch
from torch import Tensor

from slatewise.interactions import Decision, Observation, Response, SummaryColumn
from slatewise.plain import NumPy, is_few, tensor, total

ONE = np.float32(1)


def summary_increment(columns: Sequence[SummaryColumn], signals: Sequence[str], response: Response) -> Tensor:
    """Return what one interaction adds to every summary column, float32 [B, columns]."""
    clicked = response.clicked
    if is_few(clicked):
        rows = [list(compress(*row)) for row in zip(response.signals.numpy(), clicked.tolist(), strict=True)]
        return tensor([[_plain_increment(column, signals, row) for column in columns] for row in rows], np.float32)
    parts: list[Tensor] = []
    for column in columns:
        if column.no_click:
            parts.append((~clicked.any(1)).float() * column.scale)
            continue
        product = clicked.float()
        for name in column.signals:
            product = product * response.signals[:, :, signals.index(name)]
        parts.append(total(product) * column.scale)
    return torch.stack(parts, 1) if parts else response.signals.new_zeros(len(clicked), 0)


def _plain_increment(column: SummaryColumn, names: Sequence[str], clicked: list[NumPy]) -> float:
    """Return what one row adds to one column, the same value to the bit.  clicked: signals [S] of its clicked slots."""
    if column.no_click:
        return 0.0 if clicked else column.scale
    everything = 0.0
    for signals in clicked:
        product = ONE
        for name in column.signals:
            product = product * signals[names.index(name)]
        everything += float(product)
    return float(np.float32(everything) * column.scale)


def interaction_features(observation: Observation, decision: Decision, response: Response) -> Tensor:
    """Describe one interaction for the history, float32 [B, F].

    Features and signals of what was clicked (mean if several), no-click flag, filled flag.
    """
    clicked = response.clicked.float().unsqueeze(-1)
    count = clicked.sum(1)
    shown = torch.cat([observation.features(decision.slate), response.signals], -1)
    mean = (shown * clicked).sum(1) / count.clamp(min=1)
    return torch.cat([mean, (count == 0).float(), torch.ones_like(count)], 1)


def push(history: Tensor, newest: Tensor) -> Tensor:
    """Return a history [B, H, F] with the oldest interaction dropped and `newest` [B, F] appended."""
    return torch.cat([history[:, 1:], newest.unsqueeze(1)], 1)

"""What a session leaves behind: running totals and remembered interactions.

One piece of code for environments, log readers and services; agents stay functions of the observation.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from slatewise.interactions import Decision, Observation, Response, SummaryColumn


def summary_increment(columns: Sequence[SummaryColumn], signals: Sequence[str], response: Response) -> Tensor:
    """Return what one interaction adds to every summary column, float32 [B, columns]."""
    clicked = response.clicked
    parts: list[Tensor] = []
    for column in columns:
        if column.no_click:
            parts.append((~clicked.any(1)).float() * column.scale)
            continue
        product = clicked.float()
        for name in column.signals:
            product = product * response.signals[:, :, signals.index(name)]
        parts.append(product.sum(1) * column.scale)
    return torch.stack(parts, 1) if parts else response.signals.new_zeros(len(clicked), 0)


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

"""Linear models of users and items: their joint features, scores and variances, and ridge regression from sums.

The joint features of a user and an item are (1, user) ⊗ (1, item): one, the item's features, and for every feature of
the user that feature and its products with the item's. M = (1 + U)(1 + F) with F = E + D. They are written out only to
learn from: scores and variances of all candidates are computed from the two factors.
"""

import torch
from torch import Tensor

from slatewise.interactions import Observation, Spec

CHUNK_VALUES = 4_000_000  # elements of the largest temporary array


def joint_size(spec: Spec) -> int:
    """Return M, the number of joint features: (1 + U)(1 + F) with F = E + D."""
    return (1 + len(spec.user)) * (1 + spec.item_features)


def joint_names(spec: Spec) -> tuple[str, ...]:
    """Return the names of the M joint features."""
    items = ("", *spec.catalogue, *spec.items)
    return tuple(
        " × ".join(part for part in (user, item) if part) or "1" for user in ("", *spec.user) for item in items
    )


def with_one(features: Tensor) -> Tensor:
    """Return (1, features) in float64, for features [..., n]."""
    return (
        torch.cat([torch.ones_like(features[..., :1], dtype=torch.float64), features.double()], -1)
        if (features.shape[-1])
        else torch.ones(*features.shape[:-1], 1, dtype=torch.float64, device=features.device)
    )


def joint_features(observation: Observation, positions: Tensor) -> Tensor:
    """Return (1, user) ⊗ (1, item) at positions [B, P], as float64 [B, P, M]; the item is zeros where −1."""
    items, users = with_one(observation.features(positions)), with_one(observation.user)
    return (users.unsqueeze(1).unsqueeze(3) * items.unsqueeze(2)).flatten(2)


def joint_scores(observation: Observation, weights: Tensor) -> Tensor:
    """Return weights · joint features of every candidate, float64, without writing the products out.

    weights: [M], answered by [B, C]; or [S, M], S models, answered by [B, S, C].
    """
    users = with_one(observation.user)
    models = weights.view(-1, users.shape[1], weights.shape[-1] // users.shape[1])
    pull = torch.einsum("bu,suf->bsf", users, models)
    items, rows = _items(observation)
    if rows is not None:
        scores = (pull @ items.T).gather(2, rows.unsqueeze(1).expand(-1, pull.shape[1], -1))
    else:
        scores = pull @ items.transpose(1, 2)
    return scores if weights.ndim > 1 else scores.squeeze(1)


def joint_variances(observation: Observation, covariance: Tensor) -> Tensor:
    """Return xᵀ covariance x for the joint features x of every candidate, float64 [B, C].

    covariance: [M, M], symmetric. First the quadratic form that it leaves for each user's items, [1 + F, 1 + F].
    """
    users = with_one(observation.user)
    batch, size = users.shape
    width = len(covariance) // size
    step = max(1, CHUNK_VALUES // (width * max(len(covariance), observation.item_ids.shape[1])))
    parts: list[Tensor] = []
    for start in range(0, max(1, batch), step):  # a batch of no rows is one part
        part = slice(start, start + step)
        half = (users[part] @ covariance.view(size, -1)).view(-1, width, size, width)
        form = torch.einsum("bfug,bu->bfg", half, users[part])
        parts.append(_quadratic(observation if step >= batch else observation[part], form))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _quadratic(observation: Observation, form: Tensor) -> Tensor:
    """Return fᵀ form f for the features f = (1, item) of every candidate, [B, C]; form: [B, 1 + F, 1 + F]."""
    items, rows = _items(observation)
    if rows is not None:
        squares = (items.unsqueeze(2) * items.unsqueeze(1)).flatten(1)
        return (form.flatten(1) @ squares.T).gather(1, rows)
    return ((items @ form) * items).sum(2)


def _items(observation: Observation) -> tuple[Tensor, Tensor | None]:
    """Return (1, item): once for the whole catalogue [N, 1 + E] with the candidates' rows, or for all [B, C, 1 + F]."""
    ids, catalogue = observation.item_ids, observation.catalogue
    if catalogue is not None and observation.items.shape[2] == 0 and len(catalogue) <= 8 * ids.shape[1]:
        return with_one(catalogue.features), ids.clamp(min=0)
    parts = [torch.ones(*ids.shape, 1, dtype=torch.float64, device=ids.device), observation.items.double()]
    if catalogue is not None:
        parts.insert(1, catalogue.features[ids.clamp(min=0)].double())
    return torch.cat(parts, 2), None


class Ridge:
    """Ridge regression kept as sums: precision A = λI + Σ x xᵀ [M, M] and b = Σ y x [M], in float64."""

    def __init__(self, size: int, penalty: float = 1.0, device: str | torch.device = "cpu") -> None:
        self.precision = penalty * torch.eye(size, dtype=torch.float64, device=device)
        self.moment = torch.zeros(size, dtype=torch.float64, device=device)

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Take rows of features [n, M] and targets [n] into the sums."""
        features = features.double()
        self.precision.addmm_(features.T, features)
        self.moment.addmv_(features.T, targets.double())

    def weights(self) -> Tensor:
        """Return the solution of A θ = b, [M]."""
        return torch.cholesky_solve(self.moment.unsqueeze(1), torch.linalg.cholesky(self.precision)).squeeze(1)

    def covariance(self) -> Tensor:
        """Return A⁻¹, [M, M]."""
        return torch.cholesky_inverse(torch.linalg.cholesky(self.precision))

"""Linear models in closed form: joint features of user and item, and ridge regression from sums."""

import torch
from torch import Tensor

from slatewise.interactions import Observation, Spec


def joint_size(spec: Spec) -> int:
    """Return M, the number of joint features: 1 + U + F + U · F with F = E + D."""
    users, items = len(spec.user), spec.item_features
    return 1 + users + items + users * items


def joint_features(observation: Observation, positions: Tensor) -> Tensor:
    """Return 1, user, item and user × item features at positions [B, P], as float64 [B, P, M]."""
    items = observation.features(positions).double()
    users = observation.user.double().unsqueeze(1).expand(-1, positions.shape[1], -1)
    products = (users.unsqueeze(3) * items.unsqueeze(2)).flatten(2)
    return torch.cat([users.new_ones(*positions.shape, 1), users, items, products], 2)


def joint_scores(observation: Observation, weights: Tensor) -> Tensor:
    """Return weights [M] · joint features of every candidate, float64 [B, C], without writing the products out."""
    users = observation.user.double()
    everything = torch.arange(observation.item_ids.shape[1], device=users.device).expand(observation.item_ids.shape)
    items = observation.features(everything).double()
    bias, of_user, of_item, of_both = weights.split(
        [1, users.shape[1], items.shape[2], users.shape[1] * items.shape[2]]
    )
    pull = of_item + users @ of_both.view(users.shape[1], items.shape[2])
    return bias + (users @ of_user).unsqueeze(1) + torch.einsum("bf,bcf->bc", pull, items)


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

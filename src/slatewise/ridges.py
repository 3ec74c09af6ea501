"""Many ridge regressions of one size, kept as sums that add and subtract exactly."""

import torch
from torch import Tensor

from slatewise.tables import grown


class Ridges:
    """R ridge regressions of d features: sums Σ x xᵀ [R, d, d] and Σ y x [R, d], in float64.

    Their solutions are the posterior of a Bayesian linear regression of unit noise under the prior N(0, I / λ): mean
    `weights` [R, d] and `covariance` (λI + Σ x xᵀ)⁻¹ [R, d, d]. A single row is taken in by Sherman and Morrison's
    formula, several by a Cholesky factorisation of what they changed, when somebody asks.
    """

    def __init__(self, size: int, penalty: float, device: str | torch.device = "cpu") -> None:
        self.penalty = penalty
        self.outer = torch.zeros(1, size, size, dtype=torch.float64, device=device)
        self.moment = torch.zeros(1, size, dtype=torch.float64, device=device)
        self._weights = torch.zeros_like(self.moment)
        self._covariance = torch.eye(size, dtype=torch.float64, device=device).unsqueeze(0) / penalty
        self._stale: Tensor | None = None  # bool [R], rows whose solution is not that of their sums
        self._prior: tuple[float, torch.Generator] | None = None

    @property
    def weights(self) -> Tensor:
        """Means, [R, d]."""
        self.solve()
        return self._weights

    @property
    def covariance(self) -> Tensor:
        """Covariances, [R, d, d]."""
        self.solve()
        return self._covariance

    def factors(self) -> Tensor:
        """Return lower triangles L with L Lᵀ = covariance, [R, d, d]."""
        return torch.linalg.cholesky(self.covariance)

    def grow(self, rows: int) -> None:
        """Append regressions that have seen nothing, up to a number of rows."""
        missing = rows - self.moment.shape[0]
        if missing > 0:
            self.outer, self.moment, self._weights = (
                grown(table, rows) for table in (self.outer, self.moment, self._weights)
            )
            prior = torch.eye(self.moment.shape[1], dtype=torch.float64, device=self.moment.device) / self.penalty
            self._covariance = torch.cat([self._covariance, prior.expand(missing, -1, -1)])
            self._stale = None if self._stale is None else grown(self._stale, rows)
            self._draw_means(torch.arange(rows - missing, rows, device=self.moment.device))

    def draw_prior(self, scale: float, generator: torch.Generator) -> None:
        """Give every regression, and those to come, a random prior mean, N(0, scale² I / λ), instead of 0."""
        self._prior = scale * self.penalty**0.5, generator
        self._draw_means(torch.arange(len(self.moment), device=self.moment.device))

    def _draw_means(self, rows: Tensor) -> None:
        if self._prior is not None:
            scale, generator = self._prior
            shape = len(rows), self.moment.shape[1]
            drawn = torch.randn(shape, generator=generator, dtype=torch.float64, device=self.moment.device)
            self.moment[rows] = scale * drawn
            self.touch(rows)

    def add(self, rows: Tensor, features: Tensor, targets: Tensor, sign: float = 1.0) -> None:
        """Take features [n, d] and targets [n] into the sums of their rows [n]; or, with sign −1, out of them."""
        count = rows.shape[0]
        if count == 1 and sign > 0 and self._stale is None and features.device.type == "cpu":
            self._add_one(int(rows), features, float(targets))
        elif count:
            scaled = sign * features
            if self.moment.shape[0] == 1:
                self.outer[0].addmm_(scaled.T, features)
            else:
                self.outer.flatten(1).index_add_(0, rows, (scaled.unsqueeze(2) * features.unsqueeze(1)).flatten(1))
            self.moment.index_add_(0, rows, scaled * targets.unsqueeze(1))
            self.touch(rows)

    def _add_one(self, row: int, features: Tensor, target: float) -> None:
        """Take one row in: Sherman & Morrison 1950. In NumPy, whose operations on small arrays cost less."""
        x, covariance, moment = features.numpy()[0], self._covariance[row].numpy(), self.moment[row].numpy()
        outer = self.outer[row].numpy()
        column = x[:, None]
        outer += column * x
        moment += target * x
        pull = covariance @ x
        gain = pull / (1.0 + pull @ x)
        covariance -= pull[:, None] * gain
        weights = self._weights[row].numpy()
        weights += gain * (target - x @ weights)

    def touch(self, rows: Tensor) -> None:
        """Say that the sums of rows [n] have changed."""
        if self._stale is None:
            self._stale = torch.zeros(len(self.moment), dtype=torch.bool, device=self.moment.device)
        self._stale[rows] = True

    def scale(self, factor: float) -> None:
        """Let all that was seen count by a factor: forgetting."""
        self.outer *= factor
        self.moment *= factor
        self.touch(torch.arange(len(self.moment), device=self.moment.device))

    def set_sums(self, rows: Tensor, outer: Tensor, moment: Tensor) -> None:
        """Put sums [n, d, d] and [n, d] in the place of those of rows [n]."""
        self.outer[rows], self.moment[rows] = outer, moment
        self.touch(rows)

    def add_sums(self, rows: Tensor, outer: Tensor, moment: Tensor) -> None:
        """Add sums that others kept, [n, d, d] and [n, d], to those of rows [n]."""
        self.outer.index_add_(0, rows, outer)
        self.moment.index_add_(0, rows, moment)
        self.touch(rows)

    def solve(self) -> None:
        """Solve for what has changed."""
        if self._stale is None:
            return
        rows, self._stale = self._stale.nonzero().squeeze(1), None
        identity = torch.eye(self.moment.shape[1], dtype=torch.float64, device=self.moment.device)
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(self.outer[rows] + self.penalty * identity))
        self._covariance[rows] = covariance
        self._weights[rows] = (covariance @ self.moment[rows].unsqueeze(2)).squeeze(2)

    def tensors(self) -> dict[str, Tensor]:
        """Return sums and solutions, by name; what `load` takes."""
        return {
            "outer": self.outer,
            "moment": self.moment,
            "weights": self.weights,
            "covariance": self.covariance,
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        self.outer, self.moment = tensors["outer"], tensors["moment"]
        self._weights, self._covariance = tensors["weights"], tensors["covariance"]
        self._stale = None

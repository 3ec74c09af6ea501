"""Memories of agents."""

from slatewise.interactions import Interactions


class Rollout:
    """The last steps of parallel users, handed over whole once there are enough of them."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._steps: list[Interactions] = []

    def add(self, interactions: Interactions) -> None:
        """Append one vector step, one row a user."""
        self._steps.append(interactions)

    def full(self) -> bool:
        """Whether all steps are there."""
        return len(self._steps) >= self.steps

    def take(self) -> Interactions:
        """Return all T steps, [T · B] rows with the steps one after the other, and begin anew."""
        steps, self._steps = self._steps, []
        return Interactions.cat(steps)

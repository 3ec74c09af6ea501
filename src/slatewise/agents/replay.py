"""Memories of agents."""

from dataclasses import replace

import torch
from torch import Tensor

from slatewise.errors import InputError
from slatewise.interactions import Interactions

FIRST_CORRECTION = 0.4  # β at the start, Schaul et al. 2016, table 3; it rises to 1
LEAST = 1e-3  # of the largest error: the priority that a segment without any keeps


def check_order(episode: Tensor, step: Tensor, done: Tensor, interactions: Interactions) -> None:
    """Raise InputError unless every row goes on with the session of the same row before, or begins another.

    episode, step: int64 [B], done: bool [B], of the vector step before.
    """
    if len(episode) != len(interactions):
        raise InputError(f"{len(interactions)} users after {len(episode)}: give every step of the same users")
    goes_on = (interactions.episode == episode) & (interactions.step == step + 1)
    begins = done & (interactions.episode != episode) & (interactions.step == 0)
    if not bool((goes_on | begins).all()):
        row = int((~(goes_on | begins)).nonzero()[0])
        raise InputError(
            f"row {row} is step {int(interactions.step[row])} of session {int(interactions.episode[row])}, "
            f"after step {int(step[row])} of {int(episode[row])}: give users' steps in order"
        )


def check_rewards(interactions: Interactions, name: str) -> None:
    """Raise InputError, for an agent of this name, unless every reward is known."""
    if not bool(interactions.response.reward_known.all()):
        raise InputError(f"{name} needs every reward of a session, and some are missing (reward_known is false)")


class Rollout:
    """The last steps of parallel users, handed over whole once there are enough of them."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._steps: list[Interactions] = []

    def add(self, interactions: Interactions) -> None:
        """Append one vector step, one row a user.

        Raises InputError unless every row goes on with the session of the same row before, or begins another.
        """
        if self._steps:
            before = self._steps[-1]
            check_order(before.episode, before.step, before.done, interactions)
        self._steps.append(interactions)

    def full(self) -> bool:
        """Whether all steps are there."""
        return len(self._steps) >= self.steps

    def newest(self) -> Interactions:
        """Return the steps that are there, as `take` does without what is remembered beside them, and keep them."""
        return Interactions.cat(self._steps)

    def take(self) -> Interactions:
        """Return all T steps, [T · B] rows with the steps one after the other, and begin anew."""
        steps, self._steps = self._steps, []
        return Interactions.cat(steps)

    def tensors(self) -> dict[str, Tensor]:
        """Return what is remembered beyond an update, by name; nothing here."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""


class Replay(Rollout):
    """A rollout, and beside it segments of earlier ones: what a user did in `steps` steps, drawn evenly.

    A segment holds everything that a return over several steps needs, the ends of sessions within it included.
    size: user-steps that are kept, rounded down to whole rollouts, at least one.  times: segments drawn for each that
    is new.  generator: draws them.
    """

    def __init__(self, steps: int, size: int, times: int, generator: torch.Generator) -> None:
        super().__init__(steps)
        self.size, self.times, self.generator = size, times, generator
        self.rollouts = 0  # kept so far, those that have been replaced included
        self._rows: Interactions | None = None
        self._length = 0  # of a rollout
        self._version = ""  # of the catalogue

    def take(self) -> Interactions:
        """Return T steps of B new and `times` · B remembered segments, [T · (1 + times) B] rows as of one rollout.

        Raises InputError for another number of users, or another catalogue, than before.
        """
        newest = _bare(super().take())
        catalogue = newest.observation.catalogue
        if self._rows is None:
            self._length, self._version = len(newest), catalogue.version if catalogue else ""
            self._rows = self._room(newest)
        if len(newest) != self._length:
            raise InputError(
                f"{len(newest) // self.steps} users, and replay remembers another number: begin with another agent"
            )
        if (catalogue.version if catalogue else "") != self._version:
            raise InputError("another catalogue, and replay remembers items of the one before: begin another agent")
        if self._rows.observation.catalogue is not catalogue:
            self._rows = self._rows.on(catalogue)
        capacity = self._capacity()
        users, first = len(newest) // self.steps, self.rollouts % capacity * (len(newest) // self.steps)
        self._rows.put(first * self.steps, newest)
        self.rollouts += 1
        new = first + torch.arange(users, device=self.generator.device)
        taken = torch.cat([new, self._draw(new, min(self.rollouts, capacity) * users)])
        columns = taken // users * len(newest) + taken % users
        down = users * torch.arange(self.steps, device=taken.device).unsqueeze(1)
        return self._rows[(down + columns).flatten()]

    def _draw(self, new: Tensor, segments: int) -> Tensor:
        """Draw some of all segments, int64 [times · B], once the `new` ones [B] are among them."""
        return torch.randint(segments, (self.times * len(new),), generator=self.generator, device=new.device)

    def _capacity(self) -> int:
        """Return how many rollouts are kept."""
        return max(1, self.size // self._length)

    def _room(self, like: Interactions) -> Interactions:
        return like.map(lambda array: array.new_empty(self._capacity() * self._length, *array.shape[1:]))

    def tensors(self) -> dict[str, Tensor]:
        """Return what is remembered, by name; of the catalogue its version alone, the next rollout brings it again."""
        about = {
            "rollouts": torch.tensor(self.rollouts),
            "length": torch.tensor(self._length),
            "catalogue": torch.tensor(list(self._version.encode()), dtype=torch.uint8),
        }
        if self._rows is None:
            return about
        kept = self._rows[: min(self.rollouts, self._capacity()) * self._length]
        return about | {f"rows.{key}": value for key, value in kept.tensors().items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave. Raises KeyError, TypeError or ValueError where it is not whole."""
        rollouts, length = int(tensors["rollouts"]), int(tensors["length"])
        self.rollouts, self._length, self._rows = rollouts, length, None
        self._version = bytes(tensors["catalogue"].tolist()).decode()
        if not rollouts:
            return
        kept = {key.removeprefix("rows."): value for key, value in tensors.items() if key.startswith("rows.")}
        rows, wanted = Interactions.of_tensors(kept), min(rollouts, self._capacity()) * length
        if any(len(value) != wanted for value in kept.values()):
            raise ValueError(f"a memory of {wanted} user-steps has columns of another length")
        self._rows = self._room(rows)
        self._rows.put(0, rows)


class PrioritisedReplay(Replay):
    """A replay whose segments are drawn the more often, the less they were foreseen.

    Source: Schaul et al. 2016, arXiv 1511.05952, proportional variant: P(i) = p_i^α / Σ p^α, p the mean absolute error
    of a segment when it was last learned from, and for a new one the largest of all that are remembered. What is drawn
    counts by (N P(i))^−β, divided by the largest of the batch; the newest rollout, which nobody drew, counts by 1.
    power: α.
    """

    def __init__(self, steps: int, size: int, times: int, generator: torch.Generator, power: float) -> None:
        super().__init__(steps, size, times, generator)
        self.power = power
        self.correction = FIRST_CORRECTION  # β
        self.priorities = torch.empty(0, dtype=torch.float64, device=generator.device)  # of all segments
        self.weights = self.priorities  # of the segments taken last
        self._taken = torch.empty(0, dtype=torch.int64, device=generator.device)

    def anneal(self, share: float) -> None:
        """Take what share of the run is over: the correction ends at 1."""
        self.correction = FIRST_CORRECTION + share * (1 - FIRST_CORRECTION)

    def chances(self) -> Tensor:
        """Return the probability of every segment to be drawn, float64."""
        powers = self.priorities**self.power
        return powers / powers.sum()

    def learned(self, errors: Tensor) -> None:
        """Take the mean absolute errors of the segments taken last, new ones first; of several uses the largest."""
        least = LEAST * (float(errors.max()) or float(self.priorities.max()))  # where nothing counted, errors are 0
        errors = errors.double().clamp(min=least)
        self.priorities[self._taken] = 0.0
        self.priorities.scatter_reduce_(0, self._taken, errors, "amax")

    def _draw(self, new: Tensor, segments: int) -> Tensor:
        before = self.priorities
        self.priorities = before.new_ones(segments)
        self.priorities[: len(before)] = before
        self.priorities[new] = before.max() if len(before) else 1.0
        chances = self.chances()
        drawn = chances.multinomial(self.times * len(new), replacement=True, generator=self.generator)
        weights = (segments * chances[drawn]) ** -self.correction
        self.weights = torch.cat([torch.ones_like(new, dtype=torch.float64), weights / weights.max()])
        self._taken = torch.cat([new, drawn])
        return drawn

    def tensors(self) -> dict[str, Tensor]:
        """Return what is remembered, by name, priorities included."""
        return super().tensors() | {"priorities": self.priorities}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave. Raises KeyError, TypeError or ValueError where it is not whole."""
        tensors = dict(tensors)
        priorities = tensors.pop("priorities")
        super().load_tensors(tensors)
        segments = min(self.rollouts, self._capacity()) * self._length // self.steps if self.rollouts else 0
        if len(priorities) != segments:
            raise ValueError(f"a memory of {segments} segments has {len(priorities)} priorities")
        self.priorities = priorities.to(self.priorities.device)


def _bare(interactions: Interactions) -> Interactions:
    """Return interactions without what is for audit and no agent learns from."""
    return replace(interactions, user_id=None, time=None, decision_id=None, policy_version=None)


class Window:
    """The last rows that were learned from, so that older ones can be taken out again."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.rows: dict[str, Tensor] = {}

    def push(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Append rows, tensors that share their first dimension; return those that no longer fit, oldest first."""
        if self.rows:
            rows = {key: torch.cat([self.rows[key], value]) for key, value in rows.items()}
        extra = max(0, len(next(iter(rows.values()))) - self.size)
        self.rows = {key: value[extra:] for key, value in rows.items()}
        return {key: value[:extra] for key, value in rows.items()}

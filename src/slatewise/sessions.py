"""One user's session, step by step: what the user felt, what was offered and why, what was taken, what it earned."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from slatewise.environments.base import Environment
from slatewise.errors import InputError
from slatewise.interactions import Observation, Policy


@dataclass(frozen=True)
class Step:
    """One decision for one user, and what came of it.

    hidden: what the user felt when the slate was offered, by name.
    candidates: names of what could be shown, [C]; None may not be.  items: their features of the moment, by name, [C].
    scores: what the policy's preference rests on, by name, [C]; empty for policies that do not say.
    first: probability that the policy puts a candidate first, [C].
    slate: candidates shown, [K]; −1 is a hole.  propensity: probability of each given those before, [K].
    chances: true probability that each is taken, then that none is, [K + 1]; None where the world does not say.
    clicked: what was taken, [K].  signals: by name, [K].  reward: of the whole step.
    """

    hidden: dict[str, float]
    candidates: list[str | None]
    items: dict[str, list[float]]
    scores: dict[str, list[float]]
    first: list[float]
    slate: list[int]
    propensity: list[float]
    chances: list[float] | None
    clicked: list[bool]
    signals: dict[str, list[float]]
    reward: float

    @property
    def taken(self) -> int | None:
        """The slot that was taken, the first if there are several; None where nothing was."""
        return self.clicked.index(True) if True in self.clicked else None


@dataclass(frozen=True)
class Session:
    """A session of one user.

    ended: `terminated`, `truncated`, or None where the telling stopped first.
    """

    steps: list[Step]
    ended: str | None = None

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def reward(self) -> list[float]:
        """What every step earned."""
        return [step.reward for step in self.steps]

    @property
    def hidden(self) -> dict[str, list[float]]:
        """What the user felt at every step, by name."""
        return {name: [step.hidden[name] for step in self.steps] for name in self.steps[0].hidden}

    @property
    def signals(self) -> dict[str, list[float | None]]:
        """Signals of the item that was taken at every step, by name; None where nothing was."""
        return {
            name: [None if step.taken is None else step.signals[name][step.taken] for step in self.steps]
            for name in self.steps[0].signals
        }

    @property
    def items(self) -> dict[str, list[float | None]]:
        """Features of the item that was taken at every step, by name; None where nothing was."""
        return {
            name: [None if step.taken is None else step.items[name][step.slate[step.taken]] for step in self.steps]
            for name in self.steps[0].items
        }

    def to_json(self) -> dict[str, Any]:
        """Return the session as JSON values."""
        return {"return": sum(self.reward), "ended": self.ended, "steps": [asdict(step) for step in self.steps]}


def play(policy: Policy, env: Environment, explore: bool = False, user: int = 0, longest: int | None = None) -> Session:
    """Play the first session of one user of a world from the beginning of its seed, and write down all of it.

    The same world and seed give every policy the same user and the same noise.
    longest: stop after so many steps.  Raises InputError for a user that the world does not have.
    """
    if not 0 <= user < env.users:
        raise InputError(f"user={user}: this world has {env.users} users, 0 to {env.users - 1}")
    env.reset(env.seed)
    steps: list[Step] = []
    while longest is None or len(steps) < longest:
        felt = {name: float(value[user]) for name, value in env.hidden().items()}
        offered = env.observation[user]
        why, first = scores(policy, offered), first_place(policy, offered, env.spec.slate_size, explore)
        decision = policy.act(env.observation, explore=explore)
        chances = _chances(env, decision.slate)
        result = env.step(decision)[user]
        steps.append(
            Step(
                hidden=felt,
                candidates=_names(offered),
                items=_columns(env.spec.items, offered.items[0]),
                scores={name: value[0].tolist() for name, value in why.items()},
                first=first.tolist(),
                slate=result.decision.slate[0].tolist(),
                propensity=result.decision.propensity[0].tolist(),
                chances=None if chances is None else chances[user].tolist(),
                clicked=result.response.clicked[0].tolist(),
                signals=_columns(env.spec.signals, result.response.signals[0]),
                reward=float(result.response.total_reward),
            )
        )
        if bool(result.done):
            return Session(steps, "terminated" if bool(result.terminated) else "truncated")
    return Session(steps)


def scores(policy: Policy, observation: Observation) -> dict[str, Tensor]:
    """Return what a policy's preference rests on, by name, [B, C] each; nothing for policies that do not say."""
    explain = getattr(policy, "explain", None)
    return explain(observation) if explain is not None else {}


def first_place(policy: Policy, observation: Observation, slate_size: int, explore: bool) -> Tensor:
    """Return the probability that a policy shows each candidate of one observation [1, …] first, float64 [C]."""
    places = torch.arange(observation.item_ids.shape[1], device=observation.item_ids.device)
    slates = (places.unsqueeze(1) + places[:slate_size]) % len(places)
    return policy.propensity(observation[torch.zeros_like(places)], slates, explore=explore)[:, 0]


def _chances(env: Environment, slate: Tensor) -> Tensor | None:
    try:
        return env.choice_probabilities(slate)
    except InputError:  # this world does not say how its users choose
        return None


def _names(observation: Observation) -> list[str | None]:
    """Return what the candidates of one observation are called: by the catalogue, else by their number."""
    ids = observation.catalogue.ids if observation.catalogue is not None else None
    numbers = observation.item_ids[0].tolist()
    return [None if n < 0 else ids[n] if ids is not None else f"item {n}" for n in numbers]


def _columns(names: tuple[str, ...], values: Tensor) -> dict[str, list[float]]:
    """Return the columns of values [n, len(names)] by name."""
    return {name: values[:, j].tolist() for j, name in enumerate(names)}

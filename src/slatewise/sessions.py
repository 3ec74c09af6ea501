"""One user's session, step by step: what was offered, what was taken, what it earned, what the user felt."""

from dataclasses import dataclass

from slatewise.environments.base import Environment
from slatewise.interactions import Policy


@dataclass(frozen=True)
class Session:
    """A session of one user, lists over its steps.

    reward: earned at each step.  signals: of the item that was taken, by name; None where nothing was.
    items: features of the item that was taken, by name; None where nothing was.  hidden: what the user felt when
    the slate was offered, by name.
    """

    reward: list[float]
    signals: dict[str, list[float | None]]
    items: dict[str, list[float | None]]
    hidden: dict[str, list[float]]

    def __len__(self) -> int:
        return len(self.reward)


def play(policy: Policy, env: Environment, explore: bool = False, user: int = 0) -> Session:
    """Play the first session of one user of a world from the beginning of its seed, and write down all of it.

    The same world and seed give every policy the same user and the same noise.
    """
    env.reset(env.seed)
    spec = env.spec
    names = (*spec.catalogue, *spec.items)
    session = Session(
        [],
        {name: [] for name in spec.signals},
        {name: [] for name in names},
        {name: [] for name in env.hidden()},
    )
    while True:
        for name, value in env.hidden().items():
            session.hidden[name].append(float(value[user]))
        interactions = env.step(policy.act(env.observation, explore=explore))[user]
        session.reward.append(float(interactions.response.total_reward))
        taken = interactions.response.clicked[0].nonzero().flatten()
        features = interactions.observation.features(interactions.decision.slate)[0]
        for values, table in ((interactions.response.signals[0], session.signals), (features, session.items)):
            for j, column in enumerate(table.values()):
                column.append(float(values[taken[0], j]) if len(taken) else None)
        if bool(interactions.done[0]):
            return session

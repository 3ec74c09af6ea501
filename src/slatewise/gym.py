"""Gymnasium's interface to every world: one user as an `Env`, many users as a native `VectorEnv`.

Importing this module registers the worlds, so that `gymnasium.make("slatewise/InterestEvolution-v1")` and
`gymnasium.make_vec` find them; `gymnasium.make("slatewise.gym:slatewise/InterestEvolution-v1")` imports it by itself.
"""

import math
import re
from collections.abc import Mapping
from itertools import permutations
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from slatewise.environments import WORLDS, make
from slatewise.environments.base import Environment
from slatewise.errors import InputError, check_seed
from slatewise.interactions import Interactions, Observation, Spec

Array = NDArray[Any]
Arrays = dict[str, Array]
Info = dict[str, Any]
Actions = Literal["slate", "discrete"]
MOST_SLATES = 100_000  # more outputs than this, and a network that has one for every slate is the wrong tool


class SlateEnv(gymnasium.Env[Any, Any]):
    """One simulated user of a world.

    world: a name, or `module:Class`.  actions: `slate` takes K candidate positions (a repeated one is replaced by
    the next candidate that is not in the slate yet), `discrete` the number of an ordered slate.
    settings: of the world, see `slatewise envs NAME`.
    Observations are dicts of `user` [U], `items` [C, E + D] with the catalogue's features written out, `item_ids`
    [C], −1 where not to be shown, and `history` [H, F] if the world remembers one.
    Raises InputError for a world or setting that does not exist, or too many slates to number.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(self, world: str, actions: Actions = "slate", **settings: Any) -> None:
        self.world = make(world, 1, **settings)
        self.observation_space = observation_space(self.world)
        self.action_space, self._slates = action_space(self.world.spec, actions)
        self._seeded = self._ended = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, Info]:
        """Begin a session: with a seed, the first of that seed; without one, the next. `options` has none."""
        super().reset(seed=seed, options=options)
        if not self._ended or seed is not None:  # when a session ends the world begins the next one
            self._seeded = begin(self.world, seed, self._seeded, self.np_random)
        self._ended = False
        return one(arrays(self.world.observation)), {}

    def step(self, action: Any) -> tuple[Arrays, float, bool, bool, Info]:
        """Show a slate; `info` holds what came of it, see `record`."""
        if self._ended or not self._seeded:
            raise ResetNeeded("call reset() before the first step and after the end of a session")
        slate = slates_of(np.asarray(action)[None], self.world.observation, self.world.spec, self._slates)
        result = self.world.step(slate)
        assert result.next_observation is not None  # simulators know it
        self._ended = bool(result.done)
        reward, terminated, truncated = float(result.response.total_reward), result.terminated, result.truncated
        info = one(record(result, self.world.spec))
        return one(arrays(result.next_observation)), reward, bool(terminated), bool(truncated), info


class SlateVectorEnv(VectorEnv[Arrays, Any, Array]):
    """Many simulated users of a world, all stepped at once.

    num_envs: B.  autoreset_mode: `SameStep`, as the worlds restart, with `final_obs` and `final_info`; or
    `NextStep`, where the step after a session's end ignores its action and returns the next session's first
    observation.  Else as `SlateEnv`, every array with B in front.
    """

    def __init__(
        self,
        world: str,
        num_envs: int = 1,
        actions: Actions = "slate",
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        **settings: Any,
    ) -> None:
        mode = autoreset_mode.value if isinstance(autoreset_mode, AutoresetMode) else autoreset_mode
        if mode not in ("SameStep", "NextStep"):
            raise InputError(f"autoreset_mode={mode!r}: users restart by themselves, say SameStep or NextStep")
        self.metadata = {"autoreset_mode": AutoresetMode(mode), "render_modes": []}
        self.world = make(world, num_envs, **settings)
        self.num_envs = num_envs
        self.single_observation_space = observation_space(self.world)
        self.single_action_space, self._slates = action_space(self.world.spec, actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._same_step = mode == "SameStep"
        self._seeded = False
        self._waiting = torch.zeros(num_envs, dtype=torch.bool, device=self.world.device)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, Info]:
        """Begin a session of every user: with a seed, the first of that seed; without one, the next."""
        super().reset(seed=seed, options=options)
        self._seeded = begin(self.world, seed, self._seeded, self.np_random)
        self._waiting = torch.zeros_like(self._waiting)
        return arrays(self.world.observation), {}

    def step(self, actions: Any) -> tuple[Arrays, Array, Array, Array, Info]:
        """Show a slate to every user; `info` holds what came of it for all of them, see `record`."""
        if not self._seeded:
            raise ResetNeeded("call reset() before the first step")
        slate = slates_of(np.asarray(actions), self.world.observation, self.world.spec, self._slates)
        return self._same(slate) if self._same_step else self._next(slate)

    def _same(self, slate: Tensor) -> tuple[Arrays, Array, Array, Array, Info]:
        result = self.world.step(slate)
        info = masked(record(result, self.world.spec), np.ones(self.num_envs, dtype=bool))
        ended = numpy(result.done)
        if ended.any():
            assert result.next_observation is not None  # simulators know it
            last, final = arrays(result.next_observation[result.done]), np.full(self.num_envs, None, dtype=object)
            for row, user in enumerate(ended.nonzero()[0]):  # an object a user is what Gymnasium's wrappers read
                final[user] = {key: value[row] for key, value in last.items()}
            info |= {"final_obs": final, "_final_obs": ended, "_final_info": ended.copy()}
            info["final_info"] = masked(record(result, self.world.spec), ended)
        return arrays(self.world.observation), *outcome(result), info

    def _next(self, slate: Tensor) -> tuple[Arrays, Array, Array, Array, Info]:
        waiting = self._waiting
        held = self.world.snapshot() if bool(waiting.any()) else None
        result = self.world.step(slate)
        assert result.next_observation is not None  # simulators know it
        observed = arrays(result.next_observation)
        rows = numpy(waiting)
        if held is not None:
            hold(self.world, held, waiting)
            for key, first in arrays(self.world.observation).items():
                observed[key][rows] = first[rows]
        self._waiting = result.done & ~waiting
        reward, terminated, truncated = (np.where(rows, np.zeros_like(part), part) for part in outcome(result))
        return observed, reward, terminated, truncated, masked(record(result, self.world.spec), ~rows)


def begin(world: Environment, seed: int | None, seeded: bool, random: np.random.Generator) -> bool:
    """Begin sessions: those of a seed, else the next ones, else those of a seed drawn from Gymnasium's generator."""
    if seed is None and seeded:
        world.reset()
        return True
    if seed is None:
        seed = int(random.integers(2**63 - 1))
    check_seed(seed)
    world.reset(seed)
    return True


def hold(world: Environment, before: Mapping[str, Tensor], rows: Tensor) -> None:
    """Put the users that `rows` [B] marks back to where they were; the others and the noise stay as they are."""
    after = world.snapshot()
    for key, value in after.items():
        if key not in ("generator", "seed"):
            value[rows] = before[key][rows]
    world.restore(after)


def observation_space(world: Environment) -> spaces.Dict:
    """Return the space of one user's observation."""
    spec, catalogue = world.spec, world.observation.catalogue
    largest = (len(catalogue) if catalogue is not None else 2**62) - 1

    def unbounded(*shape: int) -> spaces.Box:
        return spaces.Box(-np.inf, np.inf, shape, np.float32)

    parts: dict[str, spaces.Space[Any]] = {
        "user": unbounded(len(spec.user)),
        "items": unbounded(spec.candidates, spec.item_features),
        "item_ids": spaces.Box(-1, largest, (spec.candidates,), np.int64),
    }
    if spec.history:
        parts["history"] = unbounded(spec.history, spec.history_features)
    return spaces.Dict(parts)


def action_space(spec: Spec, actions: str) -> tuple[spaces.MultiDiscrete | spaces.Discrete, Tensor | None]:
    """Return the space of one user's actions and, where they are numbers of slates, the slates [n, K] in order.

    Raises InputError for another kind of actions, or more slates than can be numbered.
    """
    if actions == "slate":
        return spaces.MultiDiscrete([spec.candidates] * spec.slate_size), None
    if actions != "discrete":
        raise InputError(f"actions={actions!r}: say 'slate' (K positions) or 'discrete' (the number of a slate)")
    count = math.perm(spec.candidates, spec.slate_size)
    if count > MOST_SLATES:
        raise InputError(
            f"actions='discrete': {spec.slate_size} of {spec.candidates} candidates make {count:,} ordered slates, "
            f"more than {MOST_SLATES:,}: use actions='slate', or fewer candidates or slots"
        )
    ordered = list(permutations(range(spec.candidates), spec.slate_size))
    return spaces.Discrete(count), torch.tensor(ordered, dtype=torch.int64)


def slates_of(actions: Array, observation: Observation, spec: Spec, slates: Tensor | None) -> Tensor:
    """Turn actions, [B, K] positions or [B] numbers of slates, into slates without repeats, int64 [B, K].

    Raises InputError for an action outside the space.
    """
    users, shape = len(observation), (spec.slate_size,) if slates is None else ()
    if actions.shape != (users, *shape) or actions.dtype.kind not in "iu":
        raise InputError(
            f"actions are {actions.dtype} {list(actions.shape)}: this space takes whole numbers {[users, *shape]}"
        )
    limit = spec.candidates if slates is None else len(slates)
    outside = (actions < 0) | (actions >= limit)
    if outside.any():
        where = tuple(int(i) for i in np.argwhere(outside)[0])
        raise InputError(f"actions{list(where)} is {actions[where]}: allowed are 0 to {limit - 1}")
    taken = torch.as_tensor(actions.astype(np.int64))
    slate = taken if slates is None else slates[taken]
    return without_repeats(slate.to(observation.user.device), observation.mask)


def without_repeats(slate: Tensor, mask: Tensor) -> Tensor:
    """Return slates [B, K] in which nothing is shown twice, nor what the mask [B, C] forbids.

    Slot by slot, such a candidate is replaced by the next one (after the last comes the first) that is left.
    """
    ordered = slate.sort(1).values
    bad = (ordered[:, 1:] == ordered[:, :-1]).any(1) | ~mask.gather(1, slate).all(1)
    if not bool(bad.any()):
        return slate
    wanted, left = slate[bad], mask[bad]
    ahead = torch.arange(mask.shape[1], device=mask.device)
    slots: list[Tensor] = []
    for j in range(slate.shape[1]):
        order = (wanted[:, j : j + 1] + ahead) % mask.shape[1]
        slot = order.gather(1, left.gather(1, order).int().argmax(1, keepdim=True))
        left = left.scatter(1, slot, False)
        slots.append(slot)
    return slate.index_put((bad,), torch.cat(slots, 1))


def arrays(observation: Observation) -> Arrays:
    """Return an observation as NumPy arrays, [B, …] each, that nobody else holds."""
    everything = torch.arange(observation.item_ids.shape[1], device=observation.user.device)
    positions = torch.where(observation.mask, everything, -1)
    found = {"user": numpy(observation.user), "items": numpy(observation.features(positions))}
    found["item_ids"] = numpy(observation.item_ids).copy()  # a world may show the same candidates again
    if observation.history is not None:
        found["history"] = numpy(observation.history).copy()
    return found


def record(result: Interactions, spec: Spec) -> Info:
    """Return what came of a step: of every slot its `slate` position, `clicked`, `slot_reward` and `signals` by name.

    [B, K] each; and which `session` of the world it was and which `step` of the session, [B].
    """
    response = result.response
    signals = {name: numpy(response.signals[:, :, j]) for j, name in enumerate(spec.signals)}
    return {
        "slate": numpy(result.decision.slate),
        "clicked": numpy(response.clicked),
        "slot_reward": numpy(response.reward),
        "signals": signals,
        "session": numpy(result.episode),
        "step": numpy(result.step),
    }


def outcome(result: Interactions) -> tuple[Array, Array, Array]:
    """Return reward, terminated and truncated, [B] each."""
    return numpy(result.response.total_reward), numpy(result.terminated), numpy(result.truncated)


def masked(info: Info, rows: Array) -> Info:
    """Return an info with `_key` beside every key, bool [B]: of whom it speaks."""
    found: Info = {}
    for key, value in info.items():
        found[key] = masked(value, rows) if isinstance(value, dict) else value
        found[f"_{key}"] = rows.copy()
    return found


def one(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the only row of arrays [1, …], nested ones too."""
    return {key: one(value) if isinstance(value, dict) else value[0] for key, value in info.items()}


def numpy(tensor: Tensor) -> Array:
    """Return a tensor as an array, without copying where it lies in main memory."""
    return tensor.cpu().numpy()


def gym_id(full_name: str) -> str:
    """Return a world's name as Gymnasium writes them: `slatewise/InterestEvolution-v1`."""
    name, version = full_name.rsplit("-v", 1)
    return f"slatewise/{re.sub('(^|-)(.)', lambda found: found[2].upper(), name)}-v{version}"


def register() -> None:
    """Tell Gymnasium about every world, unless it knows."""
    for full_name in WORLDS:
        if gym_id(full_name) not in gymnasium.registry:
            gymnasium.register(
                gym_id(full_name),
                entry_point="slatewise.gym:SlateEnv",
                vector_entry_point="slatewise.gym:SlateVectorEnv",
                kwargs={"world": full_name},
            )


register()

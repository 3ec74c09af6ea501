"""What a world promises of its randomness and state: seeds, snapshots, noise, refused slates, settings."""

import re

import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from slatewise.environments.base import Environment
from slatewise.errors import InputError
from slatewise.interactions import Decision
from slatewise.testing.base import Broken, copies_of, difference, disturb, generators_watched
from slatewise.testing.worlds import Case, walk

OWN_NOISE = "Draw only from the noise that begin, sample_candidates and advance are given."


def process_generators(case: Case) -> None:
    """Ask that making, resetting and stepping a world draw nothing from, and seed nothing of, the process."""
    with generators_watched("making and stepping the world", OWN_NOISE):
        env = case.world()
        for _ in walk(env, case.random(env), 5):
            pass
        env.reset()


def seed(case: Case) -> None:
    """Ask for the same trajectory from the same seed while other code seeds, draws and steps another world."""
    one, other = case.world(), case.world()
    noisy = case.world(seed=case.seed + 1)
    pairs = zip(walk(one, case.random(one), 25), walk(other, case.random(other), 25), strict=True)
    found = difference(one.observation, other.observation)
    for step, (mine, theirs) in enumerate(pairs):
        if found := found or difference(mine.interactions, theirs.interactions) or difference(mine.now, theirs.now):
            raise Broken(f"at step {step} of two worlds of seed {case.seed}, {found}", OWN_NOISE)
        disturb(step)
        noisy.step(case.random(noisy, step).act(noisy.observation))
    one.reset(case.seed)
    if found := difference(one.observation, case.world().observation):
        raise Broken(f"after reset({case.seed}), {found}, another one than of a new world", OWN_NOISE)


def bad_slates(case: Case) -> None:
    """Ask that every kind of bad slate is refused, and that the world is what it was."""
    env, untouched = case.world(), case.world()
    for each in (env, untouched):
        for _ in walk(each, case.random(each), 3):
            pass
    before = env.snapshot()
    for what, slate in _bad(case, env).items():
        try:
            env.step(slate)
        except InputError:
            pass
        except Exception as error:
            name = type(error).__name__
            raise Broken(
                f"a slate that is {what} raises {name} ({error})", "Raise InputError, before acting."
            ) from None
        else:
            raise Broken(f"a slate that is {what} is accepted", "Check slates before anything changes.")
        if found := difference(before, env.snapshot()):
            raise Broken(
                f"a refused slate ({what}) changes the world: {found}", "Check slates before anything changes."
            )
    policies = case.random(env, 7), case.random(env, 7)
    mine, theirs = next(walk(env, policies[0], 1)), next(walk(untouched, policies[1], 1))
    if found := difference(mine, theirs):
        raise Broken(f"the step after refused slates is another one: {found}", "Check slates before anything changes.")


def _bad(case: Case, env: Environment) -> dict[str, Tensor | Decision]:
    """Return slates that are wrong, by what is wrong with them."""
    good = case.random(env).act(env.observation).slate
    row, k, count = env.users - 1, env.spec.slate_size, env.spec.candidates

    def changed(slot: int, value: int) -> Tensor:
        slate = good.clone()
        slate[row, slot] = value
        return slate

    bad: dict[str, Tensor | Decision] = {
        "out of range": changed(0, count),
        "below −1": changed(0, -2),
        "a hole where candidates are enough": changed(k - 1, -1),
        "one slot too wide": torch.cat([good, good[:, :1]], 1),
        "one row too short": good[:-1],
        "of floats": good.float(),
        "flat": good[:, 0],
        "without propensities per slot": Decision(good, torch.ones(len(good), dtype=torch.float64)),
    }
    if k > 1:
        bad["repeating a candidate"] = changed(1, int(good[row, 0]))
    masked = (~env.observation.mask).nonzero().tolist()
    if masked:
        slate = good.clone()
        slate[masked[0][0], 0] = masked[0][1]
        bad["showing a masked candidate"] = slate
    return bad


def snapshot(case: Case) -> None:
    """Ask that another world, restored from a snapshot that was written and read, goes on the same."""
    env, elsewhere = case.world(), case.world(seed=case.seed + 99)
    for each, steps in ((env, 7), (elsewhere, 3)):
        for _ in walk(each, case.random(each), steps):
            pass
    snapshot = env.snapshot()
    copies = copies_of(snapshot)
    elsewhere.restore(from_bytes(to_bytes(snapshot)))
    steps = max(20, len(case.moments) - 7)
    pairs = zip(walk(env, case.random(env), steps), walk(elsewhere, case.random(env), steps), strict=True)
    found = difference(env.observation, elsewhere.observation)
    for step, (mine, theirs) in enumerate(pairs):
        if found := found or difference(mine, theirs):
            raise Broken(
                f"{step} steps after restore, {found} with and without it",
                "Keep everything that the future depends on in self.state and self.candidates, or extend snapshot and "
                "restore.",
            )
    if found := difference(snapshot, copies):
        raise Broken(f"a snapshot changes as the world goes on: {found}", "Put copies into it.")


def noise(case: Case) -> str | None:
    """Ask that users are untouched by what others are shown, and meet the same draws under another policy."""
    one, other = case.world(), case.world()
    alike = torch.arange(one.users, device=one.device) % 2 == 0
    policies = case.random(one, 5), case.random(other, 5), case.random(other, 6)
    starts: tuple[dict[tuple[int, int], Tensor], ...] = ({}, {})
    remedy = "Draw the same number of random numbers for every user at every step, whatever is shown and whoever ends."
    for step in range(len(case.moments)):
        for env, first in zip((one, other), starts, strict=True):
            _note_starts(env, first)
        same, changed = policies[1].act(other.observation).slate, policies[2].act(other.observation).slate
        mine = one.step(policies[0].act(one.observation).slate)
        theirs = other.step(torch.where(alike.unsqueeze(1), same, changed))
        if found := difference(mine, theirs, alike):
            raise Broken(f"others are shown other slates, and at step {step} {found} for a user who is not", remedy)
        drawn = [{k: v for k, v in env.snapshot().items() if k.startswith("generator")} for env in (one, other)]
        if difference(drawn[0], drawn[1]):
            raise Broken(f"at step {step} two policies have drawn different numbers from the generator", remedy)
    for user, session in starts[0].keys() & starts[1].keys():
        if found := difference(starts[0][user, session], starts[1][user, session]):
            raise Broken(
                f"session {session} of user {user} begins differently under two policies: user features {found}",
                "Make new users in begin from its noise alone.",
            )
    return None


def _note_starts(env: Environment, first: dict[tuple[int, int], Tensor]) -> None:
    """Write down the user features of the sessions that begin now."""
    sessions = env.snapshot()["session"].tolist()
    for row in (env.elapsed == 0).nonzero().squeeze(1).tolist():
        first[row, sessions[row]] = env.observation.user[row].clone()


def settings(case: Case) -> None:
    """Ask for a name that can be written down and settings that make the same world from JSON."""
    env = case.env
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*-v\d+", env.full_name):
        raise Broken(
            f"the full name is {env.full_name!r}", "Name it in lower case with hyphens, version a whole number."
        )
    settings = env.settings.model_dump(mode="json")
    again = type(env)(users=env.users, seed=env.seed, **settings)
    if again.settings != env.settings or again.spec != env.spec:
        raise Broken(f"{settings} make another world", "Return the settings that build was given, unchanged.")
    if found := difference(again.observation, env.observation):
        raise Broken(f"made again from {settings}, {found}", "Let nothing but settings, users and seed matter.")
    try:
        type(env)(users=2, seed=0, no_such_setting=1)
    except InputError:
        return
    raise Broken("the setting no_such_setting=1 is accepted", "Take settings through the class Settings.")

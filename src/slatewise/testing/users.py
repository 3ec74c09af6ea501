"""What a world promises of its users: each for itself, choosing as it says; its rules and references."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from slatewise.checks import first_true
from slatewise.environments.base import Environment, Reference
from slatewise.errors import InputError
from slatewise.interactions import Decision
from slatewise.policies import Random
from slatewise.returns import Mean
from slatewise.testing.base import Broken, copies_of, difference, tensors_of, too_far
from slatewise.testing.worlds import Case, walk

ALONE, TOGETHER, TOGETHER_STEPS = 200, 3000, 6  # users of either kind; steps of each


def alone(case: Case) -> None:
    """Ask that users alone earn, click and leave like users among many, within 4.5 standard errors."""
    many = case.world(TOGETHER, case.seed + 1)
    together = _totals_of(many, case.random(many))
    alone, parts = case.world(1), list[dict[str, Tensor]]()
    policy = case.random(alone, 8)
    for seed in range(ALONE):
        alone.reset(case.seed + 1000 + seed)
        parts.append(_totals_of(alone, policy))
    for key, values in together.items():
        pooled = torch.cat([values, *(part[key] for part in parts)])
        low, high = pooled.quantile(0.01), pooled.quantile(0.99)
        mean = Mean.of(values.clamp(low, high))
        single = Mean.of(torch.cat([part[key] for part in parts]).clamp(low, high))
        if too_far(single.mean - mean.mean, (single.standard_error**2 + mean.standard_error**2) ** 0.5):
            raise Broken(
                f"{key} over {TOGETHER_STEPS} steps averages {single.mean:.4g} ± {single.standard_error:.2g} for users "
                f"alone, {mean.mean:.4g} ± {mean.standard_error:.2g} for users among {TOGETHER:,}",
                "Let no user depend on the others: no statistics over the batch, no shared draws.",
            )


def _totals_of(env: Environment, policy: Random) -> dict[str, Tensor]:
    """Return reward, clicks and ends of every user over a few steps, float64 [B] each."""
    totals = {key: torch.zeros(env.users, dtype=torch.float64) for key in ("reward", "clicks", "ended sessions")}
    for moment in walk(env, policy, TOGETHER_STEPS):
        totals["reward"] += moment.interactions.response.total_reward.cpu()
        totals["clicks"] += moment.interactions.response.clicked.sum(1).double().cpu()
        totals["ended sessions"] += moment.interactions.done.double().cpu()
    return totals


def rules(case: Case) -> str | None:
    """Ask that rules show full, valid slates, never masked candidates, and always the same."""
    env = case.env
    if "random" in env.rules:
        raise Broken("a rule is called 'random', the name of the random policy", "Give it another name.")
    observation = env.observation
    ids = observation.item_ids.clone()
    spare = observation.mask.sum(1) > env.spec.slate_size
    ids[:, 0] = torch.where(spare, -1, ids[:, 0])
    for name in env.rules:
        copies = copies_of(observation)
        for shown in (observation, replace(observation, item_ids=ids)):
            slate = env.rules[name](shown, env.spec.slate_size)
            try:
                Decision(slate, torch.ones(slate.shape, dtype=torch.float64, device=env.device)).validate(shown)
            except InputError as error:
                raise Broken(f"rule {name!r}: {error}", "Show distinct candidates of observation.mask.") from None
            short = (slate >= 0).sum(1) < shown.mask.sum(1).clamp(max=env.spec.slate_size)
            if slate.shape[1] != env.spec.slate_size or bool(short.any()):
                row = slate[int(short.byte().argmax())].tolist()
                raise Broken(f"rule {name!r} shows {row}", "Fill the slate where candidates are enough.")
            if found := difference(slate, env.rules[name](shown, env.spec.slate_size)):
                raise Broken(f"rule {name!r} shows one slate and then another: slate{found}", "Rules do not draw.")
        if found := difference(tensors_of(observation), copies):
            raise Broken(f"rule {name!r} writes on the observation: {found} after and before", "Work on a copy.")
    return None if env.rules else "not asked: no rules"


def references(case: Case) -> str | None:
    """Ask for a scale from random to the ceiling."""
    references = case.env.references
    if references is None:
        return "not asked: no references for these settings"
    for name in ("random", *references.rules):
        if name not in references.rules or name not in ("random", *case.env.rules):
            where = "env.references.rules" if name not in references.rules else "env.rules"
            raise Broken(f"{name!r} is not in {where}", "Give the return of random, and of rules that exist.")
    random, best = references.rules["random"], references.best_rule()
    ceiling: Reference | None = references.ceiling
    if ceiling is None:
        return None
    if not max(random.mean + 1e-9, references.rules[best].mean) <= ceiling.mean + 1e-9:
        raise Broken(
            f"the ceiling is {ceiling.mean}, random {random.mean}, the rule {best!r} {references.rules[best].mean}",
            "Let the ceiling lie above random and no lower than any rule.",
        )
    return None


def oracle(case: Case) -> str | None:
    """Ask that what a world says of its present users is what they do, and that asking changes nothing."""
    env: Any = case.world(1000, case.seed + 3)
    policy = case.random(env, 4)
    chances, clicked, expected, earned = (list[Tensor]() for _ in range(4))
    for _ in range(12):
        slate = policy.act(env.observation).slate
        before = env.snapshot()
        for told, tell in ((chances, env.choice_probabilities), (expected, env.expected_reward)):
            with suppress(InputError):  # a world that does not say
                told.append(tell(slate))
        if found := difference(before, env.snapshot()):
            raise Broken(f"asking what will happen changes the world: {found}", "Compute it without drawing.")
        response = env.step(slate).response
        none = ~response.clicked.any(1, keepdim=True)
        clicked.append(torch.cat([response.clicked, none], 1).double())
        earned.append(response.total_reward)
    if chances:
        _calibrated("env.choice_probabilities", torch.cat(chances), torch.cat(clicked), env.spec.slate_size)
    if expected:
        apart = Mean.of(torch.cat(earned) - torch.cat(expected))
        if too_far(apart.mean, apart.standard_error + 1e-7):
            raise Broken(
                f"users earn {apart.mean:.4g} ± {apart.standard_error:.2g} more than env.expected_reward says",
                "Return the expectation of the reward of the next step, given everything.",
            )
    return None if chances or expected else "not asked: neither chances nor expectation are defined"


def choice(case: Case) -> str | None:
    """Ask that clicks have the probabilities of the choice model."""
    env = case.world(1000, case.seed + 2)
    if env.choice is None:
        return "not asked: env.choice is None"
    model: Any = env.choice
    single = hasattr(model, "probabilities")
    expected, happened = list[Tensor](), list[Tensor]()
    for moment in walk(env, case.random(env, 9), 12):
        i = moment.interactions
        slate, clicked = i.decision.slate, i.response.clicked
        scores = model.scores(i.observation).gather(1, slate.clamp(min=0))
        if single:
            _one_click(clicked)
            clicked = torch.cat([clicked, ~clicked.any(1, keepdim=True)], 1)
        probabilities = model.probabilities if single else model.click_probabilities
        expected.append(probabilities(scores, slate >= 0).double())
        happened.append(clicked.double())
    off = (torch.cat(expected).sum(1) - 1).abs()
    if single and not float(off.max()) < 1e-4:
        worst = torch.cat(expected)[int(off.argmax())].tolist()
        raise Broken(f"env.choice gives a slate the probabilities {worst}", "Make them sum to 1, no click included.")
    _calibrated("env.choice", torch.cat(expected), torch.cat(happened), env.spec.slate_size)
    return None


def _one_click(clicked: Tensor) -> None:
    if bool((clicked.sum(1) > 1).any()):
        row = first_true(clicked.sum(1) > 1)[0]
        raise Broken(
            f"user {row} clicks twice, {clicked[row].tolist()}, where env.choice knows one click",
            "Let a slate get one click at most, or use a position-based choice model.",
        )


def _calibrated(who: str, expected: Tensor, happened: Tensor, slots: int) -> None:
    """Compare probabilities [n, columns] with what happened, by slot and by quarters of the probability."""
    for slot in range(expected.shape[1]):
        for rows in expected[:, slot].argsort().chunk(4):
            p, seen = expected[rows, slot], happened[rows, slot]
            error = float((p * (1 - p)).sum().clamp(min=0).sqrt()) / len(rows)
            if too_far(float(seen.mean() - p.mean()), error + 1e-7):
                what = f"slot {slot} is clicked" if slot < slots else "nothing is clicked"
                raise Broken(
                    f"{what} in {float(seen.mean()):.2%} of {len(rows):,} slates where {who} says "
                    f"{float(p.mean()):.2%} ± {error:.2%}",
                    "Respond by these probabilities, or leave out what says them.",
                )

"""One user at a time, slowly: the worlds in plain Python, for comparison.

Written from the formulas (RecSim, arXiv 1909.04847; SlateQ, arXiv 1905.12767), not from the package, and importing
nothing of it. A session is played by a policy, a function from the candidates and the user to a slate; what is
returned is a dictionary of figures of the session.
"""

import math
from collections.abc import Callable
from random import Random
from typing import Any

Policy = Callable[[list[Any], Any, int, Random], list[int]]

# memory_discount, sensitivity, innovation, chocolate, kale, budget, candidates, start, parity of documents
LTS = {
    "recsim": (0.7, 0.01, 0.05, (5.0, 1.0), (4.0, 1.0), 60, 10, None, False),
    "slides": (0.7, 0.058, 0.05, (5.0, 0.1), (4.0, 0.1), 120, 20, None, False),
    "sweetness": (0.7, 0.9, 1e-5, (5.0, 0.0), (0.0, 0.0), 10, 20, 1.0, True),
}
MEANS = [-3 + 3 * j / 13 for j in range(14)] + [3 * j / 5 for j in range(6)]


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def uniform_policy(candidates: list[Any], user: Any, k: int, random: Random) -> list[int]:
    return random.sample(range(len(candidates)), k)


def sweetest(candidates: list[float], user: Any, k: int, random: Random) -> list[int]:
    return sorted(range(len(candidates)), key=lambda i: -candidates[i])[:k]


def kalest(candidates: list[float], user: Any, k: int, random: Random) -> list[int]:
    return sorted(range(len(candidates)), key=lambda i: candidates[i])[:k]


def best_topics(candidates: list[int], user: Any, k: int, random: Random) -> list[int]:
    return sorted(range(len(candidates)), key=lambda i: -MEANS[candidates[i]])[:k]


def best_interests(candidates: list[int], user: list[float], k: int, random: Random) -> list[int]:
    return sorted(range(len(candidates)), key=lambda i: -user[candidates[i]])[:k]


def documents(count: int, parity: bool, random: Random) -> list[float]:
    """Return clickbait scores; with parity, even ones in [0.8, 1] and odd ones in [0, 0.2]."""
    if not parity:
        return [random.random() for _ in range(count)]
    return [random.uniform(0.8, 1.0) if i % 2 == 0 else random.uniform(0.0, 0.2) for i in range(count)]


def long_term_session(variant: str, policy: Policy, k: int, random: Random) -> dict[str, float]:
    memory, sensitivity, innovation, chocolate, kale, budget, count, start, parity = LTS[variant]
    npe = (random.random() - 0.5) / (1 - memory) if start is None else start
    satisfaction = logistic(sensitivity * npe)
    earned, rose, length = 0.0, 0, 0
    while budget > 0:
        candidates = documents(count, parity, random)
        x = candidates[policy(candidates, None, k, random)[0]]
        location = (x * chocolate[0] + (1 - x) * kale[0]) * satisfaction
        scale = x * chocolate[1] + (1 - x) * kale[1]
        earned += math.exp(random.gauss(location, scale))
        npe = memory * npe - 2 * (x - 0.5) + random.gauss(0.0, innovation)
        before, satisfaction = satisfaction, logistic(sensitivity * npe)
        rose += satisfaction > before
        budget -= 1
        length += 1
    return {"return": earned, "length": length, "rose": rose, "satisfaction": satisfaction}


def choose(choice: str, affinities: list[float], random: Random) -> int | None:
    """Return the slot that is clicked, or None."""
    if choice == "logit":
        weights = [math.exp(a) for a in affinities] + [math.exp(1.0)]
    else:
        weights = [a + 1.0 for a in affinities] + [2.0]
    slot = random.choices(range(len(weights)), weights)[0]
    return slot if slot < len(affinities) else None


def evolution_session(choice: str, policy: Policy, k: int, random: Random, candidates: int = 10) -> dict[str, float]:
    interests = [random.uniform(-1.0, 1.0) for _ in range(20)]
    start = list(interests)
    budget, earned, clicks, length, quality_shown = 200.0, 0.0, 0, 0, 0.0
    while budget > 0:
        topics = random.choices(range(20), k=candidates)
        shown = [topics[i] for i in policy(topics, interests, k, random)]
        qualities = [random.gauss(MEANS[topic], 0.1) for topic in shown]
        slot = choose(choice, [interests[topic] for topic in shown], random)
        length += 1
        quality_shown += sum(qualities)
        if slot is None:
            budget -= 0.5
            continue
        topic, quality, watch = shown[slot], qualities[slot], min(budget, 4.0)
        earned += watch
        clicks += 1
        budget += -watch + 0.9 / 3.4 * watch * quality
        u = interests[topic]
        step = (0.3 - 0.3 * abs(u)) * (1 - u)
        moved = u + step if random.random() < (u + 1) / 2 else u - step
        interests[topic] = max(-1.0, min(1.0, moved))
    change = [after - before for after, before in zip(interests, start, strict=True)]
    return {
        "return": earned,
        "length": length,
        "clicks": clicks,
        "quality": quality_shown / (k * length),
        "drift": sum(change),
        "squared drift": sum(c * c for c in change),
    }

"""Interest evolution as a plain vectorised NumPy simulation, slates given: the line that slatewise is measured beside.

No validation, records, observations, summaries or seeds a user could rely on: what the bare arithmetic costs.
"""

import time

import numpy as np

QUALITY = np.concatenate([np.linspace(-3, 0, 14), np.linspace(0, 3, 6)])


def steps_per_cpu_second(users: int, candidates: int, slate_size: int, steps: int) -> float:
    rng = np.random.default_rng(0)
    rows = np.arange(users)
    slates = [np.argsort(rng.random((users, candidates)), axis=1)[:, :slate_size] for _ in range(4)]
    interests, budget = rng.uniform(-1, 1, (users, 20)), np.full(users, 200.0)
    started = time.process_time()
    for step in range(steps):
        topics = rng.integers(20, size=(users, candidates))
        shown = np.take_along_axis(topics, slates[step % 4], 1)
        weights = np.take_along_axis(interests, shown, 1) + 1
        cumulative = np.cumsum(weights, 1) / (weights.sum(1, keepdims=True) + 2)
        slot = (cumulative <= rng.random((users, 1))).sum(1)
        clicked = slot < slate_size
        topic = shown[rows, np.minimum(slot, slate_size - 1)]
        quality = QUALITY[topic] + 0.1 * rng.standard_normal(users)
        watch = np.minimum(budget, 4.0) * clicked
        u = interests[rows, topic]
        move = (0.3 - 0.3 * np.abs(u)) * (1 - u) * np.where(rng.random(users) < (u + 1) / 2, 1, -1)
        interests[rows, topic] = np.where(clicked, np.clip(u + move, -1, 1), u)
        budget += np.where(clicked, -watch + 0.9 / 3.4 * watch * quality, -0.5)
        finished = np.flatnonzero(budget <= 0)
        interests[finished], budget[finished] = rng.uniform(-1, 1, (len(finished), 20)), 200.0
    return users * steps / (time.process_time() - started)

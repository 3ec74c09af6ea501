import math

import pytest
import torch

from slatewise.noise import SessionNoise, StepNoise, mix

WORD = 2**64


def splitmix64(state: int) -> int:
    """Return the next output of SplitMix64 (Steele, Lea & Flood 2014, as published by Vigna), in Python integers."""
    z = (state + 0x9E3779B97F4A7C15) % WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % WORD
    return z ^ (z >> 31)


def test_the_reference_is_splitmix64() -> None:
    """Its known first outputs from seed 1234567."""
    outputs = [splitmix64((1234567 + n * 0x9E3779B97F4A7C15) % WORD) for n in range(3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_themixer_is_splitmix64() -> None:
    states = [0, 1, 2, 12345, 2**31, 2**62 + 17, 2**63 - 1, 2**63, 2**63 + 5, WORD - 1]
    signed = torch.tensor([s - WORD if s >= 2**63 else s for s in states])
    assert [x % WORD for x in mix(signed).tolist()] == [splitmix64(s) for s in states]


def noise(users: list[int], sessions: list[int], seed: int = 3) -> SessionNoise:
    return SessionNoise(seed, torch.tensor(users), torch.tensor(sessions))


def draw_all(source: SessionNoise) -> torch.Tensor:
    parts = [source.uniform(3), source.normal(2), source.integers(7, 2).float(), source.uniform(1)]
    return torch.cat(parts, 1)


def test_a_session_has_its_numbers_in_any_company_and_order() -> None:
    users, sessions = [0, 1, 2, 3, 1], [0, 0, 5, 1, 9]
    together = draw_all(noise(users, sessions))
    for order in ([4, 2, 0], [3], [1, 1]):
        alone = draw_all(noise([users[i] for i in order], [sessions[i] for i in order]))
        assert torch.equal(alone, together[order])


def test_one_draw_continues_the_other() -> None:
    source = noise([4, 5], [0, 1])
    parts = torch.cat([source.uniform(2), source.uniform(3)], 1)
    assert torch.equal(parts, noise([4, 5], [0, 1]).uniform(5))
    assert len(parts.unique()) == 10


def test_other_users_sessions_and_seeds_have_other_numbers() -> None:
    users, sessions = torch.arange(100).repeat_interleave(100), torch.arange(100).repeat(100)
    first = torch.cat([SessionNoise(seed, users, sessions).uniform(2) for seed in (0, 1, 2)])
    # 30,000 pairs of 24-bit numbers: the chance of any repeat is 2e-6.
    assert len(first.unique(dim=0)) == len(first)


def sample(kind: str) -> torch.Tensor:
    """Return 200,000 numbers, 1,000 users of 20 sessions with 10 columns, or as many from a generator."""
    users, sessions = torch.arange(1000).repeat_interleave(20), torch.arange(20).repeat(1000)
    source = (
        SessionNoise(0, users, sessions)
        if kind.startswith("session")
        else StepNoise(torch.Generator().manual_seed(0), 20_000)
    )
    drawn = source.uniform(10) if kind.endswith("uniform") else source.normal(10)
    assert drawn.dtype == torch.float32
    return drawn.double().flatten()


each_source = pytest.mark.parametrize("source", ["session", "step"])


@each_source
def test_uniforms_are_uniform(source: str) -> None:
    """Mean and variance within 4.5 standard errors; Kolmogorov–Smirnov at the 1e-4 level."""
    u = sample(f"{source} uniform")
    n = len(u)
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    assert abs(float(u.mean()) - 1 / 2) < 4.5 * math.sqrt(1 / 12 / n)
    assert abs(float(((u - 0.5) ** 2).mean()) - 1 / 12) < 4.5 * math.sqrt(1 / 180 / n)
    assert kolmogorov_smirnov(u) < math.sqrt(-math.log(1e-4 / 2) / 2)


@each_source
def test_normals_are_normal(source: str) -> None:
    """First four moments within 4.5 standard errors; Kolmogorov–Smirnov at the 1e-4 level."""
    z = sample(f"{source} normal")
    n = len(z)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((z**power).mean()) - moment) < 4.5 * math.sqrt(variance / n), power
    assert kolmogorov_smirnov((1 + torch.erf(z / math.sqrt(2))) / 2) < math.sqrt(-math.log(1e-4 / 2) / 2)


def kolmogorov_smirnov(uniforms: torch.Tensor) -> float:
    """Return √n times the largest distance from the uniform distribution function."""
    ordered, n = uniforms.sort().values, len(uniforms)
    steps = torch.arange(n + 1).double() / n
    return math.sqrt(n) * float(torch.maximum(steps[1:] - ordered, ordered - steps[:-1]).max())


def test_columns_sessions_and_users_do_not_correlate() -> None:
    """Correlations of neighbours within 4.5 standard errors of 0."""
    users, sessions = torch.arange(200).repeat_interleave(200), torch.arange(200).repeat(200)
    z = SessionNoise(0, users, sessions).normal(3).double().view(200, 200, 3)
    pairs = {"columns": (z[:, :, :-1], z[:, :, 1:]), "sessions": (z[:, :-1], z[:, 1:]), "users": (z[:-1], z[1:])}
    for name, (one, other) in pairs.items():
        assert abs(float((one * other).mean())) < 4.5 / math.sqrt(one.numel()), name


@each_source
def test_integers_are_equally_likely(source: str) -> None:
    """Every face within 4.5 standard errors of a seventh, 60,000 draws."""
    users = torch.arange(20_000)
    made = (
        SessionNoise(1, users, users)
        if source == "session"
        else StepNoise(torch.Generator().manual_seed(1), len(users))
    )
    drawn = made.integers(7, 3)
    assert drawn.dtype == torch.int64
    shares = drawn.flatten().bincount(minlength=7).double() / drawn.numel()
    assert len(shares) == 7
    assert float((shares - 1 / 7).abs().max()) < 4.5 * math.sqrt(1 / 7 * 6 / 7 / drawn.numel())

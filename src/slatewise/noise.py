"""Random numbers of a simulator: one interface, two sources.

`StepNoise` draws for every user at every step from a generator, so neither the policy nor what happens to the
users changes the number or the order of draws. `SessionNoise` is a function of (seed, user, session): a restart
gets the same new user whenever it happens, whatever else was drawn.
"""

from typing import Protocol

import torch
from torch import Tensor

from slatewise.interactions import Observation


class Noise(Protocol):
    """Source of random numbers for n users at once."""

    def uniform(self, columns: int) -> Tensor:
        """Return uniforms on [0, 1), float32 [n, columns]."""
        ...

    def normal(self, columns: int) -> Tensor:
        """Return standard normals, float32 [n, columns]."""
        ...

    def integers(self, high: int, columns: int) -> Tensor:
        """Return integers 0 … high − 1, int64 [n, columns]."""
        ...


class StepNoise:
    """Draws from a generator, for all users of a simulator."""

    def __init__(self, generator: torch.Generator, users: int) -> None:
        self.generator = generator
        self.users = users

    def uniform(self, columns: int) -> Tensor:
        """Return uniforms on [0, 1), float32 [users, columns]."""
        return torch.rand(self.users, columns, generator=self.generator, device=self.generator.device)

    def normal(self, columns: int) -> Tensor:
        """Return standard normals, float32 [users, columns]."""
        return torch.randn(self.users, columns, generator=self.generator, device=self.generator.device)

    def integers(self, high: int, columns: int) -> Tensor:
        """Return integers 0 … high − 1, int64 [users, columns]."""
        shape = (self.users, columns)
        return torch.randint(high, shape, generator=self.generator, device=self.generator.device)


class SessionNoise:
    """Counter-based numbers for the given sessions (SplitMix64's mixer, Steele et al. 2014)."""

    def __init__(self, seed: int, users: Tensor, sessions: Tensor) -> None:
        self._key = mix(mix(mix(torch.full_like(users, seed)) + users) + sessions)
        self._counter = 0

    def uniform(self, columns: int) -> Tensor:
        """Return uniforms on [0, 1), float32 [n, columns]."""
        return (_top_bits(self._bits(columns), 24).double() * 2.0**-24).float()

    def normal(self, columns: int) -> Tensor:
        """Return standard normals, float32 [n, columns]."""
        middle = (_top_bits(self._bits(columns), 52).double() + 0.5) * 2.0**-52
        return torch.special.ndtri(middle).float()

    def integers(self, high: int, columns: int) -> Tensor:
        """Return integers 0 … high − 1, int64 [n, columns]."""
        return (_top_bits(self._bits(columns), 52).double() * 2.0**-52 * high).long()

    def _bits(self, columns: int) -> Tensor:
        counters = torch.arange(self._counter, self._counter + columns, device=self._key.device)
        self._counter += columns
        return mix(self._key.unsqueeze(1) + counters)


def mix(x: Tensor) -> Tensor:
    """SplitMix64's step and finaliser on int64, whose products wrap around as the algorithm needs."""
    x = scramble(x + -0x61C8864680B583EB)
    return x ^ _shift(x, 31)


def scramble(x: Tensor) -> Tensor:
    """SplitMix64's two products on int64: a hash without collisions whose high bits are good."""
    x = (x ^ _shift(x, 30)) * -0x40A7B892E31B1A47
    return (x ^ _shift(x, 27)) * -0x6B2FB644ECCEEE15


def _shift(x: Tensor, by: int) -> Tensor:
    """Shift right without the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _top_bits(x: Tensor, bits: int) -> Tensor:
    return _shift(x, 64 - bits)


def pair_keys(observation: Observation, item_ids: Tensor) -> Tensor:
    """Return a hash of user features (the history included) and item for items [B, P], int64 [B, P].

    Sums of 64-bit hashes of every feature with its place: two of a million pairs share one with probability 3e-8.
    """
    state = observation.user
    if observation.history is not None:
        state = torch.cat([state, observation.history.flatten(1)], 1)
    bits = (state + 0.0).contiguous().view(torch.int32).long()  # + 0.0: −0 is 0
    place = mix(torch.arange(bits.shape[1], device=bits.device))
    hashed = mix(bits + place).sum(1, keepdim=True)
    return mix(hashed + mix(item_ids))

"""Which examples each step trains on: a function of the corpus's bins, the seed and the step alone.

An order divides the corpus into pools and gives every pool's share of a step's batch. Each pool has epochs of its own,
each its own permutation; what does not suffice for a step at an epoch's end is left out, so that no batch holds an
example twice. A pool with a larger share of the batches than of the corpus comes again sooner.

Shapes: N examples, K pools, B prompts a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import numpy as np

from locus.errors import LocusError

Pools = dict[str, np.ndarray]
"""Name -> indices of the pool's examples, ascending."""
_GRID = 2**20
_COUNTS = 1  # keeps a step's random numbers apart from those of the permutations


class Order(Protocol):
    """Pools of examples and their shares."""

    def pools(self, bins: np.ndarray) -> Pools:
        """The K pools of examples with these area bins [N]; an example is in at most one."""

    def shares(self, pools: Sequence[str], step: int) -> np.ndarray:
        """[K] shares of the batch of ``step`` (0, 1, ...), adding up to 1."""


@dataclass(frozen=True)
class Uniform:
    """All examples alike, whatever their bin: each once an epoch."""

    def pools(self, bins: np.ndarray) -> Pools:
        return {"": np.arange(len(bins))}

    def shares(self, pools: Sequence[str], step: int) -> np.ndarray:
        return np.ones(1)


@dataclass(frozen=True)
class Balanced:
    """Every step has the area bins of the corpus in equal parts, however unequal they are in the corpus."""

    def pools(self, bins: np.ndarray) -> Pools:
        return _by_bin(bins)

    def shares(self, pools: Sequence[str], step: int) -> np.ndarray:
        return np.full(len(pools), 1 / len(pools))


@dataclass(frozen=True)
class Curriculum:
    """The bins' shares of a batch move linearly with the step, from ``start`` to ``end``.

    Example: ``Curriculum({"tiny": 0.4, "small": 0.6}, {"tiny": 1.0}, 300)`` begins with mostly small cues, ends with
    tiny ones only, and gives 70 % tiny ones over the 300 steps. Raises LocusError for values that cannot be meant.
    """

    start: Mapping[str, float]
    """Bin -> weight in the first step; weights need not add up to 1."""
    end: Mapping[str, float]
    """Bin -> weight in the last of ``steps`` and in all later ones."""
    steps: int

    def __post_init__(self) -> None:
        for key, weights in (("start", self.start), ("end", self.end)):
            if any(weight < 0 for weight in weights.values()) or not sum(weights.values()) > 0:
                raise LocusError(
                    f"trainer.order.{key}={dict(weights)}: give at least one bin a weight above 0, none below"
                )
        if self.steps < 1:
            raise LocusError(f"trainer.order.steps={self.steps}: give a whole number from 1 on")

    def pools(self, bins: np.ndarray) -> Pools:
        """Raises LocusError when the weights and the corpus are not of the same bins."""
        pools, weights = _by_bin(bins), {**self.start, **self.end}
        wanted = {name for name in weights if self.start.get(name, 0) > 0 or self.end.get(name, 0) > 0}
        if not wanted <= set(pools) <= set(weights):
            raise LocusError(
                f"trainer.order.start and .end are of {', '.join(sorted(weights))}; the corpus has {', '.join(pools)}: "
                "give all bins of the corpus a weight (0 leaves one out), and no other bin one above 0"
            )
        return pools

    def shares(self, pools: Sequence[str], step: int) -> np.ndarray:
        done = min(step / max(self.steps - 1, 1), 1.0)
        first, last = (np.array([w.get(name, 0.0) for name in pools]) for w in (self.start, self.end))
        return (1 - done) * first / first.sum() + done * last / last.sum()


def _by_bin(bins: np.ndarray) -> Pools:
    """A pool a bin, by name."""
    return {str(name): np.flatnonzero(bins == name) for name in np.unique(bins)}


def whole_parts(total: int, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[K] whole numbers that add up to ``total``: each is its share rounded up or down, and the share on average.

    Systematic sampling: the pools' intervals on [0, total) are cut by a grid of whole numbers at one random offset.
    """
    offset = (rng.integers(_GRID) + 0.5) / _GRID  # away from whole numbers, which sums of shares meet inexactly
    return np.diff(np.floor(total * np.cumsum(shares) + offset), prepend=0).astype(np.int64)


def check_pools(order: Order, bins: np.ndarray, batch_size: int, steps: int) -> None:
    """Raises LocusError when a step would ask a pool for more examples than it has."""
    pools = order.pools(bins)
    largest = np.max([order.shares(list(pools), step) for step in range(steps)], axis=0)
    for (name, pool), most in zip(pools.items(), np.ceil(batch_size * largest - 1 / _GRID).astype(int), strict=True):
        if most > len(pool):
            of_bin = f" of bin {name}" if name else ""
            raise LocusError(
                f"the corpus has {len(pool)} training examples{of_bin}, a step wants {most}: "
                "lower trainer.prompts_per_step or use more data"
            )


def batches(order: Order, bins: np.ndarray, batch_size: int, seed: int) -> Iterator[list[int]]:
    """The batches of step 0, 1, ... without end, each B different indices.

    It always begins at step 0, which costs little, so that a resumed run cannot differ from the unbroken one.
    """
    pools = order.pools(bins)
    streams = [_Epochs(pool, seed, number) for number, pool in enumerate(pools.values())]
    for step in count():
        rng = np.random.default_rng([seed, step, 0, _COUNTS])
        counts = whole_parts(batch_size, order.shares(list(pools), step), rng)
        batch = np.concatenate([stream.take(part) for stream, part in zip(streams, counts, strict=True)])
        # One pool is shuffled already; of several, each mini-batch of the step is to have all.
        yield (rng.permutation(batch) if len(pools) > 1 else batch).tolist()


class _Epochs:
    """Gives the examples of a pool, a permutation an epoch."""

    def __init__(self, pool: np.ndarray, seed: int, number: int) -> None:
        self.pool, self.seed, self.number = pool, seed, number
        self.epoch, self.rest = 0, pool[:0]

    def take(self, part: int) -> np.ndarray:
        """The next ``part`` examples, all of one epoch."""
        if part > len(self.rest):
            self.rest = np.random.default_rng([self.seed, self.epoch, self.number]).permutation(self.pool)
            self.epoch += 1
        taken, self.rest = self.rest[:part], self.rest[part:]
        return taken

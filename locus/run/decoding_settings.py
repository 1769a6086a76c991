"""How a policy is asked, as checked objects: what is sampled, and what ``locus.evaluate`` and ``locus.analyze`` add."""

from __future__ import annotations

from dataclasses import dataclass

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from locus.errors import LocusError, whole
from locus.types import Sampling


@dataclass(frozen=True)
class DecodingSettings:
    """How a policy is measured by ``locus.evaluate`` and ``locus.analyze``."""

    sampling: Sampling
    token_budget: int
    """Whose keys and values are held at a time, of prompts and completions."""
    seed: int
    limit: int | None = None
    """Items; None for all."""
    resamples: int = 1
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        whole("token_budget", self.token_budget)
        whole("seed", self.seed, 0)
        whole("resamples", self.resamples)
        if self.limit is not None:
            whole("limit", self.limit)

    @classmethod
    def of(cls, cfg: DictConfig) -> DecodingSettings:
        """Of conf/evaluate.yaml or conf/analyze.yaml; raises LocusError naming the key that is wrong."""
        rest = {name: cfg[name] for name in ("limit", "resamples") if name in cfg}
        return cls(sampling_of(cfg, "sampling"), cfg.token_budget, cfg.seed, **rest)


def sampling_of(cfg: DictConfig, key: str) -> Sampling:
    """The section of this key; raises LocusError with the whole key of what is wrong."""
    try:
        return instantiate(OmegaConf.select(cfg, key))
    except InstantiationException as error:
        if isinstance(error.__cause__, LocusError):
            raise LocusError(f"{key}.{error.__cause__}") from error
        raise

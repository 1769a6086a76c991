"""What a policy can do without a cue: questions about held-out scenes, with small objects and large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from locus.scenes.questions import Ask, AskedScene, draw_questions, kinds_of
from locus.scenes.source import SceneSource


@dataclass(frozen=True)
class SceneBenchmark:
    """One benchmark: questions of some kinds about one family of scenes.

    Example: ``SceneBenchmark("attributes", source, ("colour", "shape", "pattern"), 400)``.
    """

    name: str
    source: SceneSource
    kinds: Sequence[str | Ask]
    questions: int
    """Of each kind; each about a scene of its own."""

    def __post_init__(self) -> None:
        kinds_of(self.kinds)

    @property
    def asks(self) -> tuple[Ask, ...]:
        """The kinds."""
        return kinds_of(self.kinds)

    def draw(self, seed: int) -> list[AskedScene]:
        """The questions, the same for a seed."""
        return [entry for ask in self.asks for entry in draw_questions(self.source, ask, self.questions, seed)]

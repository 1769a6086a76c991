"""One corpus for all tasks of a configuration: read or drawn once, not once for each part of a mixture."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec

from locus.tasks.cue_search.corpus import Corpus

P = ParamSpec("P")
_known: ContextVar[dict[bytes, Corpus] | None] = ContextVar("corpora", default=None)


@contextmanager
def corpora_shared() -> Iterator[None]:
    """Inside, a `shared` function makes one corpus of equal arguments; none is kept longer, as files may change."""
    token = _known.set({})
    try:
        yield
    finally:
        _known.reset(token)


def shared(make: Callable[P, Corpus]) -> Callable[P, Corpus]:
    """``make``, a function of its arguments alone, whose corpora tasks may share: see `corpora_shared`."""

    @wraps(make)
    def once(*args: P.args, **kwargs: P.kwargs) -> Corpus:
        known = _known.get()
        if known is None:
            return make(*args, **kwargs)
        bound = inspect.signature(make).bind(*args, **kwargs)
        bound.apply_defaults()
        try:  # objects that are not equal by themselves, as sources, are by their parts
            key = pickle.dumps(bound.arguments)
        except (pickle.PicklingError, AttributeError, TypeError):  # a source of a user's own, say
            return make(*args, **kwargs)
        if key not in known:
            known[key] = make(*args, **kwargs)
        return known[key]

    return once

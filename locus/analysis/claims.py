"""The claims that a run is made for, H1 to H6, judged from the tables in its folder: of one run, or of several seeds.

A claim is a difference between base and trained policy on the same items, with the interval of `statistics.intervals`
over scenes; with several seeds, over scenes and seeds, which are crossed: every seed is asked the same items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import pandas as pd

from locus.analysis.changes import changed, extent, mean, paired, parts, scores
from locus.analysis.diagnoses.context_suppression import FULL
from locus.analysis.run_metrics import AFTER, BEFORE
from locus.evaluation.statistics import Score, Statistic, difference, mean_of, ratio

HOLDS, FAILS, OPEN, ABSENT = "holds", "fails", "not distinguished", "not measured"
BENCHMARKS = ("attributes", "relative position", "existence", "counting", "text grounding")
"""Of questions in crowded and in sparse scenes; each counts alike, whatever its number of questions."""
CROWDED, SPARSE, LARGE = "crowded", "sparse", "large"
"""Families of questions."""
DOUBLE, HALF_A_POINT, A_POINT = 2.0, 0.5, 1.0
FEWEST = 10
"""Items whose grounding turned: the bootstrap of fewer is too narrow to judge by."""


@dataclass(frozen=True)
class Claim:
    """A claim and what became of it; or a number beside one."""

    name: str
    statement: str
    verdict: str
    """holds, fails, not distinguished, or not measured."""
    estimate: float
    low: float
    high: float
    unit: str
    """points (of 100), IoU, or ratio."""
    threshold: float
    """What the interval is compared with."""
    over: str
    """Items, scenes and seeds; of a claim that is not measured, what lacks."""
    beside: bool = False
    """A number beside the claim of the same letter, which does not decide it."""


def _stated(name: str, statement: str, threshold: float = 0.0, unit: str = "points") -> Claim:
    return Claim(name, statement, ABSENT, math.nan, math.nan, math.nan, unit, threshold, "")


STATED = {
    "H1": _stated(
        "H1 Cue search doubles",
        "The trained policy's mean IoU in held-out cue search is at least twice the base's.",
        DOUBLE,
        "ratio",
    ),
    "H2": _stated(
        "H2 Questions in crowded scenes improve",
        "The mean change of five benchmarks of questions without a cue, in crowded scenes, is above 0.",
    ),
    "H3": _stated(
        "H3 Other questions are kept",
        "Questions in sparse scenes, and those about large objects, lose at most 1 point.",
        -A_POINT,
    ),
    "H4": _stated(
        "H4 Attention moves to the evidence", "In crowded scenes the share of attention in the evidence box rises."
    ),
    "H5": _stated(
        "H5 Answers follow grounding",
        "Where training finds the queried object and the base did not, answers improve more than elsewhere.",
    ),
    "H6": _stated(
        "H6 Context rot flattens", "Accuracy gains more where scenes hold most objects than where they hold fewest."
    ),
}
"""Every claim before anything is measured."""


def verdict(low: float, high: float, holds_above: float, fails_below: float) -> str:
    """Holds with the interval above the one, fails with it below the other; the first of these that is true."""
    if low > holds_above:
        return HOLDS
    return FAILS if high < fails_below else OPEN


def decided(claim: Claim, score: Score, over: str, fails_below: float | None = None) -> Claim:
    """A claim from its number; it fails below its threshold, unless another bound is given."""
    value, low, high = (
        number if claim.unit == "points" else number / 100 for number in (score.value, score.low, score.high)
    )
    found = verdict(low, high, claim.threshold, claim.threshold if fails_below is None else fails_below)
    return replace(claim, verdict=found, estimate=value, low=low, high=high, over=over)


def aside(claim: Claim, name: str, statement: str) -> Claim:
    """The number as one beside a claim."""
    return replace(claim, name=f"{claim.name.split()[0]} {name}", statement=statement, beside=True)


def absent(letter: str, why: str) -> list[Claim]:
    """A claim without its numbers."""
    return [replace(STATED[letter], over=why)]


def cue_search(validation: pd.DataFrame) -> list[Claim]:
    """H1, and the change of the mean IoU beside it."""
    rows = paired(validation, ["iou"]).dropna(subset=[f"iou {BEFORE}", f"iou {AFTER}"])
    if rows.empty:
        return absent("H1", "no boxes of two validations in validation.parquet")
    names = {"base": rows[f"iou {BEFORE}"], "trained": rows[f"iou {AFTER}"], "n": pd.Series(1.0, rows.index)}
    sums = rows.assign(**names).groupby(["seed", "unit"], sort=True)[list(names)].sum().reset_index()
    doubled, change = scores(
        sums,
        {"ratio": ratio("trained", "base"), "change": difference(ratio("trained", "n"), ratio("base", "n"))},
    ).values()
    over = extent(rows, "examples").replace("scenes", "images")
    claim = decided(STATED["H1"], doubled, over)
    if claim.verdict != FAILS:
        claim = replace(claim, verdict=HOLDS if claim.estimate >= DOUBLE and change.low > 0 else OPEN)
    beside = decided(replace(STATED["H1"], unit="IoU", threshold=0.0), change, over)
    return [claim, aside(beside, "change of the mean IoU", "Cue search improves.")]


def family_changes(questions: pd.DataFrame, family: str) -> pd.DataFrame:
    """One row per question of a family: seed, benchmark, item, unit, change."""
    rows = paired(questions[questions["family"] == family], ["score"], ["benchmark", "item"])
    return rows.assign(change=changed(rows, "score"))


def pooled(benchmarks: Iterable[str]) -> Statistic:
    """The mean change of the benchmarks, each counted alike."""
    return mean_of(*(mean(benchmark) for benchmark in benchmarks))


def family(questions: pd.DataFrame, name: str) -> tuple[dict[str, Score], dict[str, str]]:
    """Changes of a family's questions, pooled (under an empty name) and by benchmark; how much each stands on."""
    rows = family_changes(questions, name)
    known = [one for one in BENCHMARKS if (rows["benchmark"] == one).any()]
    known += [one for one in rows["benchmark"].unique() if one not in known]
    if not known:
        return {}, {}
    sums = parts(rows, rows["change"], rows["benchmark"])
    over = {one: extent(rows[rows["benchmark"] == one], "questions") for one in known}
    return scores(sums, {"": pooled(known), **{one: mean(one) for one in known}}), {
        "": extent(rows, "questions"),
        **over,
    }


def lacking(found: Mapping[str, Score]) -> str:
    """The benchmarks that a pooled change needs and does not have."""
    return ", ".join(one for one in BENCHMARKS if one not in found)


def crowded_questions(questions: pd.DataFrame) -> list[Claim]:
    """H2, and every benchmark beside it."""
    found, over = family(questions, CROWDED)
    claims = [decided(STATED["H2"], score, over[name], HALF_A_POINT) for name, score in found.items()]
    beside = [
        aside(claim, name, f"{name.capitalize()} in crowded scenes improves.")
        for name, claim in zip(found, claims, strict=True)
        if name
    ]
    first = absent("H2", f"no crowded {lacking(found)} in questions.parquet") if lacking(found) else claims[:1]
    return first + beside


def other_questions(questions: pd.DataFrame) -> list[Claim]:
    """H3: of sparse scenes and of large objects; both must hold, and either can fail it. Its number is that of the
    family that decides."""
    (sparse, over_sparse), (large, over_large) = (family(questions, name) for name in (SPARSE, LARGE))
    beside: list[Claim] = []
    for name, found, over in ((SPARSE, sparse, over_sparse), (LARGE, large, over_large)):
        for one, score in found.items():
            claim = decided(STATED["H3"], score, over[one])
            said = f"{one or 'all benchmarks'} ({name})".capitalize()
            beside.append(aside(claim, f"{name}: {one or 'pooled'}", f"{said} lose at most 1 point."))
    if lacking(sparse) or not large:
        missing = [f"sparse {lacking(sparse)}"] if lacking(sparse) else []
        missing += [] if large else ["large"]
        return absent("H3", f"no {' and no '.join(missing)} in questions.parquet") + beside
    whole = [decided(STATED["H3"], found[""], over[""]) for found, over in ((sparse, over_sparse), (large, over_large))]
    verdicts = {claim.verdict for claim in whole}
    joint = FAILS if FAILS in verdicts else OPEN if OPEN in verdicts else HOLDS
    shown = min((claim for claim in whole if claim.verdict == joint), key=lambda claim: claim.low)
    return [replace(shown, over=f"{shown.over}, {(SPARSE, LARGE)[whole.index(shown)]}"), *beside]


def attention(table: pd.DataFrame) -> list[Claim]:
    """H4, and how much more it is in the later half of the layers than in the earlier; of an odd number the middle one
    is in neither half."""
    layers = sorted((name for name in table if name.startswith("layer ")), key=lambda name: int(name.split()[1]))
    half = len(layers) // 2
    ends = table.assign(
        depth=table[layers[len(layers) - half :]].mean(axis=1) - table[layers[:half]].mean(axis=1) if half else 0.0
    )
    rows = paired(ends, ["attention_in_box", "depth"])
    if rows.empty:
        return absent("H4", "not both policies in attention.parquet")
    names = {"in box": "attention_in_box", "later less earlier": "depth"}
    frames = [parts(rows, changed(rows, column), pd.Series(name, rows.index)) for name, column in names.items()]
    found = scores(frames[0].merge(frames[1], on=["seed", "unit"]), {name: mean(name) for name in names})
    over = extent(rows, "items")
    beside = decided(STATED["H4"], found["later less earlier"], over)
    return [
        decided(STATED["H4"], found["in box"], over),
        aside(beside, "later layers less earlier", "It rises more in the later half of the layers."),
    ]


def grounding(table: pd.DataFrame) -> list[Claim]:
    """H5, and the same of objects that training lost."""
    rows = paired(table, ["correct", "found"])
    if rows.empty:
        return absent("H5", "not both policies in grounding_vs_answers.parquet")
    turned = changed(rows, "found").map({1.0: "gained", -1.0: "lost", 0.0: "kept"})
    sums = parts(rows, changed(rows, "correct"), turned)
    numbers = {name: int((turned == name).sum()) for name in ("gained", "lost", "kept")}
    claims = []
    for name in ("gained", "lost"):
        over = f"{extent(rows, 'items')}; object {name} in {numbers[name]}, as before in {numbers['kept']}"
        if not numbers[name] or not numbers["kept"]:
            claims += absent("H5", over)
            continue
        claim = decided(STATED["H5"], scores(sums, {name: difference(mean(name), mean("kept"))})[name], over)
        claims.append(replace(claim, verdict=OPEN) if numbers[name] < FEWEST else claim)
    turned_round = {HOLDS: FAILS, FAILS: HOLDS}  # answers to objects that are lost must lose
    lost = replace(claims[1], verdict=turned_round.get(claims[1].verdict, claims[1].verdict))
    statement = "Where the queried object is not found any more, answers get worse than where nothing changed."
    return [claims[0], aside(lost, "object lost", statement)]


def crowding(table: pd.DataFrame) -> list[Claim]:
    """H6, and the change at every number of objects."""
    full = table[table["image"] == FULL]
    rows = paired(full, ["correct"], ["question", "level"])
    levels = sorted(rows["level"].unique())
    if len(levels) < 2:
        return absent("H6", "fewer than two levels with both policies in crowding.parquet")
    sums = parts(rows, changed(rows, "correct"), rows["level"].astype(str))
    first, last = str(levels[0]), str(levels[-1])
    statistics = {"": difference(mean(last), mean(first))} | {str(level): mean(str(level)) for level in levels}
    found = scores(sums, statistics)
    over = f"{extent(rows[rows['level'] == levels[0]], 'questions')} at {len(levels)} levels"
    objects = full.groupby("level")["objects"].mean()
    beside = [
        aside(
            decided(STATED["H6"], found[str(level)], over),
            f"{objects[level]:.3g} objects",
            f"Accuracy at {objects[level]:.3g} objects improves.",
        )
        for level in levels
    ]
    return [decided(STATED["H6"], found[""], over), *beside]


JUDGES: Mapping[str, tuple[str, Callable[[pd.DataFrame], list[Claim]]]] = {
    "H1": ("validation", cue_search),
    "H2": ("questions", crowded_questions),
    "H3": ("questions", other_questions),
    "H4": ("attention", attention),
    "H5": ("grounding_vs_answers", grounding),
    "H6": ("crowding", crowding),
}
"""Letter -> the table that decides it, and how."""
COLUMNS = {
    "validation": ("item", "iou"),
    "questions": ("family", "benchmark", "item", "score"),
    "attention": ("item", "attention_in_box"),
    "grounding_vs_answers": ("item", "correct", "found"),
    "crowding": ("question", "level", "objects", "image", "correct"),
}
"""Of each table, beside policy, unit and seed; of attention the layers, too."""


def judge(tables: Mapping[str, pd.DataFrame]) -> list[Claim]:
    """All claims in order, each followed by the numbers beside it.

    Args:
        tables: name -> rows of one run or of several seeds of one setting, distinguished by column ``seed``.
    """
    claims = []
    for letter, (name, judged) in JUDGES.items():
        needed = ("policy", "unit", "seed", *COLUMNS[name])
        lacks = [column for column in needed if name in tables and column not in tables[name]]
        if name not in tables:
            claims += absent(letter, f"no {name}.parquet")
        elif lacks:
            claims += absent(letter, f"{name}.parquet has no column {', '.join(lacks)}")
        else:
            claims += judged(tables[name])
    return claims

"""What is read in responses: hand-labelled ones by form, faults that VLMEvalKit's rules keep, fuzz and linear time.

``data/responses.jsonl`` holds one response a line: its form, the task it answers, options if any, and what a reader
would take it to say. A mistake here is a mistake of the extractor, not of a label.
``python -m tests.evaluation.reading.test_reading`` prints the table of VLMEvalKit's rules and writes it into
docs/benchmarks.md.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter

import pytest

from locus.evaluation.reading import vlmevalkit
from locus.evaluation.reading.extractors import EXTRACTORS, LOCUS, VLMEVALKIT, Extractor
from locus.evaluation.reading.responses import (
    ANSWERED,
    Extracted,
    ExtractedBox,
    Reading,
    boxed,
    ends,
    final_span,
    half_width,
)
from locus.types import Response
from tests.support.paths import DATA, REPO

RESPONSES = DATA / "responses.jsonl"
DOCS = REPO / "docs" / "benchmarks.md"
ROWS = [json.loads(line) for line in RESPONSES.read_text(encoding="utf-8").splitlines()]
COLORS = {"A": "red", "B": "blue", "C": "green", "D": "yellow"}
TASKS = {
    "locus": ("letter", "letters", "yes_no", "short", "value", "box"),
    "vlmevalkit": ("letter", "yes_no", "box"),
}
"""Extractor -> what it has a rule for."""
LETTER_RULES = (vlmevalkit.extract_first_capital, vlmevalkit.extract_after_answer)


def extract(extractor: Extractor, task: str, response: Response, options: dict) -> Extracted | ExtractedBox:
    """What an extractor reads in a response to a task."""
    return getattr(extractor, task)(response, *([options] if task.startswith("letter") else []))


def read(extractor: Extractor, row: dict) -> tuple[str | list[float] | None, str]:
    """What an extractor makes of a row, and its reading."""
    response = Response(row["response"], row.get("finished", row["reading"] != "truncated"))
    found = extract(extractor, row["task"], response, row.get("options"))
    answer = found.xyxy and list(found.xyxy) if isinstance(found, ExtractedBox) else found.answer
    return answer, found.reading.value


def accuracy_table(rows: list[dict] = ROWS) -> str:
    """Markdown: for each form that VLMEvalKit's rules can read the share that they read right."""
    total, right = Counter(), Counter()
    for row in rows:
        if row["task"] in TASKS["vlmevalkit"]:
            total[row["form"]] += 1
            right[row["form"]] += read(VLMEVALKIT, row)[0] == row["expected"]
    lines = ["| form | n | vlmevalkit |", "|---|---|---|"]
    lines += [f"| {form} | {count} | {100 * right[form] / count:.0f} |" for form, count in total.items()]
    return "\n".join([*lines, f"| all | {total.total()} | {100 * right.total() / total.total():.1f} |"])


# --- The labelled responses -------------------------------------------------------------------------------------
def test_responses_are_many_and_labelled():
    """A file cut by an editor, or a label that no reading allows, would let the extractor pass unseen."""
    assert len(ROWS) >= 400 and len({row["form"] for row in ROWS}) >= 40
    for row in ROWS:
        assert (row["expected"] is None) == (row["reading"] not in ANSWERED), row
        assert Reading(row["reading"]) and row["task"] in TASKS["locus"], row
        if row["task"] == "letter" and row["options"] and row["expected"]:
            assert row["expected"] in row["options"], row


@pytest.mark.parametrize("form", dict.fromkeys(row["form"] for row in ROWS))
def test_form(form):
    """A response that any reader understands, scored as wrong or as another option, moves a benchmark's score."""
    faults = [
        f"{row['response']!r}: {row['expected']} ({row['reading']}), not {found[0]} ({found[1]})"
        for row in ROWS
        if row["form"] == form and (found := read(LOCUS, row)) != (row["expected"], row["reading"])
    ]
    assert not faults, "\n".join(faults)


def test_table_of_the_docs():
    """Numbers that were true once; or a form that the rules of VLMEvalKit suddenly read."""
    table = accuracy_table()
    assert table in DOCS.read_text(encoding="utf-8"), f"{DOCS.name} must hold this table:\n{table}"
    assert "| bare letter | 5 | 100 |" in table and "several letters" not in table


# --- Spans ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text, span",
    [
        ("<think>a</think> b", "b"),
        ("<think>a</think><answer>b</answer> c", "b"),
        ("<answer>a</answer> <answer>b</answer>", "b"),
        ("<answer>a</answer> <answer>b", "a"),
        ("a</think>b</think>c", "c"),
        ("<think>a", "a"),
        (" plain ", "plain"),
        ("b</s>", "b"),
    ],
)
def test_final_span(text, span):
    """Thoughts scored as the answer: their first candidate would count."""
    assert final_span(Response(text)) == span


def test_unfinished_thoughts_are_no_span():
    """A response cut in its thoughts has answered nothing, whatever stands in them."""
    assert final_span(Response("<think>The answer is B, but", finished=False)) == ""
    assert final_span(Response("<think>a</think>The answer is B, but", finished=False)) == "The answer is B, but"


def test_half_width_keeps_superscripts():
    """NFKC would make x² into x2, another value."""
    assert half_width("（Ｂ） １２：x² ½ Ⓒ 𝐃") == "(B) 12:x² ½ C D"


def test_boxed():
    """One brace level only loses square roots in fractions; escaped braces close nothing."""
    assert boxed(r"\boxed{\frac{\sqrt{2}}{3}}")[0] == r"\frac{\sqrt{2}}{3}"
    assert boxed(r"{ \boxed{1} and \boxed{\{2\}} }")[0] == r"\{2\}"
    assert boxed(r"\boxed{1}, \boxed{2")[0] == "1" and boxed("none") is None
    assert boxed(r"\boxed{1", finished=False) is None and boxed("\\boxed{1\nx")[0] == "1"


def test_what_is_in_sight_is_read_as_readily_as_what_is_not():
    """A policy that says in a sentence what is there, scored as silent where the denial in the same words is right."""
    question = "Is there a dog in the image?"
    for said, answer in {
        "{} dog is visible.": "A",
        "{} brown dog can be seen on the sofa.": "A",
        "{} dog is in the picture.": "The",
        "{} dogs are clearly shown.": "Two",
    }.items():
        for first, expected in ((answer, "yes"), ("No", "no")):
            assert LOCUS.yes_no(Response(said.format(first)), question).answer == expected, (said, first)
    others = "A cat is visible.", "A place for a dog is visible.", "A dog might be visible.", "The word dog is shown."
    doubted = "I doubt that a dog is visible.", "I doubt there is a dog.", "It seems unlikely that a dog is shown."
    for said in (*others, *doubted):
        assert LOCUS.yes_no(Response(said), question).answer is None, said
    assert LOCUS.yes_no(Response("The dog is in the picture.")).answer is None, "of whatever was asked"


def test_short_gold_answers_pass_their_own_reading():
    """Gold answers that the normalisation turns into something else could never be hit."""
    golds = {"Yes": "yes", "3": "3", "1,200": "1200", "Left": "left", "The bus.": "bus", "three": "3", "25 mph": "25"}
    for gold, answer in golds.items():
        assert LOCUS.short(Response(gold)) == Extracted(answer, Reading.OK)


def test_short_opening_yes_and_no():
    """ "Yes it is" compared with "yes" as three words; or "No people" taken for a no."""
    whole = {"no people": "no people", "Yes or no?": "yes or no"}
    for text, answer in {"Yes it is.": "yes", "Yes, it is.": "yes", "No.": "no", **whole}.items():
        assert LOCUS.short(Response(text)).answer == answer, text


# --- VLMEvalKit's rules, faults included --------------------------------------------------------------------------
WORDS = "because the paint of the hood reflects the sky and the sea"
LETTERS = [
    ("B", "B"),
    ("The answer is B.", "B"),
    ("(C)", "C"),
    ("{D}", "D"),
    (f"B {WORDS}", None),  # a letter before the last four words
    (f"The color has been found: B {WORDS}", None),
    ("The answer is blue", "B"),  # no boundary after the letter, and the text is not asked
    ("The answer is clearly visible", "C"),
    ("The answer is **D** as " + WORDS, "D"),
    ("<answer>B</answer>", None),
    ('"B"', None),
    ("b", None),
    ("（B）", None),
    ("答案是B", None),
    ("Option A is wrong for many reasons. The correct answer is B", "B"),
    ("A or B", None),
    ("The answer is A or B", "A"),
    ("Cannot determine the answer", None),
    ("Sorry, I can't help with images of people yet. B", None),
    ("yellow", "D"),
    ("blue or green", None),
    ("yellow, " + WORDS, None),  # longer than twice the options
    ("", None),
]


@pytest.mark.parametrize("response, letter", LETTERS)
def test_vlmevalkit_letters(response, letter):
    """A mended rule would give a column that no published number can be compared with."""
    assert VLMEVALKIT.letter(Response(response), COLORS).answer == letter


def test_vlmevalkit_reads_letters_that_are_no_option():
    """ "The answer is D" of two options is D there, wrong; not the first option."""
    found = VLMEVALKIT.letter(Response("The answer is done"), {"A": "left", "B": "right"})
    assert found == Extracted(None, Reading.OUT_OF_RANGE)


@pytest.mark.parametrize(
    "response, answer, reading",
    [
        ("Yes", "yes", "ok"),
        ("No, there is not.", "no", "ok"),
        ("Yes.", "yes", "ok"),
        ("**Yes**", None, "none"),  # stars are no marks there
        ("Yes: two", None, "none"),
        ("It is red. " * 31 + "Yes.", "yes", "ok"),
        ("It is red. " * 33 + "Yes.", None, "none"),  # full stops go up to the 32nd there
        ("Yes. There is no cat..", None, "ambiguous"),
        ("yes/no", None, "ambiguous"),
        ("eyes and yesterday", None, "none"),
        ("", None, "none"),
    ],
)
def test_vlmevalkit_yes_no(response, answer, reading):
    """Unknown mapped to no would raise HallusionBench, where 58 % of the answers are no."""
    assert VLMEVALKIT.yes_no(Response(response), "") == Extracted(answer, Reading(reading))


@pytest.mark.parametrize(
    "response, letter",
    [
        ("B", "B"),
        ("The best answer is: (C)", "C"),
        ("The answer is E.", "E"),
        ("Answer: B", "A"),  # of the word Answer
        ("At first A seems right, but the answer is B", "A"),
        ("Cannot see it", "C"),
        ("<answer>b</answer>", "B"),
        ("<think>A</think><answer>d</answer>", "D"),
        ("b", "B"),
        ("(d)", "D"),
        (")", "A"),  # a part of "(A)"
        ("", None),
        ("   ", None),
        ("The answer is", None),
        ("no letter here", None),
        ("12", None),
    ],
)
def test_vlmevalkit_first_capital(response, letter):
    """MME-RealWorld's numbers stand on this rule; an empty response must not count as A, nor stop the scoring."""
    assert vlmevalkit.extract_first_capital(Response(response)).answer == letter


@pytest.mark.parametrize(
    "response, letter",
    [
        ("<Thought process>: <<lines>> <Answer>: <<C>>", "C"),
        ("Answer: B", "B"),
        ("B", "B"),
        ("Answer A. No: Answer: D", "D"),
        ("Answer: (B)", None),
        ("answer is B", None),
        (r"\boxed{B}", None),
        ("(B)", None),
        ("Answer: Both", "B"),
        ("Answer: I", None),
        ("Answer", None),
        ("", None),
    ],
)
def test_vlmevalkit_after_answer(response, letter):
    """We-Math's own rule, which reads a template and little else."""
    assert VLMEVALKIT.template_letter(Response(response), COLORS).answer == letter


def test_vlmevalkit_boxes():
    """Digits in prose poison a box without brackets; the picture's year is no coordinate where brackets stand."""
    assert VLMEVALKIT.box(Response("In 2024: [1, 2, 3, 4]")).xyxy == (1, 2, 3, 4)
    assert VLMEVALKIT.box(Response("In 2024 the cup is at (10, 20), (30, 40)")).xyxy == (2024, 10, 20, 30)
    assert VLMEVALKIT.box(Response("10, 20")).reading is Reading.NONE
    assert VLMEVALKIT.box(Response("10, 20", finished=False)).reading is Reading.TRUNCATED


def test_vlmevalkit_guesses_the_frame():
    """Pixels of a 640 x 480 picture are taken for thousandths, so that right boxes of Qwen2.5-VL score as wrong."""
    assert vlmevalkit.guessed_fractions((0.1, 0.2, 0.5, 1.0), 640, 480) == (0.1, 0.2, 0.5, 1.0)
    assert vlmevalkit.guessed_fractions((64, 48, 320, 240), 640, 480) == (0.064, 0.048, 0.32, 0.24)
    assert vlmevalkit.guessed_fractions((128, 96, 1280, 480), 1280, 960) == (0.1, 0.1, 1.0, 0.5)


# --- Any text ---------------------------------------------------------------------------------------------------
FRAGMENTS = (
    *("<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "{", "}", "[", "]", "(", ")", "**", "$", "```", "\\"),
    *("A", "B", "(C)", "E", "a", "I", "not ", "answer is ", "Answer:", " or ", " and ", ", ", ". ", "\n", " ", "/"),
    *("yes", "no", "No ", "blue", "one", "12", "1,200", "-3.5", "1e999", "[1, 2, 3, 4]", '{"bbox_2d": ', "答案", "是"),
    *("\x00", "\ud800", "İ", "ß", "🅱️", "（Ｂ）", "²", "<|begin_of_box|>", "<|end_of_box|>", "✅", "❌", "'", '"'),
)


def test_fuzz():
    """An exception for one response stops an evaluation of hours; an answer without ok would be scored."""
    rng, seen = random.Random(0), Counter()
    for _ in range(4_000):
        text, finished = "".join(rng.choices(FRAGMENTS, k=rng.randrange(14))), rng.random() < 0.7
        options = rng.choice((COLORS, {}, {"A": "A (B", "B": "1", "C": "B"}))
        for extractor in EXTRACTORS:
            for task in TASKS[extractor.name]:
                found = extract(extractor, task, Response(text, finished), options)
                answer = found.xyxy if task == "box" else found.answer
                assert (answer is not None) == (found.reading in ANSWERED), (task, text, found)
                assert answer != "" and (finished or found.reading is not Reading.NONE or "1e999" in text), (task, text)
                if task == "letter" and answer and options:
                    assert answer in options, (text, found)
                seen[found.reading] += 1
        for rule in LETTER_RULES:
            assert rule(Response(text, finished)).reading in (Reading.OK, Reading.NONE, Reading.TRUNCATED)
    assert min(seen[reading] for reading in Reading if reading not in ANSWERED[1:]) > 50, seen


@pytest.mark.parametrize(
    "piece",
    [
        "1",
        "{",
        "}",
        "\\boxed{",
        "[",
        "[1,",
        "A ",
        "A, ",
        "answer is ",
        "not A ",
        "no ",
        " ",
        "\n",
        "<answer>",
        "1,000,",
    ],
)
def test_linear_time(piece):
    """A policy that falls into a loop writes one character to its limit; a backtracking pattern would then hang."""
    response = Response(piece * (1_000_000 // len(piece)))
    for extractor in EXTRACTORS:
        for task in TASKS[extractor.name]:
            start = time.process_time()
            extract(extractor, task, response, COLORS)
            assert time.process_time() - start < 1.5, task
    for rule in LETTER_RULES:
        rule(response)


def test_ends_keep_what_a_policy_writes():
    """A limit on long texts that cut ordinary ones would lose their answers."""
    assert ends("x" * 40_000) == "x" * 40_000 and len(ends("x" * 10**6)) == 40_001


if __name__ == "__main__":
    print(table := accuracy_table())
    text = DOCS.read_text(encoding="utf-8")
    old = text[text.index("| form |") :].split("\n\n")[0]
    DOCS.write_text(text.replace(old, table), encoding="utf-8")

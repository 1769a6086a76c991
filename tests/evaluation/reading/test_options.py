"""Options that are values or sentences, and letters that contradict their own text."""

from __future__ import annotations

import pytest

from locus.evaluation.benchmarks.vsr import QUESTION
from locus.evaluation.reading import vlmevalkit
from locus.evaluation.reading.extractors import LOCUS, VLMEVALKIT
from locus.evaluation.reading.responses import Extracted, Reading
from locus.types import Response

FRACTIONS = {"A": r"$\frac{1}{4}$", "B": r"$\frac{1}{2}$", "C": "1"}
QUARTERS = {"A": "1/4", "B": "1/2", "C": "1"}
NUMBERS = {"A": "12", "B": "15", "C": "18"}
RATIOS = {"A": "1:3", "B": "7:16", "C": "4:9"}
PAIRS = {"A": "A and B", "B": "A and C", "C": "A and D", "D": "B and C"}
FACES = {"A": r"$\text{R}$", "B": r"$\text{Y}$"}
DRAWN = {letter: letter for letter in "ABCDE"}
LENGTHS = {"A": "20 cm", "B": "20 dm", "C": "20 m"}
AREAS = {"A": "12 cm", "B": "12 cm^2", "C": "12 cm^3"}
VALUES = [
    (LENGTHS, r"\boxed{20\text{ dm}}", "B"),
    (LENGTHS, "20 dm", "B"),
    (AREAS, "The answer is 12 cm^2.", "B"),
    (DRAWN, "Line 1 → C; line 2 → A; line 3 → B.\n\nSo line 2 leads to A.", "A"),
    (DRAWN, "Line 1 → C; line 2 → A; line 3 → B.", None),
    (FRACTIONS, r"\boxed{\frac{1}{2}}", "B"),  # its LaTeX stripped, it would hold option C
    (FRACTIONS, r"The answer is $\frac12$.", "B"),
    (NUMBERS, "Let A be the centre and B the foot. Then AB = 3.6.", None),
    (NUMBERS, "A, b, c", None),
    (DRAWN, "A, b, c", None),
    (NUMBERS, r"By option B or so, \boxed{13}", None),
    (NUMBERS, r"\boxed{13}. So the answer is (B).", "B"),
    (NUMBERS, r"Thus \boxed{\text{(C) } 18}", "C"),
    (NUMBERS, r"\boxed{{\bf (C)}}", "C"),
    (RATIOS, r"\boxed{4:9}", "C"),  # 7:16 rounds to the same
    (RATIOS, r"\boxed{\frac{4}{9}}", "C"),
    (PAIRS, r"\boxed{A, D}", "C"),  # a pair, not two letters
    (FACES, r"\boxed{Y}", "B"),
    (DRAWN, r"The point C lies on it, so \boxed{5}", None),
    (FRACTIONS, "P = 1/4 because the sum is 1.", "A"),
    (FRACTIONS, "So x = 1. Then 1/4.", None),
    (QUARTERS, "So x = 1. Then 1/4.", None),
    (NUMBERS, "Each side is 15 cm, so the total is 45 cm.", None),
    (NUMBERS, "Each side is 12 cm, so the total is 18 cm.", "C"),
    (NUMBERS, "The answer is 15 small cubes.", "B"),
    (NUMBERS, "B 15", "B"),
    (NUMBERS, "It takes 43 minutes (B)", "B"),
]


@pytest.mark.parametrize("options, text, letter", VALUES)
def test_values_are_compared_before_letters_are_looked_for(options, text, letter):
    """Names of points and pieces of LaTeX taken for the choice: 14 % of the boxes that are no option gave one."""
    assert LOCUS.letter(Response(text), options).answer == letter


CAR = {
    letter: f"The color of the car is {color}."
    for letter, color in zip("ABCD", ("black", "silver", "dark blue", "blue"), strict=True)
}
SIDES = {"A": "The cup is on the left side of the plate.", "B": "The cup is on the right side of the plate."}
COLORS = {"A": "red", "B": "black", "C": "silver"}
WORDS = [
    (CAR, "The car in the image is silver", "B"),
    (CAR, "The car is dark blue.", "C"),
    (CAR, "The car is not silver but black.", "A"),
    (CAR, "The car is silver. It stands before a black house.", "B"),
    (CAR, "It is hard to tell whether the car is silver.", None),
    (CAR, "There is no car in the image.", None),
    (CAR, "The silver bike stands next to the car", None),
    (CAR, "The car is next to a silver bike.", None),
    (CAR, "The bike in front of the car is silver.", None),
    (CAR, "The bike is silver.", None),
    (CAR, "The roof of the car is silver.", None),
    (CAR, "A silver car stands there.", "B"),
    (CAR, "The paint of the car is silver.", "B"),
    (SIDES, "The cup is to the left of the plate.", "A"),
    (SIDES, "The plate is to the left of the cup.", None),  # which means B, and says left
    (SIDES, "The cup is not on the left side; it is on the right", "B"),
    ({"A": "on the left", "B": "on the right"}, "It is not on the left of the car; it is on the right.", "B"),
    (COLORS, "The bag is black (Option B) rather than silver (Option C).", "B"),
    (COLORS, "B B B", "B"),
]


@pytest.mark.parametrize("options, text, letter", WORDS)
def test_words_in_which_options_differ(options, text, letter):
    """Paraphrases unread, which cost one checkpoint 11 points on V*; or a difference read against its sense."""
    assert LOCUS.letter(Response(text), options).answer == letter


@pytest.mark.parametrize(
    "options, text, letter, by_text",
    [
        (CAR, "A. The color of the car is silver.", "A", "B"),
        (CAR, "The answer is (A): the car is silver", "A", "B"),
        (CAR, "A. The color of the car is black.", "A", None),
        (COLORS, "**A.** black", "A", "B"),
        (NUMBERS, r"\boxed{B. 12}", "B", "A"),
        (NUMBERS, "The answer is (B) 15", "B", None),
        (COLORS, "A. red\nB. black\nC. silver\nAnswer: C", "C", None),
    ],
)
def test_a_letter_that_contradicts_its_own_text(options, text, letter, by_text):
    """Counted as chosen without a word, though the response says the other option as plainly."""
    read = LOCUS.letter(Response(text), options)
    assert (read.answer, read.by_text) == (letter, by_text)
    assert (read.reading is Reading.CONTRADICTORY) == (by_text is not None)


def test_sets_of_letters():
    """ "CA" is a set as "AC" is; one letter said three times is one."""
    assert LOCUS.letters(Response("CA"), DRAWN) == Extracted("AC", Reading.OK)
    assert LOCUS.letters(Response("B B B"), DRAWN) == Extracted("B", Reading.OK)


YES_NO = {
    "There is a dog in the image.": "yes", "There is indeed a dog.": "yes", "Correct, it is on the left.": "yes",
    "True": "yes", "**True.** They are equal.": "yes", "The statement is correct.": "yes", "图中有一只狗。": "yes",
    "I see a dog on the sofa.": "yes", "False.": "no", "Incorrect. The line is longer.": "no", "图中没有手机": "no",
    "有没有手机？图中没有。": "no", "The statement is false.": "no", "There might be a dog.": None,
    "图片中可能有手机": None, "The image shows a cat, not a dog.": None, "Right side has a car.": None,
    "There are two chairs and a table, while a dog is absent.": None, "There is a total absence of dogs.": None,
    "I see a person holding a leash; the dog is missing.": None, "The dog is missing. There is a leash.": None,
    "Is there a dog? There is a cat on the sofa.": None, "Is there a dog? There is a dog on it.": "yes",
    "There is a cat. It sleeps.": None, "It is right next to the car.": None, "图中是一只猫。": None,
}  # fmt: skip


@pytest.mark.parametrize("text", YES_NO)
def test_yes_as_readily_as_no(text):
    """ "There is no dog" read and "There is a dog" not: a bias towards no, of which HallusionBench has 58 %."""
    assert LOCUS.yes_no(Response(text), "").answer == YES_NO[text]


@pytest.mark.parametrize(
    "text, answer",
    [
        ("There is a cat on the sofa.", None),
        ("There are some people. They sit in the sun.", "yes"),
        ("There are several chairs and a person.", "yes"),
        ("I see a chair for a person.", None),
        ("It is true.", "yes"),
    ],
)
def test_a_claim_is_of_what_is_asked_for(text, answer):
    """A description of the picture taken for "yes": the wrong answer to every second question of POPE."""
    assert LOCUS.yes_no(Response(text), "Is there a person in the image? Answer with yes or no.").answer == answer
    for said in ("There is a person.", "There is no person."):
        assert LOCUS.yes_no(Response(said), "Is the left line longer than the right one?").answer is None


@pytest.mark.parametrize(
    "thing, text, answer",
    [
        ("car", "There is a car in the image, with no people around.", None),
        ("car", 'There is a car next to a "No Parking" sign.', None),
        ("refrigerator", "The image shows a kitchen with a refrigerator. I don't see any people.", None),
        ("person", "There is a dog but no person in the image.", "no"),
        ("person", "There is no such object.", "no"),
        ("cup", "There is a table with no cups on it.", "no"),
    ],
)
def test_another_things_absence_is_no_answer(thing, text, answer):
    """What is there called absent, since something else is: half of POPE's questions ask for what is there."""
    assert LOCUS.yes_no(Response(text), f"Is there a {thing} in the image?").answer == answer


@pytest.mark.parametrize(
    "sentence, text, answer",
    [
        ("The cat is on the sofa.", "The cat is lying on the sofa, with no table nearby.", None),
        ("The cat is on the sofa.", "The cat is on the sofa, with no table in the picture.", None),
        ("The cat is on the sofa.", "It is on the sofa, with no other cats around.", None),
        ("The cat is on the sofa.", "The cat is on the sofa, and there is no cat on the floor.", None),
        ("The dog is without a leash.", "There is no leash.", None),
        ("The cat is on the sofa.", "The cat is on the sofa. There is no cat on the floor.", None),
        ("The cat is under the table.", "There is no cat under the table.", "no"),
        ("The cat is under the table.", "I check whether the cat is under the table. There is no cat in it.", "no"),
        ("The cat is under the table.", "There is no visible cat directly under the table.", "no"),
        ("The cat is under the table.", "There is no cat who is under a table.", "no"),
        ("The cat is under the table.", "There are no dogs or cats in the picture.", "no"),
        ("The cat is under the table.", "I don't see any cats sitting under the table.", "no"),
        ("The cat is under the table.", "The picture shows a sofa. There is no table in it.", "no"),
    ],
)
def test_a_sentence_is_false_if_its_things_are_missing(sentence, text, answer):
    """ "With no table nearby" taken for "no" to a sentence about a cat, true or not."""
    assert LOCUS.yes_no(Response(text), f"{sentence}\n{QUESTION}").answer == answer


@pytest.mark.parametrize(
    "text, answer",
    [
        ("The cat lies on the table.\n\nAnswer: False", "no"),
        ("**Answer:** True", "yes"),
        ("**Final answer**:\n\n**Incorrect**", "no"),
        ("The sentence is false: the cat lies on the table.", "no"),
        ("The caption is not right.", "no"),
        ("This is true of the picture.", "yes"),
        ("\\boxed{True}", "yes"),
        ("So \\boxed{\\text{False}}", "no"),
        ("It is right next to the car.", None),
        ("It is not right of the car.", None),
        ("It is certainly on the sofa.", None),
        ("The sentence says that the cat is right beside the car.", None),
        ("The figure: right of the car stands a cat.", None),
        ("Answer: true or false?", None),
        ("I can't say whether the sentence is true.", None),
        ("There is no evidence that the sentence is true.", None),
        ("I don't think the sentence is true.", None),
        ("It cannot be said that the caption is true.", None),
        ("It is not on the sofa, so the sentence is false.", "no"),
    ],
)
def test_true_and_false_of_a_sentence(text, answer):
    """Answers to VSR in other words than yes and no, lost; or a place to the right taken for one."""
    assert LOCUS.yes_no(Response(text), f"The cat is on the sofa.\n{QUESTION}").answer == answer


@pytest.mark.parametrize(
    "text",
    [
        "[{'bbox_2d': [10, 20, 30, 40], 'label': 'left man'}, {'bbox_2d': [50, 60, 70, 80], 'label': 'right man'}]",
        "- Top-left: (10, 20)\n- Bottom-right: (30, 40)",
        "Top-left (10, 20) and bottom-right (30, 40)",
    ],
)
def test_boxes_as_they_are_written(text):
    """Of a list in single quotes the last box, in place of the first; corners under headings unread."""
    assert LOCUS.box(Response(text)).xyxy == (10, 20, 30, 40)


@pytest.mark.parametrize(
    "text, value",
    [
        ("The answer is 3.\n\n**Step-by-step solution:** There are 6 children and each takes half.", "3"),
        (r"So the perimeter is \( 2(3 + 5) = 16 \) cm.", "16 cm"),
        (r"**Answer:** The measure of angle \(x\) is \(53^\circ\).", r"53^\circ"),
        (r"Therefore, the area is $4^2 = 16$ square units.", "16 square units"),
        ("The solution is 12.", "12"),
        (r"\boxed{3}" + "\n\nThe solution is unique.", "3"),
        (r"\boxed{60}. This result is exact.", "60"),
        (r"\boxed{3} On reflection the answer is 9.", "9"),
    ],
)
def test_values_in_sentences(text, value):
    """A heading taken for the answer's cue, or a whole sentence for the value."""
    assert LOCUS.value(Response(text)).answer == value


@pytest.mark.parametrize(
    "text, box",
    [
        ("Bounding box: 25 31 180 222", (25, 31, 180, 222)),
        ("It is at x1=701, y1=88, x2=820, y2=240.", (701, 88, 820, 240)),
        ("[1, 2, 3, 4] and the second box: [5, 6, 7, 8]", (1, 2, 3, 4)),
        ("First [1, 2, 3, 4] was too large. Final: [5, 6, 7, 8]", (5, 6, 7, 8)),
        ("In 2024 there were 3 cups, 4 dogs and 5 cats", None),
    ],
)
def test_boxes_in_plain_words(text, box):
    """Numbers without brackets lost, the last of a list taken for the first, or years for coordinates."""
    assert LOCUS.box(Response(text)).xyxy == box


def test_vlmevalkit_finds_boxes_of_free_answers():
    """The kit's parser of formulas looks into all boxes; without, its column credited none of 43 right answers."""
    assert vlmevalkit.boxed_contents(r"So \boxed{\frac{1}{2}} or \fbox{3}") == r"\frac{1}{2},3"
    assert vlmevalkit.boxed_contents(r"So \boxed{12") == "12" and vlmevalkit.boxed_contents("12") == "12"
    for text, right in (
        (r"It is \boxed{60}", True),
        (r"\boxed{60}, \boxed{4}", False),
        ("It is 60", False),
        (r"\boxed{60.}", False),
        (r"\boxed{A}", True),
    ):
        assert VLMEVALKIT.solve(Response(text), {}, "60", 2)[1] is right, text

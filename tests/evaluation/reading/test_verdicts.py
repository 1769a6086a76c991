"""Words behind a letter: what is said of it, its own text, or another sentence."""

from __future__ import annotations

import pytest

from locus.evaluation.reading.extractors import LOCUS
from locus.types import Response

YES_NO = {"A": "Yes", "B": "No"}
TRUTH = {"A": "True", "B": "False", "C": "Insufficient information"}
SIDES = {"A": "left", "B": "right"}
COLORS = {"A": "red", "B": "blue", "C": "green", "D": "yellow"}
NUMBERS = {"A": "12", "B": "15", "C": "18"}
NONE = {"A": "12", "B": "15", "C": "No correct answer"}
POINTS = {letter: f"Point {letter}" for letter in "ABCD"}
CLOSER = {"A": "A is closer", "B": "B is closer"}
DARKER = {"A": "A is darker", "B": "B is darker", "C": "About the same"}
SOLUTIONS = {"A": "neither; their concentrations are the same", "B": "Solution A", "C": "Solution B"}
VITAMINS = {"A": "Vitamin B", "B": "Vitamin C", "C": "Vitamin A"}
PAIRS = {"A": "A and B", "B": "A and C", "C": "A and D", "D": "B and C"}
REASONS = {
    "A": "Both A and R are true and R explains A",
    "B": "Both A and R are true, but R does not explain A",
    "C": "A is true but R is false.",
    "D": "A is false but R is true.",
}


@pytest.mark.parametrize(
    "options, text, letter",
    [
        (YES_NO, "Options: A. Yes B. No. The curtain is closed. The answer is B. No.", "B"),
        (YES_NO, "The answer is B: No, the curtain is closed.", "B"),
        (YES_NO, "(A) Yes is incorrect, so (B) No is the answer.", "B"),
        (YES_NO, "A. Yes\nB. No", None),
        (YES_NO, "A. Yes", "A"),
        (YES_NO, "B. No", "B"),
        (TRUTH, "A. True\nB. False\nC. Insufficient information", None),
        (
            TRUTH,
            "The options are (A) True, (B) False and (C) Insufficient information. The passage says the opposite. "
            "The answer is (B) False.",
            "B",
        ),
        (SIDES, "The chair is on the left of the table, so (A) left is correct and (B) right is incorrect.", "A"),
        (SIDES, "B. right", "B"),
        (NONE, "12 and 15 do not fit. The answer is (C) no correct answer.", "C"),
        (COLORS, "The options are A. red and B. blue. It is hard to see.", None),
        (COLORS, "A. red: no. It is B. blue.", "B"),
    ],
)
def test_a_letters_own_text_is_no_verdict(options, text, letter):
    """ "B. No" taken for "B is not it", and "A. Yes" of the options for the answer: the other of two options."""
    assert LOCUS.letter(Response(text), options).answer == letter


@pytest.mark.parametrize(
    "options, text, letter",
    [
        (NUMBERS, "Angle C is the right angle, so AB = 15. The answer is 15.", "B"),
        (NUMBERS, "Since C is right-angled, AB = 15. The answer is 15.", "B"),
        (NUMBERS, "Let's say A is the number of apples. Then 2A = 30, so A = 15.", "B"),
        (NUMBERS, "Choose A as the origin. Then AB = 15.", "B"),
        (NUMBERS, "I choose B, since AB = 15.", "B"),
        (NUMBERS, "I pick (B) 15 here, as 3 times 5.", "B"),
        (NUMBERS, "I would choose B: 15", "B"),
        (NUMBERS, "I would pick B as the answer.", "B"),
        (NUMBERS, "I would go with B for the answer.", "B"),
        (NUMBERS, "I choose B because C is larger than 15.", "B"),
        (CLOSER, "Point A is likely farther from the camera, while point B is closer.", "B"),
        (COLORS, "Camera 2 is behind it, and B is right of the car. It is green.", None),
        (COLORS, "Point B is right. It is green.", "C"),
        (COLORS, "B is right.", "B"),
        ({}, "Figure B is right.", "B"),
        (COLORS, "Image B is the right one.", "B"),
        (COLORS, "B is right: the car is blue.", "B"),
        (COLORS, "D is more likely.", "D"),
        (COLORS, "D is likely the correct answer, not C.", "D"),
        (COLORS, "D is more likely than C.", "D"),
        (dict(zip("ABC", "ABC", strict=True)), "Line B is right.", "B"),
        (COLORS, "(A) and (B) are possible, but C is the most likely explanation.", "C"),
        (COLORS, "At first sight the answer is A. But C is most likely based on the shadow.", "C"),
        (NUMBERS, "I get 12.4, which is not listed, so I choose B as the closest value.", "B"),
        (NUMBERS, "I pick B based on this. C would be 12 too many.", "B"),
        (POINTS, "Point B is more likely, since its edge matches. Point C is on the handle.", "B"),
    ],
)
def test_points_are_not_chosen(options, text, letter):
    """A right angle, a likely distance or "say A is …" taken for the choice, against the answer behind it."""
    assert LOCUS.letter(Response(text), options).answer == letter


@pytest.mark.parametrize(
    "text, letter",
    [
        ("The answer is B. No other option fits the picture.", "B"),
        ("**Answer: B**\n\nNo person is visible.", "B"),
        ("B. No other car has its lights on.", "B"),
        ("The answer is A. No, it is the left one.", None),
        ("The answer is A. No wait, it is the left one.", None),
        ("A: no. B: no. C: yes.", "C"),
        ("A. Incorrect\nB. Incorrect\nC. Incorrect\nD. Correct", "D"),
        ("A. No match. B. No match. C. No match. D fits.", "D"),
    ],
)
def test_another_sentence_is_no_denial(text, letter):
    """An answer lost because the next sentence begins with "No"."""
    assert LOCUS.letter(Response(text), COLORS).answer == letter


@pytest.mark.parametrize(
    "options, text, letter",
    [
        (SOLUTIONS, "B. Solution A", "B"),
        (SOLUTIONS, "The answer is B. Solution A", "B"),
        (SOLUTIONS, "The answer is B: Solution A.", "B"),
        (SOLUTIONS, "Solution A", "B"),
        (SOLUTIONS, "The answer is Solution A.", "B"),
        (SOLUTIONS, "Solution A has 4 particles, solution B has 6. So solution B has the higher concentration.", "C"),
        (SOLUTIONS, "Solution: B", "B"),
        (SOLUTIONS, "A. neither; their concentrations are the same\nB. Solution A\nC. Solution B", None),
        (SOLUTIONS, "(B) Solution A is incorrect, so (C) Solution B is the answer.", "C"),
        (VITAMINS, "So vitamin C is the correct answer.", "B"),
        (REASONS, "C. A is true but R is false.", "C"),
        (REASONS, "The answer is C. A is true but R is false.", "C"),
        (REASONS, "A is true but R is false.", "C"),
        (REASONS, "D. A is false but R is true.", "D"),
        (REASONS, "A. Both A and R are true and R explains A", "A"),
        (REASONS, "A is true. The answer is D.", "D"),
        (PAIRS, "B. A and C", "B"),
        (PAIRS, "A. A and B", "A"),
        (PAIRS, "A and C", "B"),
        (PAIRS, "The two are parallel.\n\nA and C", "B"),
        (PAIRS, "**A and C**", "B"),
        (PAIRS, "Answer: (A and C)", "B"),
        (PAIRS, "The two are parallel.\n**A and C**", "B"),
        ({"A": "$A$ and $B$", "B": "$A$ and $C$", "C": "$B$ and $C$"}, "A and C", "B"),
        (PAIRS, "The answer is A and C", "B"),
        (PAIRS, "The answer is A and B", "A"),
        (PAIRS, "The answer is B. A and C are parallel.", "B"),
        ({"A": "The letter C", "B": "The letter B", "C": "The letter A"}, "A. The letter C", "A"),
        ({"A": "A, B, C", "B": "B, A, C", "C": "C, A, B"}, "C, A, B", "C"),
        (POINTS, "Point B is the answer.", "B"),
        ({"A": "(B)", "B": "(A)"}, "(B)", "B"),
        ({letter: f"Option {letter}" for letter in "AB"}, "The answer is option A. Option B is too far.", "A"),
    ],
)
def test_letters_of_an_options_text_choose_nothing(options, text, letter):
    """ "B. Solution A" taken for A: in ScienceQA and MMStar a right answer scored as another option."""
    assert LOCUS.letter(Response(text), options).answer == letter


@pytest.mark.parametrize(
    "options, text, letter",
    [
        (CLOSER, "Point B, the chair, is closer to the camera.", "B"),
        (CLOSER, "Point A, the chair, is closer to the camera.", "A"),
        (CLOSER, "(B) is closer to the camera.", "B"),
        (CLOSER, "A is closer.", "A"),
        (CLOSER, "Point A is farther from the camera.", None),
        (DARKER, "Point A has a lighter surface.", None),
        (CLOSER, "The chair is closer.", None),
        (CLOSER, "Point A, the chair, is closer than point B.", "A"),
        (CLOSER, "Point B, the chair, is closer than point A.", "B"),
        (DARKER, "Point A, the wall, is darker.", "A"),
        (DARKER, "Point B, the wall, is darker.", "B"),
        (DARKER, "(B) is darker.", "B"),
        (DARKER, "The one at A is darker.", "A"),
        ({"A": "B is closer", "B": "A is closer"}, "Point B is closer.", "A"),
        ({"A": "A red car", "B": "A bus"}, "It is the red car.", "A"),
    ],
)
def test_an_a_beside_a_b_is_no_article(options, text, letter):
    """ "A is closer" without its A, so that whatever "is closer" chose A: half of BLINK's depths."""
    found = LOCUS.letter(Response(text), options)
    assert (found.answer, found.by_text) == (letter, None)

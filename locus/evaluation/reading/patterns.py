"""Patterns that distinguish letters from articles, initials and mentions.

Every repetition is bounded or over disjoint characters, so that no text costs more than linear time. Keywords match in
either case, letters as they are written.
"""

from __future__ import annotations

import re


def _words(words: str) -> str:
    """Alternatives of a list of words in either case; ``_`` in one stands for a space."""
    return rf"(?i:\b(?:{'|'.join(words.split()).replace('_', '[ ]')})\b)"


_MARKS = r"[\s*_\"'`:=()\[\]#>|~-]"
_BETWEEN = _words(
    "is are be was the option options choice choices letter letters correct right best final answer therefore "
    "thus then so clearly likely most more probably definitely indeed simply as of given here question this that "
    "to in my both either with for number following above selected"
)
_FILLER = rf"(?:{_MARKS}|,\s|{_BETWEEN}|[是为应该选填项]){{0,24}}"
_LETTER = (
    r"(?<![A-Za-z0-9_°&])(?<![A-Za-z]')(?<![A-Za-z][-&+])([A-Za-z])"
    r"(?![A-Za-z0-9_&#+°])(?!'[A-Za-z])(?!-[A-Za-z0-9])(?!/[A-Za-z0-9]{2})(?!\.[A-Za-z]\.)(?!\.[a-z])"
)
_UNDENIED = r"(?<!not )(?<!n't )(?<!never )(?<!n't\n)"

# What makes the letter after it the answer. "So", "but" and their like do only if the letter ends the sentence.
_ANSWER = r"(?<![A-Za-z])(?i:answers?(?:\(s\))?|response|solution|conclusion|verdict|result|choice|letter)"
_SUBJECT = (
    r"(?<![A-Za-z])(?i:(?:answers?|options?|choices?|response|solution|one|selection|candidate|description|"
    r"statement|match)\b)"
)
_CHOOSE = _words(
    "go_with go_for going_with going_for going_to_be vote_for settle_on opt_for guess conclude prefer bet_on "
    "lean_toward lean_towards leaning leaning_toward leaning_towards answer_to it_to that_to this_to"
)
# Of points and variables, too: see `POINT`.
_TAKE = _words("choose chose chosen choosing select selected selecting pick picked picking say mean")
_POINT = r"(?:'s|\s(?i:is|must be|has to be|should be|will be|can only be|be))\b"
STATEMENTS = re.compile(
    "|".join(
        (
            rf"{_ANSWER}{_MARKS}{{1,12}}(?i:(?:option|choice)\s)?{_MARKS}{{0,4}}(?=[A-Za-z](?![A-Za-z0-9_]))",
            rf"{_SUBJECT}[^.\n:=]{{0,60}}?{_UNDENIED}(?:{_words('is are be')}|'s\b|[:=])",
            _UNDENIED + rf"(?:{_CHOOSE}|(?P<taken>{_TAKE}))",
            _UNDENIED + _words("it this that which must should has_to") + _POINT,
            _words("leaves leaving") + r"(?:\s(?i:us|only|with|just)){0,3}\b",
            rf"(?P<joint>{_words('so thus hence therefore actually instead rather but no wait')}[,:\s])",
            r"[→⇒∴👉]|=>|->|(?:^|\n)[✅✔☑]\s?(?=[A-Z(*])|\[[xX✓✔]\]",
            r"(?<!不)(?:答案|正确选项|选择|应选|故选|选)(?!项[A-Za-z])|选项(?:是|为|:)",
        )
    )
)
ARROWS = ("→", "⇒", "=>", "->")
"""Statements that may as well be a line of a list: "line 1 → C"."""
AFTER = re.compile(_FILLER + _LETTER)
SENTENCE_ENDS = re.compile(r"[\s)\]*\"'`]{0,4}(?:[.!,;]|\n|$)|\n")
TICKED = re.compile(r"^[\s*(\[|-]{0,8}([A-Z])[).:\]*| ][^\n✅✔✓☑]{0,80}[✅✔✓☑]", re.MULTILINE)
# "Choose A as the origin", "say A is the number of apples": A stands for something.
POINT = re.compile(
    r"\s(?i:(?:as (?:the |an? |our )?(?:origin|cent(?:er|re)|vertex|apex|pivot|start\w*|reference|unknown|variable|base"
    r"|point)|to be|is|are|be|on|such that|equals?)\b|=)"
)
# "Options: A. red B. blue" states nothing.
PLURAL = re.compile(r"(?i:options|choices)")
SECOND = re.compile(r"[).:\]][^\n]{0,80}?\n?[^\n]{0,9}?\bB[).:\]]")

# What makes the letters before it the answer, or no answer; and what before a letter makes it none.
_BEHIND = r"[\s*_\"'`)\].:|-]{0,6}"
_ADVERBS = (
    rf"(?:{_words('to_be be indeed clearly definitely probably obviously also the my an most only single more both')}"
    rf"|{_words('therefore thus')}|\s){{0,8}}"
)
# "Right of the car" and "likely farther" say nothing of the letter as an answer.
_RIGHTLY = _words("right") + (
    r"(?![ -](?i:angles?|angled|triangle|side|hand|half|edge|next|of|behind|beside|above|below|on|in|at|to|by)\b)"
)
_LIKELY = (
    r"(?i:\blikely\b(?!\s(?:(?!answer)[a-z]{2,}er\b|more\b|to\b(?! be (?:the )?(?:most |best )?(?:correct|right|answer"
    r"|option|choice|match))|(?:at|in|on|near|behind|from|of|an?)\b(?! (?:good|better|match|correct)))))"
)
_RIGHT = (
    rf"(?:{_words('correct answer answers true accurate plausible appropriate match solution better best')}"
    rf"|{_words('right_answer right_choice right_option right_one')}|{_RIGHTLY}|{_LIKELY})"
)
WEAK = re.compile(r"\b(?i:right|true|likely|better)$")
"""Said of points and pictures, too."""
_WRONG = _words("not wrong incorrect false out impossible ruled eliminated unlikely excluded irrelevant")
CONFIRMED = re.compile(
    rf"{_BEHIND}(?:{_words('is are seem seems look looks appear appears must_be')}{_ADVERBS}{_RIGHT}"
    rf"|{_words('yes correct true matches remains it_is')}|{_RIGHTLY}|[✅✔✓☑]|(?:选?项)?[是最]?(?:正确|对的|对$|合适))"
)
DENIED = re.compile(
    rf"{_BEHIND}(?:{_words('is are was seem seems look looks would_be can_be appears')}{_ADVERBS}{_WRONG}"
    rf"|{_words('no wrong incorrect false contradicts cannot does_not do_not')}|(?i:isn't|aren't|doesn't|don't|can't)\b"
    r"|[❌✗✘✕✖]|(?:选?项)?是?(?:错|不))"
)
# "(A) left is correct" says something of A; "(A) left. It is correct" need not.
OPENS = r"[\s*_\"'`(\[)\].:-]{0,6}"
GOES_ON = re.compile(r"[ *_\"'`)\]]{0,6}(?![\s*_\"'`)\].:|-])")
# "B. No other car has its lights on": another sentence.
NO_THING = re.compile(
    r"[\s*_\"'`)\]]{0,4}[.\n][\s*_\"'`]{0,4}(?i:no) (?!(?:wait|actually|sorry|it|that|this|because|since|way)\b)[a-z]"
)
# "Option A fits, whereas B, C and D do not": all three are denied.
CONTRASTED = re.compile(
    rf"{_words('while whereas but')}\s(?:options\s)?(?:[A-Z],\s){{1,8}}[A-Z],?\s(?:and|or)\s[A-Z]{DENIED.pattern}"
)
# "Sadness, rather than anger (option B) or joy (option A)"
CONTRAST = re.compile(
    r"(?<=[\w)]),?\s(?i:rather than|instead of|as opposed to)\s(?:(?!\b(?:is|are|it|answer)\b)[^.\n]){1,120}"
)
_REFUSALS = _words(
    "not than unlike nor neither without exclude excludes excluding eliminate eliminates eliminating rule_out "
    "rules_out ruling_out reject rejects rejecting instead_of no_longer cannot_be"
)
REFUSED = re.compile(
    rf"(?:{_REFUSALS}|n't)(?:\s(?i:the|option|choice|answer|be|both|either)){{0,3}}[\s(\[*\"']{{0,4}}$"
    r"|(?i:\b(?:don't|do not|cannot|can't) (?:think|believe|say|be sure)\b)[^.\n]{0,30}$|(?:不是|不选|排除)$"
    r"|\b(?i:not|rather than|instead of)(?! (?:only|just|merely|sure)\b)(?:\s[^\s.,;:()]{1,20}){1,3}\s[(\[*]{1,3}"
    r"(?i:(?:option|choice)\s)?$"
)
CONDITIONAL = re.compile(r"(?i:\b(?:if|had|were)\b[^.\n;]{0,90}\bwould be)$")

# Lists of letters, and letters that begin something.
JOIN = re.compile(
    r"[\s*_\"'`)\].]{0,6}(,?\s?(?i:\b(?:and|or))\s|[/&、,;和或与])[\s*_\"'`(\[]{0,6}"
    r"(?:(?i:option|choice|also|possibly|maybe|even|perhaps)\s){0,2}[(*\"'\[]{0,3}" + _LETTER
)
_ITEM = r"[(\[\"'*]{0,3}[A-Z][)\]\"'*]{0,3}"
LIST = re.compile(
    rf"[\s*_\"'`:=-]{{0,9}}(?:[A-Z](?: [A-Z])+|(?:[(\[][A-Z][)\]]\s?)+"
    rf"|{_ITEM}(?:(?:\s?(?:[,;/&、和或]|\b(?:and|or)\b)\s?){{1,2}}{_ITEM})+)[\s*_\"'`.!-]{{0,9}}"
)
PROSE = re.compile(r"[)\]*]{0,3}(?:[.:] ?[^\s\"]|\s[a-z])")
LEADING = re.compile(
    rf"[\s*_\"'`(\[#>-]{{0,12}}(?i:(?:option|choice)\s?)?[(\[*]{{0,3}}{_LETTER}"
    r"(?=[\s*_`\"']{0,4}(?:[).:\],;!—–]|\s-|\n|$|\s(?:because|since|as|due|given)\b))"
)
LABEL = re.compile(
    r"[\s*(\[$\\]{0,6}(?:\{?\\?(?:text|textbf|mathrm|mathbf|mbox|bf|rm)\s?\{?)?"
    r"[\s(\[]{0,3}([A-J])[}\s]{0,2}([).:\]])[}\s\\]{0,4}"
)
COUNTED = re.compile(r"(?i:there (?:is|are)|(?:i|we) (?:can )?(?:see|count))\b[^.\n]{1,200}")
DOUBTS = re.compile(
    r"\b(?:if|whether|either|might|may|could|perhaps|maybe|unclear|unsure|uncertain|cannot|can't|unable|impossible"
    r"|options?|choices?|between)\b|\?|n't (?:tell|know|sure|see|determine)\b"
)
OPERATOR = re.compile(r"\s?[=^+<>]")
RESTATED = re.compile(r"(?:(?<![^\s(\[{*\"'`])[(\[]?([A-J])(?:\*\*)?[).:\],}]|\*\*([A-J])\*\*)[)\]*.:}]{0,3}(?=\s)")
LISTED = re.compile(r"(?:^|[\s.;,?])[*_`(\[-]{0,4}([A-Z])[*_`]{0,2}(?=[).:\]]|\n|$)")

# Letters that only stand in a sentence.
MENTION = re.compile(
    rf"(?:([(\[]\s?|\*\*\(?|(?i:\b(?:option|choice)\s)|选项)[(\[*\"']{{0,3}})?{_LETTER}([)\]*]{{0,3}})"
)
LABELLED = re.compile(
    _words(
        "point label labelled labeled marked vitamin figure fig line angle type part section panel row column team "
        "grade group plan player step arrow box region area segment node object image picture class exit gate "
        "platform size hepatitis route"
    )
    + r"\.?\s?$"
)
# An "A" before a small letter is an article unless one of these follows.
_VERBS = _words(
    "because as since is was and or for due based with given in which where when while but not if it the that "
    "appear appears seem seems show shows fit fits matches look looks has does would could can cannot here "
    "remains must should depict depicts describe describes represent represents correspond corresponds over "
    "contradict contradicts"
)
ARTICLE = re.compile(rf"A\s(?!{_VERBS})[a-z]")
LATEX = re.compile(r"\\[A-Za-z]{1,20}\*?|\\[()\[\],;! ]|[${}]|```\w{0,12}|</?[a-z]{1,10}\s?/?>|[<>]")

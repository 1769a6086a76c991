"""Yes or no in a response. A part of the extractor `locus`."""

from __future__ import annotations

import re

from locus.evaluation.reading.option_values import MARKED
from locus.evaluation.reading.responses import Extracted, Reading, boxed, ends, final_span, half_width, unread
from locus.types import Response

_YES = {"yes", "yeah", "yep", "yup", "是", "是的", "对", "对的", "有", "有的"}
_YES_NO = re.compile(
    r"(?<![a-z\d_-])(?:yes|yeah|yep|yup|no|nope|nah)(?![a-z\d_])"
    r"|(?<![\u4e00-\u9fff])(?:不是|没有|是的|对的|有的|[是对有否不])(?![\u4e00-\u9fff])"
)
_EITHER = re.compile(r"\byes ?(?:/|\bor\b|\band\b) ?no\b|\bno ?(?:/|\bor\b|\band\b) ?yes\b")
_NUMBERED = re.compile(r"\bno\. ?\d")
_SAID = re.compile(
    r"(?:\b(?:answer|response|conclusion|verdict)\b|答案)"
    r"(?:[\s*_\"'`:=({\[-]|\b(?:is|would|be|should|therefore|final)\b|[是为]){1,12}$"
)
_UNSAID = re.compile(r"(?:\bnot|n't|\bcannot)(?: say| answer| be)? [\"'*]?$")
# "There isn't a dog" says no, "I don't see any dog, but it may be hidden" does not.
_DENIAL = re.compile(
    r"(?:\bthere (?:is|are)(?:n't| not)|\bi (?:do not|don't|cannot|can't) see"
    r"|\b(?:image|picture|photo|scene) (?:does not|doesn't) (?:show|contain|include|have|feature|depict)) (?:an?|any)\b"
)
_UNSURE = re.compile(
    r"\b(?:but|however|although|though|except|unless|might|may|maybe|perhaps|possibly|could|sure|certain|if"
    r"|blurry|blurred|unclear|hard|difficult|hidden)\b|\?"
)
# "No image was provided", "no way to tell" and "no difference" answer no question about what is shown.
_NOTHING_SAID = re.compile(
    r" (?:(?:clear|obvious|real|visible|enough|actual|single|sufficient) )?"
    r"(?:image|picture|photo|way|information|context|details?|doubt|answer|difference|idea|question|problem)s?\b"
)
_INFERRED = re.compile(r"\b(?:suggests?|suggesting|indicates?|implies|means|so) that $")
_AS_A_WORD = re.compile(r"[\"']? (?:appears|stands|means|(?:is|was) (?:written|printed|painted|shown))\b")
# What a response says of a statement or of a thing, where it has no word of answer: yes and no alike.
_LEAVE = r"(?:\s*[*_\"'`)]*\s*(?:[,.!;:\n—–]|$))"
# "It is right of the car", "it is certainly on the sofa"
_NO_PLACE = (
    r"(?! (?:of|next|behind|beside|by|in|on|at|to|above|below|under|near|there|here|side|hand|half|angles?|panel)\b)"
)
_TRUE = (
    r"(?:correct|true|accurate|affirmative|正确|没错|对的"
    rf"|(?:right|indeed|absolutely|certainly|exactly|of course)(?![a-z]){_NO_PLACE})"
)
_FALSE = (
    r"(?:incorrect|false|wrong|inaccurate|negative|untrue|不正确|错误|不对|错"
    rf"|not (?:correct|true|accurate|right(?![a-z]){_NO_PLACE}))"
)
_OPENED = re.compile(rf"[\s*_\"'`(\[]{{0,6}}(?:that(?: is|'s) )?(?:({_TRUE})|({_FALSE})){_LEAVE}")
_SENTENCE = "statement|claim|assertion|sentence|caption"
_STATED = re.compile(
    rf"\b(?:(?:that|this|it|description|answer|above|equation|figure|diagram|{_SENTENCE})(?:\sshown)?(?:\W{{1,3}}is|'s)"
    rf"|(?:description|answer|{_SENTENCE})(?:\W{{1,3}}is)?\W{{0,3}}:)\W{{1,6}}"
    rf"(?:indeed |clearly |actually |therefore |also )?(?:({_TRUE})|({_FALSE}))(?![a-z]| or\b)"
    rf"|\b(?:{_SENTENCE})\b[^.!?\n]{{1,100}}?\bis (?:therefore |thus |indeed )?"
    rf"(?:({_TRUE})|({_FALSE}))(?![a-z]| or\b)"
)
_WHETHER = re.compile(r"\bwhether(?: or not)? (?:(?:the|this|that) )?$")
# "I don't think the sentence is true", "there is no evidence that it is"
_DENIED_OF = re.compile(
    r"(?:\bno (?:evidence|sign|indication|proof)|n't|not|never)(?: (?:think|believe|say|mean|see|conclude|be|said"
    r"|shown|true|clear|certain|sure|possible|to|the case)\b)* (?:that )?(?:(?:the|this) )?$"
)
# Sentences that repeat the question show nothing.
_POSED = re.compile(r"\b(?:whether|check|if|sentence|statement|caption|claims?|says|states)\b|\?")
_NOUN = r"(?:an?|one|two|three|four|five|six|several|some|many|multiple|at least|\d{1,3}|indeed|clearly|also)\b"
_CLAIMS = re.compile(
    rf"\bthere(?: is|'s| are) (?:(?:indeed|clearly|actually|definitely|in fact),? )?(?:{_NOUN})"
    rf"|\bi (?:can |do )?(?:clearly )?see {_NOUN}"
    r"|\b(?:image|picture|photo|scene)(?: (?:clearly|does|also))? "
    rf"(?:shows?|contains?|includes?|has|have|features?|depicts?) {_NOUN}"
)
# "No dog is visible" says no: a dog that is says yes, to whoever asks for a dog.
_IN_SIGHT = re.compile(
    rf"(?<![\w-])(?:{_NOUN}|the\b)(?! (?:words?|text)\b)(?: [a-z-]{{1,20}}){{1,6}} (?:is|are|can be) "
    r"(?:(?:indeed|clearly|also|partly|fully) )?"
    r"(?:visible|present|shown|seen|depicted|in the (?:image|picture|photo|scene|background|foreground))\b"
)
_SENTENCES = re.compile(r"(?<=[.!?])(?=\s|$)|\n")
# Words with which a thing may be named because it is not there: anywhere in a response, or beside what is.
_MISSED = re.compile(
    r"\b(?:absent|absence|missing|lack(?:s|ing)?|nowhere|nobody|nothing|none|no|not|never|neither|nor|cannot|without|zero"
    r"|empty|devoid|scarcity|shortage|dearth|fails?|failed|gone|unable)\b|n't\b"
)
_BESIDE = re.compile(
    r"\b(?:while|whereas|instead|rather|only|just|besides|apart|other than|excluding|chance|possibility|probably"
    r"|likely|unlikely|impossible|doubt(?:s|ful)?)\b"
)
_DENIED_THING = re.compile(
    rf"(?:\bno|{_DENIAL.pattern})(?: (?:visible|clear|actual))?"
    r"((?: (?!(?:[a-z]+ing|in|on|at|under|near|next|behind|beside|above|below|over|of|to|with|by|from|for|and|but|who"
    r"|because|as|depicted|located|directly|clearly|really|actually|currently|is|are|can|visible|present|shown|seen|anywhere|nearby"
    r"|around|here|there|that|which|inside|outside|between)\b)[a-z-]{1,20}){1,4})"
)
_EXISTS = re.compile(
    r"\b(?:is|are) there (?:(?:an?|any|some|the) )?([a-z][a-z -]{0,40}?)"
    r"(?= (?:in|on|at|near|visible|present|shown|here)\b|[?.,;\n]|$)"
)
_DENIES = re.compile(r"\b(?:no|not|without|but)\b|n't\b")
_LIKENED = re.compile(r"\b(?:for|like|as|resembling|resembles)(?: an?| the)? [a-z-]{1,20}")
_PLURALS = {"person": "people", "man": "men", "woman": "women", "knife": "knives", "mouse": "mice", "child": "children"}
_ANSWER_CHINESE = re.compile(
    r"(?:答案|回答)(?:[是为]|:)\s*[\"']?(?:(是|对|有|正确)|(否|不|没有|错))[^?]{0,2}(?=[.!,\n]|$)"
)
_ASKED_CHINESE = re.compile(r"(?:有没有|是不是|是否|有无|对不对)[^?.!\n]*\??")
_NO_CHINESE = re.compile(r"没有|沒有|并无|不存在|看不到|看不见|未见|不是|并非")
_YES_CHINESE = re.compile(r"(?<![没沒只所仅])有|存在|可以看到|能看到")
_OPENING = " \t\n*_\"'`({["
_CORRECTED = re.compile(r"\b(?:wait|actually|correction|sorry|on second thought|i mean|looking again|let me|but)\b")


def extract_yes_no(response: Response, question: str = "") -> Extracted:
    """``yes`` or ``no``: of the last box, after the last "answer is", else the answer word of the final span.

    Two answer words that differ are ambiguous unless the response corrects itself between them, and so is "yes or no".
    Where there is none, what is said of the thing itself counts: "Correct", "it is false", "there is no cat". That
    "there is a cat" does where the question asks for a cat, as "a cat is visible" then; where nobody says what is
    asked, only as the sole or last sentence. It never does beside a word such as "missing", "while" or "not".
    "There is no cat" says nothing to a question that is not "is there …" and names no cat.
    """
    span = half_width(final_span(response))
    box = boxed(span, response.finished)
    said_in_box = _lowered(ends(box[0])) if box else ""
    inside, _ = _particles(said_in_box)
    if len({word for word, _, _ in inside}) == 1:
        return Extracted(inside[0][0], Reading.OK)
    if opened := _OPENED.match(MARKED.sub("", said_in_box).strip("\\{} $")):
        return Extracted("yes" if opened[1] else "no", Reading.OK)
    text = _lowered(ends(span))
    found, determiner = _particles(text)
    said = [word for word, start, _ in found if _SAID.search(text, max(0, start - 40), start)]
    words = {word for word, _, _ in found}
    if said:
        return Extracted(said[-1], Reading.OK)
    if len(words) == 1:
        return Extracted(words.pop(), Reading.OK)
    if words:
        last, start = found[-1][0], found[-2][2]
        lone = text[found[-1][1] :].strip(" .!*\"'`)") in ("yes", "no") and text[: found[-1][1]].endswith("\n")
        corrected = last != found[-2][0] and _CORRECTED.search(text, start, found[-1][1])
        return Extracted(last, Reading.OK) if lone or corrected else Extracted(None, Reading.AMBIGUOUS)
    if _EITHER.search(ends(span).lower()):
        return Extracted(None, Reading.AMBIGUOUS)
    said_of_it = _claimed(text, determiner, question.lower()) if response.finished else None
    return Extracted(said_of_it, Reading.OK) if said_of_it else unread(response)


def _claimed(text: str, determiner: bool, question: str) -> str | None:
    """What a text without an answer word says: of a statement, whether it is true; of a thing, whether it is there."""
    sentences = [one for one in _SENTENCES.split(text) if one.strip()] or [""]
    if opened := _OPENED.match(text) or _OPENED.match(sentences[-1]):
        return "yes" if opened[1] else "no"
    if answers := list(_ANSWER_CHINESE.finditer(text)):
        return "yes" if answers[-1][1] else "no"
    said = [(match, _before(text, match.start())) for match in _STATED.finditer(text)]
    passing = (_UNSURE, _WHETHER, _DENIED_OF)
    stated = [match for match, before in said if not any(pattern.search(before) for pattern in passing)]
    if stated:
        return "yes" if stated[-1][1] or stated[-1][3] else "no"
    if determiner or _denied(text):
        other = question and not _things(question) and not _denies_named(text, question)
        return None if other or _shown_before_denial(text, question) else "no"
    if _shown(text, sentences, question):
        return "yes"
    return _claimed_in_chinese(_ASKED_CHINESE.sub("", sentences[-1]))


def _things(asked: str) -> list[set[str]]:
    """What a question asks for, each as it may be called."""
    return [_called(found[1].split()[-1]) for found in _EXISTS.finditer(asked)]


def _called(noun: str) -> set[str]:
    """A noun and its plurals."""
    return {noun, f"{noun}s", f"{noun}es", _PLURALS.get(noun, noun)}


def _denies_named(text: str, question: str) -> bool:
    """Whether something is said not to be there that a question names and the text has not shown: no cat of "The cat is
    under the table. Is this true?". Not of a question that denies something itself."""
    question = _EITHER.sub("", question)
    if _MISSED.search(question):
        return False
    asked = _named(question)
    asked |= {form for noun in asked for form in _called(noun)}
    denied = [found for found in _DENIED_THING.finditer(text) if found[1].split()[0] not in ("other", "more")]
    told = _SENTENCES.split(text[: denied[0].start()]) if denied else []
    shown = _named(" ".join(one for one in told if not _POSED.search(one)))
    heads = [_called(part.split()[-1]) for found in denied for part in found[1].split(" or ") if part.strip()]
    return any(names & asked and not names & shown for names in heads)


def _named(claim: str) -> set[str]:
    """The words of a claim, but for what something is likened to."""
    return set(re.findall(r"[a-z]+(?:-[a-z]+)*", _LIKENED.sub("", claim)))


def _shown_before_denial(text: str, question: str) -> bool:
    """Whether what is asked for is said to be there before something, maybe another thing, is said not to be."""
    before = _DENIES.split(text, maxsplit=1)[0]
    claim = _CLAIMS.search(before) or _IN_SIGHT.search(before)
    things = _things(question)
    return bool(claim and things and all(names & _named(before[claim.start() :]) for names in things))


def _shown(text: str, sentences: list[str], question: str) -> bool:
    """Whether what is asked for is said to be there, and nothing to be missing or doubtful."""
    asked = question or " ".join(one for one in sentences if one.endswith("?"))
    things = _things(asked)
    if _MISSED.search(text) or (asked and not things):
        return False
    told = [one for one in sentences if not one.endswith("?")]
    for one in told if asked else told[-1:]:
        claim = _CLAIMS.search(one) or (_IN_SIGHT.search(one) if things else None)
        if claim and not _UNSURE.search(one) and not _BESIDE.search(one):
            said = _named(one[claim.start() :])
            if all(names & said for names in things):
                return not _UNSURE.search(told[-1])
    return False


def _claimed_in_chinese(sentence: str) -> str | None:
    """What the last sentence says of a thing; nothing where it doubts."""
    if re.search("[可也]能|不确定|无法|不清", sentence):
        return None
    return "no" if _NO_CHINESE.search(sentence) else ("yes" if _YES_CHINESE.search(sentence) else None)


def _before(text: str, place: int) -> str:
    """The part of a sentence before a place in it."""
    return _SENTENCES.split(text[max(0, place - 200) : place])[-1]


def _lowered(text: str) -> str:
    """Lower case of the same length, "yes or no" and "No. 5" blanked out."""
    lowered = "".join(char if len(char.lower()) != 1 else char.lower() for char in text)
    for pattern in (_EITHER, _NUMBERED):
        lowered = pattern.sub(lambda match: " " * len(match[0]), lowered)
    return lowered


def _denied(text: str) -> bool:
    """Says of something that it is not there, without a doubt or an exception."""
    denials = [match for match in _DENIAL.finditer(text) if not _NOTHING_SAID.match(text, match.end())]
    spans = [text[max(0, match.start() - len(_before(text, match.start()))) : match.end() + 120] for match in denials]
    return any(not _UNSURE.search(span) for span in spans)


def _particles(text: str) -> tuple[list[tuple[str, int, int]], bool]:
    """Answer words of lower-case text with their places, and whether there is a "no" before a noun."""
    found, determiner = [], False
    for match in _YES_NO.finditer(text):
        start, end = match.span()
        before = text[max(0, start - 24) : start]
        if match[0] == "no" and _NOTHING_SAID.match(text, end) or _AS_A_WORD.match(text, end):
            continue
        opens = start < 4 and not before.strip(_OPENING) or "\n" in before[-3:] and not before[-3:].strip(_OPENING)
        if match[0] == "no" and _INFERRED.search(before):
            continue
        if match[0] == "no" and not opens and re.match(r" [a-z\d]", text[end : end + 2]):
            determiner = True
        elif not _UNSAID.search(before):
            found.append(("yes" if match[0] in _YES else "no", start, end))
    return found, determiner

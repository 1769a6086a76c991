"""The judge behind a chat endpoint: asks once, keeps the reply, tries again, and gives up with one error."""

from __future__ import annotations

import pandas as pd
import pytest

from locus.errors import LocusError
from locus.evaluation.benchmarks.ai2d import AI2D
from locus.evaluation.benchmarks.babyvision import BabyVision
from locus.evaluation.benchmarks.pope import POPE
from locus.evaluation.judge import ChatJudge
from locus.evaluation.predictions import Prediction
from locus.evaluation.reading.extractors import VLMEVALKIT
from locus.evaluation.reading.responses import Reading
from locus.evaluation.scores import judged
from locus.evaluation.scores import scores as scores_json
from tests.support.benchmark_files import hf_image, scores, verdict_on, write_parquet, write_tsv
from tests.support.benchmark_files_choice import vek
from tests.support.benchmark_files_other import baby_rows, pope_rows
from tests.support.chat_server import endpoint


def test_judge_asks_once_and_keeps_the_reply(tmp_path, monkeypatch):
    """A second scoring that pays again, a sampled verdict, a key that is not sent."""
    monkeypatch.setenv("A_KEY", "secret")
    cache = tmp_path / "new" / "judge.jsonl"
    with endpoint("True") as (url, seen):
        judge = ChatJudge(url, "m", str(cache), key_variable="A_KEY")
        assert judge.equal("Q?", "60", "sixty") and judge.equal("Q?", "60", "sixty")
        assert ChatJudge(url, "m", str(cache)).equal("Q?", "60", "sixty")
        (request,) = seen
    assert (
        request["path"] == "/v1/chat/completions" and request["temperature"] == 0 and request["key"] == "Bearer secret"
    )
    assert "sixty" in request["messages"][-1]["content"] and "secret" not in cache.read_text()


def test_judge_tries_again_and_outlives_a_cut_cache(tmp_path):
    """A run that ends at the first busy server, or at a line that an earlier run was killed in."""
    cache = tmp_path / "judge.jsonl"
    cache.write_text('{"key": "half')
    with endpoint(503, b"no json", 429, "False.") as (url, seen):
        assert not ChatJudge(url, "m", str(cache), wait=0).equal("Q?", "60", "61")
        assert len(seen) == 4
        assert not ChatJudge(url, "m", str(cache), wait=0).equal("Q?", "60", "61") and len(seen) == 4


@pytest.mark.parametrize(("status", "asked"), [(500, 3), (401, 1)])
def test_judge_gives_up_with_one_error(tmp_path, status, asked):
    """Answers counted wrong because the server was away; a refused key tried again and again."""
    with endpoint(status) as (url, seen):
        judge = ChatJudge(url, "m", str(tmp_path / "judge.jsonl"), tries=3, wait=0)
        with pytest.raises(LocusError, match=f"judge m at {url}.*status {status}.*check judge.url"):
            judge.equal("Q?", "60", "61")
    assert len(seen) == asked and not (tmp_path / "judge.jsonl").exists()


def test_judge_without_key_or_address(tmp_path):
    """A file read as if it were a server, and a missing key found after all tries."""
    with pytest.raises(LocusError, match="judge.url"):
        ChatJudge("file:///etc", "m", str(tmp_path / "j"))
    with pytest.raises(LocusError, match="NO_SUCH_KEY"):
        ChatJudge("http://localhost:1", "m", str(tmp_path / "j"), key_variable="NO_SUCH_KEY").equal("Q", "1", "2")


def test_judge_and_rule_stand_side_by_side(tmp_path):
    """A judge's score under the rule's name; a response that was cut off sent to the judge all the same."""
    path = write_parquet(tmp_path / "b.parquet", [baby_rows()[0] | {"image": hf_image()}])
    with endpoint("True") as (url, seen):
        bench = BabyVision(path, judge_model=ChatJudge(url, "m", str(tmp_path / "judge.jsonl")), rows=1)
        (item,) = bench.items()
        verdict = verdict_on(bench, item, "<think>B?</think>The red one, surely")
        cut = verdict_on(bench, item, "The red", finished=False)
        empty = verdict_on(bench, item, "<think>B?</think> ")
    table = pd.DataFrame([{"correct": verdict.correct, **verdict.columns}])
    assert bench.headline == "accuracy_judge" and verdict.correct == 1 and cut.correct == 0 and len(seen) == 1
    assert [one.columns["judged"] for one in (verdict, cut, empty)] == [1, 0, 0] and empty.correct == 0
    assert "A (red)" in seen[0]["messages"][-1]["content"] and "B?" not in seen[0]["messages"][-1]["content"]
    assert {"accuracy_judge", "accuracy_rule"} <= set(bench.statistics())
    assert scores(bench, table)["accuracy_judge"] == 100


def test_judge_is_asked_what_no_rule_reads(tmp_path):
    """Choices that no rule reads counted as wrong, where published numbers have a judge; or the judge asked of all."""
    path = write_tsv(tmp_path / "a.tsv", [vek(number, C="green") for number in range(8)])
    says = {"0": "B", "1": "A", "2": "It might be the second.", "3": "I cannot say."} | dict.fromkeys(
        "4567", "The last."
    )

    def reply(body):
        text = body["messages"][-1]["content"]
        return "B" if "second" in text else ("(C)" if "last" in text else "Z")

    with endpoint(reply) as (url, seen):
        bench = AI2D(path, rows=8, judge_model=ChatJudge(url, "m", str(tmp_path / "judge.jsonl")))
        predictions = {key: Prediction(key, text) for key, text in says.items()}
        found = judged(bench, bench.items(), predictions)
    table = found.tables["locus"]
    assert list(table["id"]) == list("01234567"), "asked several at a time, and in the items' order"
    assert list(table["answer"].fillna("-")) == ["B", "A", "B", "-", "C", "C", "C", "C"]
    assert (table["reading"] == Reading.JUDGED).sum() == 5 and found.n_unparsed["locus"] == 1
    made = scores_json(bench, found, resamples=10)
    assert made["judged"] == {"locus": 75.0, "vlmevalkit": 75.0} and made["scores"]["locus"]["accuracy"]["value"] == 25
    assert len(seen) <= 6 and all("B. blue" in request["messages"][-1]["content"] for request in seen)
    assert made["contradictory"]["locus"] == {"n": 0, "right_by_letter": 0, "right_by_text": 0}


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        *(
            (reply, "B")
            for reply in (
                "B",
                " **B**",
                "(B)",
                '"B".',
                "B. a car",
                "B: a car",
                "B - a car",
                "B\n\nIt says so.",
                "B is meant",
            )
        ),
        ("<think>A or B? The first is no car.</think>\n\nB", "B"),
        *((reply, None) for reply in ("A car is meant, which is no option", "A-frame houses", "Z", "C", "Both")),
        ("<think>A, then.</think>\n\nZ", None),
    ],
)
def test_the_letter_of_a_reply(tmp_path, reply, letter):
    """A judge that thinks first and is never understood; an article taken for option A."""
    with endpoint(reply) as (url, _):
        judge = ChatJudge(url, "m", str(tmp_path / "judge.jsonl"))
        assert judge.choose("What is it?", {"A": "a bus", "B": "a car"}, "The latter.") == letter


def test_thoughts_are_no_verdict(tmp_path):
    """A judge that weighs whether it is true, and then says neither."""
    with endpoint("<think>Is it true?</think>\n\nI cannot say.") as (url, _):
        assert not ChatJudge(url, "m", str(tmp_path / "judge.jsonl")).equal("Q?", "60", "sixty")


def test_judge_of_yes_and_no(tmp_path):
    """The letter of the judge's reply, A or B, taken for the answer."""
    with endpoint("B") as (url, seen):
        path = write_tsv(tmp_path / "p.tsv", pope_rows())
        bench = POPE(path, rows=None, judge_model=ChatJudge(url, "m", str(tmp_path / "judge.jsonl")))
        item = next(bench.items())
        verdict = verdict_on(bench, item, "Hard to make out, though hardly so.", VLMEVALKIT)
        assert (verdict.extracted.answer, verdict.extracted.reading) == ("no", Reading.JUDGED) and len(seen) == 1
        assert verdict_on(bench, item, "Yes").columns["judged"] == 0 and len(seen) == 1
        assert verdict_on(bench, item, "<think>Hm.</think>").columns["judged"] == 0 and len(seen) == 1


def test_contradictory_choices_are_counted_both_ways(tmp_path):
    """A score that silently takes the letter where the response says the other option's text."""
    path = write_tsv(tmp_path / "a.tsv", [vek(number) for number in range(3)])
    bench = AI2D(path, rows=3)
    says = {"0": "A. blue", "1": "B. red", "2": "B. blue"}  # the answer is B, blue
    found = judged(bench, bench.items(), {key: Prediction(key, text) for key, text in says.items()})
    made = scores_json(bench, found, resamples=10)
    assert made["contradictory"]["locus"] == {"n": 2, "right_by_letter": 1, "right_by_text": 1}
    assert made["readings"]["locus"] == {"contradictory": 2, "ok": 1} and found.n_unparsed["locus"] == 0


@pytest.mark.parametrize("requests", [0, 2.5])
def test_judge_sends_one_request_at_least(tmp_path, requests):
    """A traceback of a pool of threads, once all was answered."""
    with pytest.raises(LocusError, match=rf"judge\.requests={requests}: give a whole number from 1 on"):
        ChatJudge("http://localhost:1/v1", "m", str(tmp_path / "judge.jsonl"), requests=requests)

"""``python -m locus.prompts``: what another engine needs, and ``locus.score`` of what it answers."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest

from locus.errors import LocusError
from locus.evaluation.benchmarks.vstar import VStar
from locus.prompts import export
from locus.tasks.answers import THINK_ANSWER
from tests.support.runs import command, refused, succeeded
from tests.support.vstar_six import ANSWERS, write, write_vstar_six


def test_prompts_go_out_and_answers_come_back(tmp_path):
    """An engine that is asked other questions or shown other pictures than a policy in process; ids that do not fit."""
    path = write_vstar_six(tmp_path)
    files, out = ("benchmark=vstar", f"benchmark.path={path}", "benchmark.rows=6"), tmp_path / "out"
    succeeded(command("prompts", *files, "think=true", f"hydra.run.dir={out}"))
    lines = [json.loads(line) for line in (out / "vstar" / "prompts.jsonl").read_text().splitlines()]
    items = list(VStar(str(path), rows=6).items())
    assert [line["id"] for line in lines] == [item.item_id for item in items]
    assert len(list((out / "vstar" / "pictures").iterdir())) == 2, "three questions show one picture"
    for line, item in zip(lines, items, strict=True):
        (message,) = line["messages"]
        shown, asked = message["content"]
        assert message["role"] == "user" and asked == {"type": "text", "text": f"{item.prompt}\n{THINK_ANSWER}"}
        picture = Path(url2pathname(urlparse(shown["image_url"]["url"]).path))
        assert picture.samefile(out / "vstar" / line["pictures"][0])
        assert picture.read_bytes() == item.pictures[0].source
    cut = next((out / "vstar" / "pictures").iterdir())  # by a full disk
    whole = cut.read_bytes()
    cut.write_bytes(whole[:100])
    succeeded(command("prompts", *files, "think=true", f"hydra.run.dir={out}"))
    assert cut.read_bytes() == whole
    answers = write(tmp_path / "answers.jsonl", {line["id"]: text for line, text in zip(lines, ANSWERS, strict=True)})
    succeeded(command("score", *files, f"predictions={answers}", f"hydra.run.dir={tmp_path / 'scored'}"))
    assert json.loads((tmp_path / "scored" / "scores.json").read_text())["headline"]["value"] == 100
    strange = write(tmp_path / "strange.jsonl", {"vstar/0": "A"})
    again = command("score", *files, f"predictions={strange}", f"hydra.run.dir={tmp_path / 'scored'}")
    refused(again, "such as id vstar/0; its ids are 0, 1, 2, ...")
    refused(command("prompts", *files, "think=trained", f"hydra.run.dir={out}"), "think=trained: give true or false")
    succeeded(command("prompts", "limit=2", f"hydra.run.dir={out}"))  # the default asks for words, not for boxes
    assert len((out / "scenes_attributes" / "prompts.jsonl").read_text().splitlines()) == 2
    refused(command("prompts", "benchmark=scenes_grounding", f"hydra.run.dir={out}"), "backbone.frame=unit1000")
    refused(command("prompts", "benchmark=refcoco", f"hydra.run.dir={out}"), "backbone.frame=unit1000")


@pytest.mark.parametrize("limit", ["0", "-1", "2.5"])
def test_wrong_limits(tmp_path, compose_app, limit):
    """A file without a prompt, or a traceback."""
    with pytest.raises(LocusError, match=f"limit={limit}: give a whole number from 1 on"):
        export(compose_app("prompts", [f"limit={limit}"]), tmp_path)
    assert not list(tmp_path.rglob("prompts.jsonl"))

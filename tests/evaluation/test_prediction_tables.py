"""VLMEvalKit's prediction files: every response as it was given, each to its item."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest

from locus.errors import LocusError
from locus.evaluation import prediction_tables
from locus.evaluation.benchmarks.pope import POPE
from locus.evaluation.items import ItemsRead
from locus.evaluation.prediction_tables import placed
from locus.evaluation.predictions import read_predictions
from locus.evaluation.scores import judged
from locus.score import by_item
from tests.support.benchmark_files import encoded, write_tsv

RESPONSES = ["A", "12", "", "The car\nis red.\tIt is.", "=1+1", 'say "no"', "图中没有", "x" * 40_000]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    """As VLMEvalKit dumps them: a sheet without formulas, or every cell of a TSV in quotes."""
    table = pd.DataFrame(rows)
    if path.suffix == ".tsv":
        table.to_csv(path, sep="\t", index=False, encoding="utf-8", quoting=csv.QUOTE_ALL)
        return path
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (list(table), *table.itertuples(index=False)):
        # Excel holds a text of digits as a text, and cuts a long one.
        book.active.append([cell[:32_767] if isinstance(cell, str) else cell for cell in row])
        for cell in book.active[book.active.max_row]:
            cell.data_type = "s" if isinstance(cell.value, str) else cell.data_type
    book.save(path)
    return path


@pytest.mark.parametrize("suffix", [".xlsx", ".tsv"])
def test_every_response_is_read(tmp_path, suffix):
    """A number that is no answer, an empty cell that becomes "nan", a response that Excel cut taken as whole."""
    rows = [
        {"index": number, "question": "Which?", "A": "red", "answer": "A", "prediction": text}
        for number, text in enumerate(RESPONSES)
    ]
    found = read_predictions(write(tmp_path / f"model_Data{suffix}", rows))
    assert list(found) == [str(number) for number in range(len(RESPONSES))]
    texts = [one.response for one in found.values()]
    assert texts[:-1] == RESPONSES[:-1]
    whole = suffix == ".tsv"
    assert len(texts[-1]) == (40_000 if whole else 32_767) and found["7"].finished == whole
    assert all(one.finished for one in list(found.values())[:-1])
    numbers = write(tmp_path / f"numbers{suffix}", [{"index": 3.0, "prediction": 7}, {"index": 4.0, "prediction": 8}])
    expected = {"3.0": "7", "4.0": "8"} if whole else {"3": "7", "4": "8"}
    assert {name: one.response for name, one in read_predictions(numbers).items()} == expected


def test_one_row_may_be_several_items(tmp_path, monkeypatch):
    """POPE's rows serve up to three settings: each item has the row's response, and no setting that it is not in; a
    table that is read for each of its two uses, which takes a minute."""
    kinds = "random,popular,adversarial", "random", "popular,adversarial"
    row = {"image": encoded(), "question": "Is there a dog?", "answer": "Yes"}
    asked = [{"index": n, **row, "category": kind} for n, kind in enumerate(kinds)]
    benchmark = POPE(write_tsv(tmp_path / "POPE.tsv", asked), rows=6)
    given = [{**one, "prediction": text} for one, text in zip(asked, ("Yes", "No", "yes."), strict=True)]
    path = write(tmp_path / "model_POPE.tsv", [{k: v for k, v in one.items() if k != "image"} for one in given])
    items, read = ItemsRead(benchmark).items, []
    cells_of = prediction_tables.cells_of
    monkeypatch.setattr(prediction_tables, "cells_of", lambda path: read.append(path) or cells_of(path))
    found = by_item(str(path), read_predictions(path), items)
    assert read == [path]
    assert {name: one.response for name, one in found.items()} == {
        **{f"{setting}_0": "Yes" for setting in ("random", "popular", "adversarial")},
        "random_1": "No",
        **{f"{setting}_2": "yes." for setting in ("popular", "adversarial")},
    }
    assert judged(benchmark, items, found).n_missing == 0
    assert [one.id for one in found.values()] == list(found)


def test_unknown_ids_are_shown_beside_known_ones(tmp_path):
    """Predictions of another benchmark, or numbered otherwise: nobody knows what an id should look like."""
    row = {"image": encoded(), "question": "Is there a dog?", "answer": "Yes", "category": "random"}
    benchmark = POPE(write_tsv(tmp_path / "POPE.tsv", [{"index": n, **row} for n in range(5)]), rows=5)
    path = write(tmp_path / "p.tsv", [{"index": "x7", "prediction": "Yes"}, {"index": 1, "prediction": "No"}])
    items = ItemsRead(benchmark).items
    found = placed(path, read_predictions(path), [item.item_id for item in items])
    assert list(found) == ["x7", "1"], "no cell says which setting row 1 is of"
    with pytest.raises(LocusError, match="such as id x7; its ids are random_0, random_1, random_2, ..."):
        judged(benchmark, items, found)


def test_wrong_tables(tmp_path):
    """One line that names the file and what it lacks."""
    with pytest.raises(LocusError, match=r"a\.tsv: has no column prediction \(it has index, answer\)"):
        read_predictions(write(tmp_path / "a.tsv", [{"index": 1, "answer": "A"}]))
    with pytest.raises(LocusError, match=r"b\.tsv, line 3: id 1 is repeated"):
        read_predictions(write(tmp_path / "b.tsv", [{"index": 1, "prediction": "A"}] * 2))
    (tmp_path / "d.tsv").write_bytes(b"index\tprediction\n1\tA\rB\n")
    with pytest.raises(LocusError, match=r"d\.tsv: cannot be read \(new-line character seen in unquoted field"):
        read_predictions(tmp_path / "d.tsv")
    (tmp_path / "c.xlsx").write_bytes(b"no sheet")
    pytest.importorskip("openpyxl")
    with pytest.raises(LocusError, match=r"c\.xlsx: cannot be read"):
        read_predictions(tmp_path / "c.xlsx")

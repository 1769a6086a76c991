"""The evaluator: the same completions whatever the batch, pictures encoded once, files that a kill does not harm."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from locus.errors import LocusError
from locus.evaluation.benchmark import Item, Picture, Verdict
from locus.evaluation.evaluator import Asked, Evaluator, evaluate
from locus.evaluation.predictions import Prediction, PredictionFile, fingerprint, read_predictions
from locus.evaluation.reading.extractors import Extractor
from locus.evaluation.reading.responses import Extracted, Reading
from locus.evaluation.statistics import Statistic, accuracy
from locus.policy.inference import inference_policy
from locus.policy.lora import LoRA
from locus.policy.prompts import PixelLimits, PromptBuilder
from locus.types import Response, Sampling, View
from tests.support.benchmark_files import picture
from tests.support.models import FAMILIES, backbone, builder, tiny_vlm

GREEDY = Sampling(temperature=0.0, max_new_tokens=6)
BUDGET = 180
"""Two to four of the prompts here."""


def noise(seed: int, size: tuple[int, int] = (64, 48)) -> Picture:
    return Picture(f"picture-{seed}", picture(seed, size))


@dataclass(frozen=True)
class Toy:
    """Questions about pictures: several about one, about two together, and about none."""

    name: str = "toy"
    rows: int | None = 9
    headline: str = "accuracy"

    def items(self) -> Iterator[Item]:
        a, b, c = noise(1), noise(2, (96, 80)), noise(3, (80, 64))
        shown = [(a,), (a,), (a,), (b,), (b,), (a, c), (), (c,), (a,)]
        texts = ("What colour is the star?", "Where is the red star?", "Is there a dot?", "How many?")
        for number, pictures in enumerate(shown):
            yield Item(str(number), texts[number % 4] * (1 + number % 3), "A", pictures)

    def judge(self, item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
        return Verdict(item.item_id, Extracted("A", Reading.OK), 1.0, {})

    def statistics(self) -> Mapping[str, Statistic]:
        return {"accuracy": accuracy()}

    def unit(self) -> Sequence[str]:
        return ()


def evaluator(family: str, budget: int = BUDGET, sampling: Sampling = GREEDY, **settings: object) -> Evaluator:
    return Evaluator(tiny_vlm(family), builder(family), sampling, budget, **settings)


def predictions(evaluator: Evaluator, items: Sequence[Item]) -> list[Prediction]:
    return sorted(evaluator.predict(items), key=lambda one: one.batch)


def open_file(folder: Path, **settings: object) -> PredictionFile:
    return PredictionFile(folder, {"policy": "tiny", **settings}, [item.item_id for item in Toy().items()], {})


@pytest.mark.parametrize("family", FAMILIES)
def test_same_as_one_by_one(family):
    """Padding, shared pictures or the order of a batch must not leak from one item into another's response."""
    items = list(Toy().items())
    together = predictions(evaluator(family), items)
    alone = [predictions(evaluator(family), [item])[0] for item in items]
    assert [replace(one, batch=0) for one in together] == alone
    assert len({one.response for one in together}) > 4, "responses that are all alike prove nothing"
    assert [one.size is None for one in together] == [not item.pictures for item in items]
    changed = [
        one.response != other.response
        for one, other, item in zip(together, predictions(evaluator(family), repainted(items)), items, strict=True)
        if item.pictures
    ]
    assert sum(changed) > len(changed) // 2, "responses that do not depend on the pictures prove nothing either"


def repainted(items: Sequence[Item]) -> list[Item]:
    """The same questions about other pictures of the same sizes."""

    def other(picture: Picture) -> Picture:
        return noise(100 + int(picture.key.removeprefix("picture-")), picture.open().size)

    return [replace(item, pictures=tuple(map(other, item.pictures))) for item in items]


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_those_of_training(family):
    """An item put otherwise than the question that a policy was trained with: pictures in order, then the text."""
    one, items = evaluator(family), list(Toy().items())
    for item in (items[0], items[5], items[6]):
        asked = one.ask(item).prompt
        trained = builder(family).build(item.item_id, item.prompt, [picture.open() for picture in item.pictures])
        for name in ("input_ids", "mm_token_type_ids", "pixel_values", "image_grid_thw"):
            assert torch.equal(getattr(asked, name), getattr(trained, name)), name
        assert (asked.processed_size, asked.opened) == (trained.processed_size, trained.opened)


def test_pictures_are_encoded_once(monkeypatch):
    """Eighteen questions about one photo would cost eighteen passes of the vision tower."""
    one, seen = evaluator("qwen3_vl"), []
    inner = one.policy.vision_features
    monkeypatch.setattr(one.policy, "vision_features", lambda prompts: seen.extend(prompts) or inner(prompts))
    predictions(one, list(Toy().items()))
    assert len(seen) == 5, "pictures a, b, a with c, none, c"
    forgetful = evaluator("qwen3_vl", remembered=1)
    assert predictions(forgetful, list(Toy().items())) == predictions(one, list(Toy().items()))
    assert len(forgetful._features.kept) == 1


def test_adapters_are_merged_once_an_evaluation(monkeypatch):
    """Merged for every batch; encoded with adapters and decoded without; or those of the evaluation before."""
    one, made = evaluator("qwen3_vl"), []
    LoRA(4, 6.0)(one.policy)
    items = list(Toy().items())

    def spied(policy):
        made.append(inference_policy(policy))
        made[-1].encode = lambda *given, encode=made[-1].encode: encoded.append(len(made)) or encode(*given)
        return made[-1]

    encoded, found = [], []
    monkeypatch.setattr("locus.evaluation.evaluator.inference_policy", spied)
    for std in (0.0, 0.5):
        for layer in one.policy.adapters.values():
            torch.nn.init.normal_(layer.lora_B["default"].weight, std=std)
        found.append(predictions(one, items))
    assert encoded == sorted(encoded) and encoded.count(1) == encoded.count(2) > 2
    assert [answer.response for answer in found[0]] != [answer.response for answer in found[1]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_resume_in_the_same_file(tmp_path, temperature):
    """A kill at any byte, in a line or between two, must leave no trace in the end, and what was answered before the
    last line must not be asked again."""
    sampling = replace(GREEDY, temperature=temperature)
    whole = open_file(tmp_path / "whole")
    evaluate(evaluator("qwen3_vl", sampling=sampling), Toy(), whole)
    assert whole.finished
    data = whole.path.read_bytes()
    lines = data.splitlines(keepends=True)
    batches = [json.loads(line)["batch"] for line in lines]
    assert batches == list(range(9))
    between = [sum(map(len, lines[:number])) for number in range(10)]
    for end in sorted({*between, *range(10, len(data), len(data) // 7), len(data) - 1}):
        cut = open_file(tmp_path / str(end))
        cut.path.write_bytes(data[:end])
        written = data[:end].count(b"\n")
        kept = 9 if written == 9 else max(written - 1, 0)
        again, one, asked = open_file(cut.folder), evaluator("qwen3_vl", sampling=sampling), []
        ask = one.asked
        one.asked = lambda items, shown, ask=ask, asked=asked: noted(ask(items, shown), asked)
        evaluate(one, Toy(), again)
        assert cut.path.read_bytes() == data, end
        assert asked == [str(number) for number in range(kept, 9)], end


def test_answers_wait_for_those_before_them(tmp_path):
    """Answers lost, or asked for again, because an earlier item's was not there when the command ended; a file that
    shows in which order they came."""
    ids, aside = list("abcde"), tmp_path / "answered.jsonl"
    answers = [Prediction(name, f"é {name}", size=(28, 56.0)) for name in ids]
    whole = PredictionFile(tmp_path / "whole", {}, ids, {})
    whole.write(answers)
    file = PredictionFile(tmp_path, {"seed": 1}, ids, {})
    for place in (4, 1, 3):
        file.write([answers[place]])
    assert (file.done, file.left, file.path.exists()) == (3, [0, 2], False)
    with pytest.raises(LocusError, match="seed was 1, is 2"):
        PredictionFile(tmp_path, {"seed": 2}, ids, {})
    with aside.open("a") as lines:
        lines.write('{"id": "c", "resp')  # a kill
    file = PredictionFile(tmp_path, {"seed": 1}, ids, {})
    assert file.left == [0, 2] and len(aside.read_text().splitlines()) == 3
    file.write([answers[0]])
    assert file.left == [2] and len(file.path.read_text().splitlines()) == 2
    file = PredictionFile(tmp_path, {"seed": 1}, ids, {})
    assert file.left == [2], "b, the last line, is also among those aside"
    file.write([answers[2]])
    assert file.finished and file.path.read_bytes() == whole.path.read_bytes() and not aside.exists()


def test_half_an_emoji_is_written(tmp_path):
    """An evaluation that ends with its batch because one response was cut inside a character."""
    file = PredictionFile(tmp_path, {}, ["a"], {})
    file.write([Prediction("a", "B \ud83d")])
    assert read_predictions(file.path)["a"].response == "B ?"


def test_a_finished_file_keeps_its_manifest(tmp_path):
    """Scored again on another machine, and said to be made there; refused because weights would now be of its type."""
    file = PredictionFile(tmp_path, {"dtype": "bfloat16", "seed": 1}, ["a", "b"], {"hardware": "gpu"})
    file.note(policy="endpoint")
    file.write([Prediction("a", "A")])
    with pytest.raises(LocusError, match="dtype was bfloat16, is None"):
        PredictionFile(tmp_path, {"dtype": None, "seed": 1}, ["a", "b"], {"hardware": "cpu"})
    file.write([Prediction("b", "B")])
    before = (tmp_path / "manifest.json").read_bytes()
    assert PredictionFile(tmp_path, {"dtype": None, "seed": 1}, ["a", "b"], {"hardware": "cpu"}).finished
    assert (tmp_path / "manifest.json").read_bytes() == before and b"endpoint" in before
    with pytest.raises(LocusError, match="seed was 1, is 2"):
        PredictionFile(tmp_path, {"dtype": "bfloat16", "seed": 2}, ["a", "b"], {})


def noted(asked: Iterator[Asked], names: list[str]) -> Iterator[Asked]:
    """The same, their ids noted."""
    for one in asked:
        names.append(one.item_id)
        yield one


def test_seed_of_sampled_responses():
    """With a temperature a second seed must give other responses, and the same one the same."""
    items, hot = list(Toy().items()), replace(GREEDY, temperature=1.0)
    first, again, other = (predictions(evaluator("qwen3_vl", sampling=hot, seed=seed), items) for seed in (1, 1, 2))
    assert first == again != other


def test_thoughts_that_the_template_opened():
    """Without their tag, thoughts that were cut would be read as an answer, and whole ones as malformed."""
    processor = backbone("qwen3_vl").processor()
    ending = "<|im_start|>assistant\n{% endif %}"
    assert processor.chat_template.endswith(ending)
    processor.chat_template = processor.chat_template.removesuffix(ending) + ending.replace("\n", "\n<think>\n")
    thinking = Evaluator(tiny_vlm("qwen3_vl"), PromptBuilder(processor, PixelLimits()), GREEDY, BUDGET)
    found = predictions(thinking, list(Toy().items())[:2])
    assert all(one.response.startswith("<think>\n") and one.response.count("<think>") == 1 for one in found)


def test_limit_of_items(tmp_path):
    """A trial run asks the first items and no other."""
    file = PredictionFile(tmp_path, {}, ["0", "1"], {})
    evaluate(evaluator("qwen3_vl"), Toy(), file, limit=2)
    assert list(read_predictions(file.path)) == ["0", "1"] and file.finished


def test_other_settings_are_refused(tmp_path):
    """A file of two policies, or of two benchmarks, would be scored as one."""
    file = open_file(tmp_path)
    file.write([Prediction("0", "A", batch=0), Prediction("1", "B", batch=0)])
    with pytest.raises(LocusError, match="policy was tiny, is other"):
        open_file(tmp_path, policy="other")
    with pytest.raises(LocusError, match="rows was 9, is 2"):
        PredictionFile(tmp_path, {"policy": "tiny"}, ["0", "1"], {})
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(LocusError, match=r"manifest\.json cannot be read"):
        open_file(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(LocusError, match="give another folder"):
        open_file(tmp_path)


def test_other_items_are_refused(tmp_path):
    """The same number of items in another order is another benchmark."""
    PredictionFile(tmp_path, {}, ["a", "b"], {}).write([Prediction("a", "A", batch=0)])
    with pytest.raises(LocusError, match="predictions of other items"):
        PredictionFile(tmp_path, {}, ["b", "a"], {})


def test_too_long_for_the_budget():
    """Refused by name, never truncated."""
    with pytest.raises(LocusError, match="item 0 and its completion have"):
        predictions(evaluator("qwen3_vl", budget=20), list(Toy().items()))


def test_broken_pictures_are_named():
    """Among 23,609 pictures the broken one must be found."""
    items = [Item("7", "What?", "A", (Picture("one.png", b"no picture"),))]
    with pytest.raises(LocusError, match=r"item 7: picture one\.png cannot be decoded"):
        predictions(evaluator("qwen3_vl"), items)
    Image.fromarray(np.full((4, 4), 1000, dtype=np.uint16)).save(deep := io.BytesIO(), "PNG")
    with pytest.raises(LocusError, match=r"picture one\.png .* more than 256 levels: scale them to 8 bits"):
        Picture("one.png", deep.getvalue()).open()  # converted, it would be all white
    items = [Item("7", "What?", "A", (noise(1, (2000, 4)),))]
    with pytest.raises(LocusError, match="item 7: the processor refuses the image"):
        predictions(evaluator("qwen3_vl"), items)


def test_instruction_is_behind_the_prompt():
    """Policies trained with think and answer tags are asked for them, the others not."""
    plain, asked = evaluator("qwen3_vl"), evaluator("qwen3_vl", instruction="Think first.")
    item = Item("0", "What?", "A")
    short, long = plain.ask(item), asked.ask(item)
    text = asked.builder.decode(long.prompt.input_ids)
    assert "Think" in text and "Think" not in plain.builder.decode(short.prompt.input_ids)
    assert short.digest != long.digest


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: not a prediction"),
        ('{"id": "1"}', "id or response is missing"),
        ('{"id": "1", "response": null}', "the response is not text"),
        ('{"id": "1", "response": "", "finished": "no"}', "finished is neither"),
        ('{"id": "0", "response": "B"}', "id 0 is repeated"),
        ('{"id": "1", "response": "", "size": 3}', "line 2"),
    ],
)
def test_broken_lines_are_named(tmp_path, line, says):
    """A null read as the text "nan" would be an answer."""
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": 0, "response": "A"}\n' + line + "\n")
    with pytest.raises(LocusError, match=says):
        read_predictions(path)


def test_foreign_lines(tmp_path):
    """Lines from elsewhere: numbers as ids, more keys, line ends inside a response."""
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": 0, "response": "A\\u2028B", "model": "x"}\n\n{"id": "1", "response": ""}', "utf-8")
    found = read_predictions(path)
    assert found == {"0": Prediction("0", "A\u2028B"), "1": Prediction("1", "")}
    path.write_text('{"id": "0", "response": "B \\ud83d"}')  # half of an emoji
    assert read_predictions(path) == {"0": Prediction("0", "B ?")}
    path.write_text("\n")
    with pytest.raises(LocusError, match="holds no prediction"):
        read_predictions(path)
    with pytest.raises(LocusError, match="cannot be read"):
        read_predictions(tmp_path / "none.jsonl")


def test_fingerprint(tmp_path):
    """A file that was changed between two calls is another policy; what is beside them is not looked at."""
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "a.png").write_bytes(b"0")
    before = fingerprint(tmp_path, (".json",))
    assert list(before) == ["a.json"] and before["a.json"].startswith("sha256 4f53cda18c2baa0c")
    (tmp_path / "a.json").write_text("[1]")
    assert fingerprint(tmp_path, (".json",)) != before

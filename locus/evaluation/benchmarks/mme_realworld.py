"""MME-RealWorld (English) and its Lite selection: questions about large real-world pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.choice import ChoiceBenchmark, letter_of, lettered, mean_over, options_in
from locus.evaluation.benchmarks.readers import Row
from locus.evaluation.reading.extractors import Extractor
from locus.evaluation.reading.responses import Extracted
from locus.evaluation.statistics import Statistic, accuracy
from locus.types import Response

TASKS = ("Perception", "Reasoning")
DOMAINS = {
    "monitoring": "Monitoring",
    "autonomous_driving": "Autonomous_Driving",
    "ocr": "OCR with Complex Context",
    "diagram_and_table": "Diagram and Table",
    "remote_sensing": "Remote Sensing",
}
INSTRUCTION = (
    "Select the best answer to the above multiple-choice question based on the image. Respond with only the letter "
    "(A, B, C, D, or E) of the correct option. \nThe best answer is:"
)


@dataclass(frozen=True)
class MMERealWorld(ChoiceBenchmark):
    """MME-RealWorld (Zhang et al. 2024) from its official JSON and picture folder, the parquet or VLMEvalKit's TSV.

    Prompt: the official one, of all three files. The rule of ``vlmevalkit`` is the official one, which that kit uses
    here: the first capital from A to E, so that "Answer: B" is A.
    """

    letters: ClassVar[str] = "ABCDE"
    columns: ClassVar = (
        *(("Question_id", "index"), ("Text", "question"), ("Ground truth", "answer")),
        *(("Answer choices", "multi-choice options"), ("Image", "image", "bytes", "image_path")),
        *(("Task", "category"), ("Category", "l2-category")),
    )
    tsv_columns: ClassVar = columns

    def _letter(self, response: Response, options: Mapping[str, str], extractor: Extractor) -> Extracted:
        return extractor.capital(response, options)

    def statistics(self) -> Mapping[str, Statistic]:
        """Over all rows, of each task, and of each domain in it.

        The paper's Avg-C is a task's unweighted mean over its domains; ``avg_c`` is that over the domains of both,
        and ``subtask_mean`` that over all sub-tasks.
        """
        scores = {"accuracy": accuracy()}
        for task in TASKS:
            name = task.lower()
            scores |= {name: accuracy(task=task), f"{name}_avg_c": mean_over("domain", task=task)}
            scores |= {f"{name}_{slug}": accuracy(task=task, domain=domain) for slug, domain in DOMAINS.items()}
        return {**scores, "avg_c": mean_over("task_domain"), "subtask_mean": mean_over("subtask")}

    def _item(self, row: Row) -> Item:
        options = _options(row)
        choices = "".join(f"({letter}) {text}\n" for letter, text in options.items())
        prompt = f"{row.text('Text', 'question')} The choices are listed below:\n{choices}{INSTRUCTION}"
        answer = letter_of(row, "Ground truth", "answer")
        pictures = row.pictures("Image", "bytes", "image", "image_path")
        return Item(row.text("Question_id", "index"), prompt, answer, pictures, options, _groups(row))


def _options(row: Row) -> dict[str, str]:
    if "Answer choices" in row.cells:
        return lettered(row.listed("Answer choices"))
    text = row.cells["multi-choice options"]  # a list in the parquet, one text in the TSV
    return row.options() or (
        options_in(text) if isinstance(text, str) else lettered(row.listed("multi-choice options"))
    )


def _groups(row: Row) -> dict[str, str]:
    """Task, domain and sub-task; attributes of one thing are one sub-task, as in the official script."""
    if "Task" in row.cells:
        task, domain, subtask = row.text("Task"), row.text("Subtask"), row.text("Category")
    else:
        whole, subtask = row.text("category"), row.text("l2-category")
        task, domain = TASKS["perception" not in whole.lower()], whole.split("/")[-1]
    subtask = subtask.lower()
    if "attribute" in subtask:
        subtask = f"{subtask.split('/')[0]}/attribute"
    return {
        "task": task,
        "domain": domain,
        "task_domain": f"{task}/{domain}",
        "subtask": f"{task}/{domain}/{subtask}",
    }

"""One self-contained page of sections, each a text, lines, a table with intervals and pictures."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from locus.analysis.tables import formatted

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #202020; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; } td:not(:first-child) { white-space: nowrap; }
tr.better td.change { color: #00704f; font-weight: 600; } tr.worse td.change { color: #b04000; font-weight: 600; }
figure { display: inline-block; margin: .5rem; vertical-align: top; }
figure img { max-width: 31rem; border: 1px solid #ddd; } figcaption { max-width: 31rem; overflow-wrap: anywhere; }
td.better { color: #00704f; } td.worse { color: #b04000; }
.broad { margin-inline: calc((100% - min(95vw, 86rem)) / 2); } /* more than the text, where there is room */
table.judged { margin: auto; width: min-content; }
table.judged th, table.judged td { padding: .2rem .35rem; font-size: .8rem; vertical-align: top; }
table.judged th:not(:first-child), table.judged td:not(:first-child) { text-align: right; white-space: normal; }
table.judged td:first-child { white-space: nowrap; }
img.wide { max-width: 100%; } .scroll { overflow-x: auto; }
"""


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the page."""

    title: str
    text: str
    """One paragraph, plain text."""
    table: pd.DataFrame | None = None
    """See `analysis.tables`; or of texts."""
    pictures: Sequence[Image.Image] = ()
    markup: str = ""
    """HTML of its own, after the pictures."""
    captions: Sequence[str] = ()
    """Of the pictures, where they have any: plain text, in lines."""
    lines: Sequence[str] = ()
    """A list below the text; what stands before a colon is set off."""
    judged: bool = True
    """More is better: a change whose interval does not contain 0 stands out."""
    verdicts: pd.DataFrame | None = None
    """Of the shape of a table of texts: ``better``, ``worse``, or another word for a cell that does not stand out."""


def write_report(path: Path, title: str, summary: str, sections: Sequence[Section]) -> None:
    """Writes the page; everything is in the one file, and it needs no script and no network."""
    parts = [f"<h1>{html.escape(title)}</h1><p>{html.escape(summary)}</p>"]
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2><p>{html.escape(section.text)}</p>")
        if section.lines:
            parts.append(list_html(section.lines))
        if section.table is not None:
            parts.append(table_html(section.table, section.judged, section.verdicts))
        wide = len(section.pictures) == 1
        captions = section.captions or [""] * len(section.pictures)
        parts += [picture_html(one, wide, text) for one, text in zip(section.pictures, captions, strict=True)]
        parts.append(section.markup)
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    # An empty icon, else a browser asks the network for one.
    head += '<link rel="icon" href="data:,">'
    path.write_text(f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n')


def table_html(table: pd.DataFrame, judged: bool = True, verdicts: pd.DataFrame | None = None) -> str:
    """A table of `analysis.tables`, or one of texts; ``judged`` and ``verdicts`` as of `Section`."""
    shown = formatted(table) if "measure" in table else table.astype(str)
    rows = []
    for place, cells in enumerate(shown.itertuples(index=False)):
        mark = ""
        if judged and "change" in table:
            mark = "better" if table["low"].iloc[place] > 0 else "worse" if table["high"].iloc[place] < 0 else ""
        classes = ['class="change"' if name == "change" else "" for name in shown]
        if verdicts is not None:
            classes = [f'class="{one}"' if one in ("better", "worse") else "" for one in verdicts.iloc[place]]
        line = "".join(f"<td {kind}>{html.escape(cell)}</td>" for kind, cell in zip(classes, cells, strict=True))
        rows.append(f'<tr class="{mark}">{line}</tr>')
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in shown)
    if verdicts is not None:
        return f'<div class="scroll broad"><table class=judged><tr>{head}</tr>{"".join(rows)}</table></div>'
    return f"<div class=scroll><table><tr>{head}</tr>{''.join(rows)}</table></div>"


def list_html(lines: Sequence[str]) -> str:
    """Lines as a list, each with what stands before its first colon in bold."""
    split = (html.escape(line).partition(": ") for line in lines)
    return f"<ul>{''.join(f'<li><b>{head}</b>{colon}{rest}</li>' for head, colon, rest in split)}</ul>"


def picture_html(picture: Image.Image, wide: bool = False, caption: str = "") -> str:
    """A picture as part of the page, the lines of its caption below."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    image = f'<img{" class=wide" if wide else ""} alt="" src="data:image/png;base64,{data}">'
    below = f"<figcaption>{'<br>'.join(html.escape(caption).splitlines())}</figcaption>" if caption else ""
    return f"<figure>{image}{below}</figure>"

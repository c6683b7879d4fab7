"""Pages of one file that need nothing from elsewhere: of a study, of a run."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .7rem; text-align: left; white-space: nowrap; }
thead th { border-bottom: 2px solid #888; } tbody tr:hover { background: #f4f4f4; }
.wide { overflow-x: auto; } .sortable th { cursor: pointer; }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; }
svg, img { max-width: 100%; height: auto; } .bad { color: #a00; } h2 { margin-top: 2.5rem; }
"""
SORT = """
for (const table of document.querySelectorAll('table.sortable'))
  table.querySelectorAll('th').forEach((head, column) => head.onclick = () => {
    const down = head.dataset.down = head.dataset.down === '1' ? '0' : '1';
    const text = row => row.cells[column].textContent;
    const value = row => text(row) === '' || isNaN(text(row)) ? text(row) : +text(row);
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const x = value(a), y = value(b);
      return (typeof x === typeof y ? (x > y) - (x < y) : typeof x === 'number' ? -1 : 1) * (down === '1' ? 1 : -1);
    });
    table.tBodies[0].append(...rows);
  });
"""


def html_page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """A page of sections: heading and HTML each."""
    body = "".join(f"<section><h2>{escape(heading)}</h2>{html}</section>" for heading, html in sections)
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>"
        f"</head><body><h1>{escape(title)}</h1>{body}<script>{SORT}</script></body></html>\n"
    )


def html_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a table that is sorted by a click on a head."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = []
    for row in rows:
        lines.append("<tr>" + "".join(f"<td>{escape(_text(row.get(column)))}</td>" for column in columns) + "</tr>")
    table = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f"<div class=wide><table class=sortable>{table}</table></div>"


def html_text(text: str) -> str:
    """Paragraphs."""
    return "".join(f"<p>{escape(part)}</p>" for part in text.split("\n\n") if part.strip())


def html_code(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def html_figure(figure: Figure, alt: str) -> str:
    """A plot as a picture within the page."""
    file = io.BytesIO()
    figure.savefig(file, dpi=100, format="png")
    return _picture(file.getvalue(), "png", alt)


def html_film(frames_THWC: np.ndarray, alt: str, milliseconds: int = 110) -> str:
    """Frames, uint8 (T, H, W, 3), as a small animation that repeats."""
    first, *others = [Image.fromarray(frame) for frame in frames_THWC]
    file = io.BytesIO()
    first.save(file, "WEBP", save_all=True, append_images=others, duration=milliseconds, loop=0, quality=70)
    return _picture(file.getvalue(), "webp", alt)


def _picture(data: bytes, kind: str, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)

"""A confusion matrix of any size within a page: worst pairs first, and the matrix to zoom into."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from cclslr.inspect.confusion import worst_pairs
from cclslr.inspect.html import html_table

SHOWN_PAIRS = 200

SCRIPT = """
{
  const { classes, cells, right } = JSON.parse(document.getElementById('confusion-data').textContent);
  const canvas = document.getElementById('confusion'), said = document.getElementById('confusion-cell');
  const n = classes.length, size = canvas.width, c = canvas.getContext('2d');
  const counts = new Map(cells.map(([label, taken, count]) => [label * n + taken, count]));
  let x = 0, y = 0, scale = size / n;
  function draw() {
    c.fillStyle = '#fff'; c.fillRect(0, 0, size, size);
    for (const [label, taken, count] of cells) {
      const share = count / right[label], side = Math.max(scale, 1.5);
      c.fillStyle = label === taken ? `rgba(40,110,180,${.15 + .85 * share})` : `rgba(190,30,30,${.25 + .75 * share})`;
      c.fillRect((taken - x) * scale, (label - y) * scale, side, side);
    }
    c.strokeStyle = '#bbb'; c.lineWidth = 1; c.strokeRect(0, 0, size, size);
    if (scale < 14) return;
    c.fillStyle = '#222'; c.font = '11px sans-serif';
    c.strokeStyle = '#fff'; c.lineWidth = 3;
    for (let k = Math.max(0, Math.floor(y)); k < Math.min(n, y + size / scale); k++)
    {
      c.strokeText(classes[k], 3, (k - y + .65) * scale);
      c.fillText(classes[k], 3, (k - y + .65) * scale);
    }
  }
  function at(event) {
    const box = canvas.getBoundingClientRect(), f = size / box.width;
    return [x + (event.clientX - box.left) * f / scale, y + (event.clientY - box.top) * f / scale, f];
  }
  const keep = v => Math.max(0, Math.min(n - size / scale, v));
  canvas.onwheel = event => {
    event.preventDefault();
    const [px, py] = at(event), next = Math.max(size / n, Math.min(60, scale * (event.deltaY < 0 ? 1.25 : .8)));
    x = px - (px - x) * scale / next; y = py - (py - y) * scale / next; scale = next;
    x = keep(x); y = keep(y); draw();
  };
  canvas.onpointermove = event => {
    const [px, py, f] = at(event), label = Math.floor(py), taken = Math.floor(px);
    if (event.buttons) {
      x = keep(x - event.movementX * f / scale); y = keep(y - event.movementY * f / scale); draw();
    }
    if (classes[label] !== undefined && classes[taken] !== undefined)
      said.textContent = `${classes[label]} taken for ${classes[taken]}: `
        + `${counts.get(label * n + taken) || 0} of ${right[label]}`;
  };
  canvas.ondblclick = () => { x = y = 0; scale = size / n; draw(); };
  draw();
}
"""


def confusion_section(counts_KK: np.ndarray, classes: Sequence[str]) -> str:
    """The worst pairs as a table, then the matrix: the wheel zooms, dragging moves, a double click shows all.

    Args:
        counts_KK: clips, rows are labels, columns are predictions.
        classes: glosses.
    """
    of_label_K = counts_KK.sum(1)
    pairs = worst_pairs(counts_KK)
    rows = [
        {
            "label": classes[label],
            "taken for": classes[taken],
            "clips": int(counts_KK[label, taken]),
            "of": int(of_label_K[label]),
            "%": round(100 * float(counts_KK[label, taken] / of_label_K[label]), 1),
        }
        for label, taken in pairs[:SHOWN_PAIRS]
    ]
    cells = [[int(a), int(b), int(counts_KK[a, b])] for a, b in np.argwhere(counts_KK)]
    data = {"classes": list(classes), "cells": cells, "right": of_label_K.tolist()}
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    more = f" The first {SHOWN_PAIRS:,} are listed." if len(pairs) > SHOWN_PAIRS else ""
    right, clips = int(counts_KK.trace()), int(counts_KK.sum())
    return (
        f"<p>{right:,} of {clips:,} clips right, {len(pairs):,} pairs confused.{more}</p>"
        f'<div style="max-height:22rem;overflow:auto">{html_table(rows) if rows else ""}</div>'
        "<p>Rows are labels, columns predictions. The wheel zooms, dragging moves, a double click shows all. "
        '<b id="confusion-cell"></b></p><canvas id="confusion" width="720" height="720"></canvas>'
        f'<script type="application/json" id="confusion-data">{text}</script><script>{SCRIPT}</script>'
    )

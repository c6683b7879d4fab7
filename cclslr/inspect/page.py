"""One self-contained HTML page of clips: a row a clip, every stage a film, all films in step."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from cclslr.inspect.films import ClipFilms, Film
from cclslr.shards.info import DatasetInfo

STYLE = """
:root { --t: 0; --last: 1; color-scheme: dark; }
* { box-sizing: border-box; }
body { margin: 0; font: 14px/1.45 system-ui, sans-serif; background: #14161a; color: #e4e6ea; }
header { position: sticky; top: 0; z-index: 1; padding: 12px 20px; background: #1b1e24;
  border-bottom: 1px solid #333842; }
h1 { margin: 0 0 2px; font-size: 18px; }
header p { margin: 0 0 8px; color: #a3a9b5; }
form { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 18px; margin: 0; }
button, select { font: inherit; color: inherit; background: #2a2f38; border: 1px solid #444b57; border-radius: 6px;
  padding: 3px 10px; }
input[type=range] { width: 180px; vertical-align: middle; }
output { color: #a3a9b5; }
main { padding: 8px 20px 40px; }
article { display: flex; gap: 18px; padding: 14px 0; border-bottom: 1px solid #2a2f38; }
article[hidden] { display: none; }
.about { flex: 0 0 190px; min-width: 0; overflow-wrap: anywhere; }
.about h2 { margin: 0; font-size: 15px; }
.about dl { display: grid; grid-template-columns: auto 1fr; gap: 0 10px; margin: 4px 0 0; color: #a3a9b5;
  font-size: 13px; }
.about dd { margin: 0; color: #e4e6ea; }
.tag { display: inline-block; margin-top: 4px; padding: 0 8px; border-radius: 9px; background: #7a4a12; color: #ffe2b8;
  font-size: 12px; }
.films { display: flex; flex-wrap: wrap; gap: 10px 12px; }
figure { margin: 0; }
.film { height: 112px; background-repeat: no-repeat; border-radius: 4px; background-color: #000;
  background-position: calc(var(--t) / var(--last) * 100%) 0; }
figcaption { font-size: 12px; line-height: 1.3; }
figcaption span { display: block; color: #a3a9b5; }
"""

SCRIPT = """
const articles = [...document.querySelectorAll('article')];
const control = id => document.getElementById(id);
function filter() {
  let shown = 0;
  for (const a of articles) {
    const hide = (control('label').value && a.dataset.label !== control('label').value)
      || (control('degenerate').checked && !a.dataset.degenerate);
    a.hidden = hide;
    shown += !hide;
  }
  control('count').value = shown + ' of ' + articles.length + ' clips';
}
function show(t) {
  document.documentElement.style.setProperty('--t', t);
  control('frame').value = t;
}
let timer = null;
function play(on) {
  clearInterval(timer);
  timer = on ? setInterval(() => show((+control('frame').value + 1) % FRAMES), 110) : null;
  control('play').textContent = on ? 'Pause' : 'Play';
}
control('label').addEventListener('change', filter);
control('degenerate').addEventListener('change', filter);
control('frame').addEventListener('input', event => { play(false); show(event.target.value); });
control('play').addEventListener('click', () => play(timer === null));
document.documentElement.style.setProperty('--last', FRAMES - 1);
filter();
show(START);
play(!matchMedia('(prefers-reduced-motion: reduce)').matches && !location.hash.includes('still'));
"""


def page(title: str, summary: str, clips: Iterable[ClipFilms], num_frames: int) -> str:
    """The page as one HTML text: no other file and no network is needed to read it."""
    clips = list(clips)
    labels = sorted({clip.label for clip in clips})
    options = "".join(f"<option>{html.escape(label)}</option>" for label in labels)
    script = SCRIPT.replace("FRAMES", str(num_frames)).replace("START", str(num_frames // 2))
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
<header>
<h1>{html.escape(title)}</h1>
<p>{html.escape(summary)}</p>
<form>
<label>Label <select id="label"><option value="">all</option>{options}</select></label>
<label><input type="checkbox" id="degenerate"> degenerate masks only</label>
<button type="button" id="play">Pause</button>
<label>Frame <input type="range" id="frame" min="0" max="{num_frames - 1}" value="0"></label>
<output id="count"></output>
</form>
</header>
<main>
{"".join(_article(clip) for clip in clips)}</main>
<script>{script}</script>
</html>
"""


def summarise(info: DatasetInfo) -> str:
    """One line about a data set: clips, codec, and how its masks were made."""
    clips = sum(info["clips"].values())
    also = "".join(f", also in {side} pixels" for side in info.get("smaller", []))
    text = f"{clips:,} clips, {len(info['classes'])} classes, {info['codec']}{also}. "
    masks = info.get("masks")
    if not isinstance(masks, dict):
        return text + "No masks."
    options, degenerate = masks["options"], sum(masks["totals"]["degenerate"].values())
    how = options["method"]
    if masks["flow"] is not None:
        flow = masks["flow"]
        how = (
            f"{how} with flow {flow['preset']} {flow['size']} ({flow['sha256'][:8]}), keep {options['keep']}, "
            f"{options['threshold']} p = {options['p']:g}, {options['binarize'].replace('_', ' ')}"
        )
    return text + f"Masks: {how}; {masks['share_kept']:.0%} of pixels kept, {degenerate:,} degenerate clips."


def _article(clip: ClipFilms) -> str:
    facts = {"clip": clip.key, "signer": clip.signer, "split": clip.split, "frames": clip.num_frames}
    rows = "".join(f"<dt>{name}</dt><dd>{html.escape(str(value))}</dd>" for name, value in facts.items())
    tag = f'<span class="tag">{html.escape(clip.degenerate)}</span>' if clip.degenerate else ""
    attributes = f'data-label="{html.escape(clip.label)}" data-degenerate="{html.escape(clip.degenerate or "")}"'
    films = "".join(_figure(film, clip) for film in clip.films)
    return (
        f'<article {attributes}>\n<div class="about"><h2>{html.escape(clip.label)}</h2>{tag}<dl>{rows}</dl></div>\n'
        f'<div class="films">{films}</div>\n</article>\n'
    )


def _figure(film: Film, clip: ClipFilms) -> str:
    count, height, width, _ = film.frames_THWC.shape
    strip = np.concatenate(list(film.frames_THWC), 1)
    file = io.BytesIO()
    Image.fromarray(strip).save(file, "JPEG", quality=72)
    data = base64.b64encode(file.getvalue()).decode()
    shown = round(width * 112 / height)
    label = html.escape(f"{film.title} of clip {clip.key}")
    return (
        f'<figure style="width:{shown}px"><div class="film" role="img" aria-label="{label}" style="'
        f'background-size:{count * 100}% 100%;background-image:url(data:image/jpeg;base64,{data})"></div>'
        f"<figcaption>{html.escape(film.title)}<span>{html.escape(film.caption)}</span></figcaption></figure>"
    )

"""What a study leaves: results.csv and results.json, tables.md, plots, index.html."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from cclslr.environment import describe
from cclslr.files import atomic_write, read_json, write_json
from cclslr.inspect.html import html_code, html_page, html_table, html_text
from cclslr.study.graph import Graph
from cclslr.study.plots import draw, render
from cclslr.study.results import collect, differences, summarise, wide, write_csv
from cclslr.study.spec import Study
from cclslr.study.stage import RESULT
from cclslr.study.tables import difference_table, pivot
from cclslr.study.target import cost_table, costs, draw_target, reached, reached_table


def write_study(study: Study, graph: Graph, store: Path, out: Path, errors: dict[str, str]) -> str:
    """Write everything about the stages that are done into `out`; the tables as Markdown."""
    results = collect(study, graph, store)
    found = differences(study, results)
    rows, means = wide(results), summarise(results)
    write_csv(out / "results.csv", rows)
    prices, came = ([], []) if study.target is None else (costs(study, results), reached(study, results, found))
    tables = [cost_table(study, prices)] if prices else []
    tables += [reached_table(study, came)] if came else []
    for spec in study.tables:
        tables.append(pivot(spec, results))
        if (table := difference_table(spec, results, found)) is not None:
            tables.append(table)
    missing = sorted(
        {f"{cell.name}, seed {seed}" for cell, seed, a in graph.reports if not graph.stages[a].is_done(store)}
    )
    about = "\n\n".join([study.about, *([f"Not there yet: {'; '.join(missing)}."] if missing else [])])
    text = "\n".join([f"# {study.title}\n", f"{about}\n", *(table.markdown() for table in tables)])
    with atomic_write(out / "tables.md", "w") as file:
        file.write(text)
    stages = stage_rows(graph, store, errors)
    machine = describe()
    record: dict[str, Any] = {
        "study": study.name, "title": study.title, "seeds": study.seeds, "overrides": study.overrides,
        "results": rows, "means": means, "differences": [dataclasses.asdict(each) for each in found],
        "stages": stages, "environment": machine, "file": study.text,
    }  # fmt: skip
    if study.target is not None:
        record["costs"] = [dataclasses.asdict(each) for each in prices]
        record["target"] = [
            dataclasses.asdict(each) | {"reached": each.reached, "compared": each.compared} for each in came
        ]
    write_json(out / "results.json", record)
    drawings = []
    figures = [
        (f"plot_{number}_{re.sub(r'[^a-z0-9]+', '_', plot.title.lower()).strip('_')}", draw(plot, results))
        for number, plot in enumerate(study.plots, 1)
    ]
    if study.target is not None and (figure := draw_target(study, came, prices)) is not None:
        figures.insert(0, ("target", figure))
    for name, figure in figures:
        png, svg = render(figure, "png"), render(figure, "svg").decode()
        for file_name, data in ((f"{name}.png", png), (f"{name}.svg", svg.encode())):
            with atomic_write(out / file_name) as file:
                file.write(data)
        # Ids of glyphs and clip paths are this drawing's own, where many drawings share a page.
        drawings.append(re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}_", svg[svg.index("<svg") :]))
    sections = [
        ("Question", html_text(about)),
        ("Tables", "".join(table.html() for table in tables)),
        *([("Plots", "".join(drawings))] if drawings else []),
        ("Means", html_table(means)),
        ("Every cell and seed", html_table(rows)),
        ("Stages", html_table(stages)),
        ("Study file", html_code(study.text)),
        ("Environment", html_table([{"what": name, "value": value} for name, value in machine.items()])),
    ]
    with atomic_write(out / "index.html", "w") as file:
        file.write(html_page(study.title, sections))
    return text


def stage_rows(graph: Graph, store: Path, errors: dict[str, str]) -> list[dict[str, Any]]:
    """A row for each stage: what it is, where it is, whether it is done."""
    rows = []
    for address, stage in graph.stages.items():
        folder = stage.folder(store)
        done = stage.is_done(store)
        begun = "begun" if folder.exists() else ""
        state = "done" if done else f"failed: {errors[address]}" if address in errors else begun
        seconds = read_json(folder / RESULT)["seconds"] if done else None
        head = {"stage": stage.name, "for": graph.users_of(address), "state": state}
        rows.append(head | {"seconds": seconds, "folder": str(folder)})
    return rows

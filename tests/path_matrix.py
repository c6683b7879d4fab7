"""The path matrix: which promise is tested on which path, and why the rest is not.

A path is a cell: program x backend and decoder x codec x ranks x accident. `decide` says of each whether it is tested,
which promise it tests and where, or why it stays empty. `tests/test_paths.py` tests the cells that have no test
elsewhere; `python tests/path_matrix.py` writes docs/path-matrix.md.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cclslr.codecs import codecs

PAGE = Path(__file__).parents[1] / "docs/path-matrix.md"

BACKENDS = {  # what each program is told; all on a CPU, as machines with a GPU are another matter
    "numba": ["data.backend=numba"],
    "dali": ["data.backend=dali", "data.decode=dali"],
    "dali, libav": ["data.backend=dali", "data.decode=libav"],
    "ffcv": ["data.backend=ffcv"],
}
OWN = "codec"  # masks are made of whole clips, which the codec itself decodes
PROGRAMS = {
    "train": list(BACKENDS),
    "finetune": list(BACKENDS),
    "evaluate": list(BACKENDS),
    "predict": list(BACKENDS),
    "probe": list(BACKENDS),
    "masks": [OWN],
    "embed": list(BACKENDS),
}
TRAINERS = ("train", "finetune")
CODECS = list(codecs())
USUAL = "jpeg"  # the codec that every backend takes on a CPU
RANKS = (1, 2)
ACCIDENTS = (
    "none", "damaged clips", "kill -9", "SIGTERM", "Ctrl-C", "not finite at first", "not finite later", "full disk",
    "read-only folder", "a rank dies",
)  # fmt: skip
SIGNALS = ("SIGTERM", "Ctrl-C")
NOT_FINITE = ("not finite at first", "not finite later")
FULL = ("full disk", "read-only folder")

PROMISES = {
    "stream": "The stream of clips and views is the one that the plan, the seed and the data give, bit for bit; on two "
    "ranks losses are those of one within rounding, and the scores of the run are those of its checkpoint on one rank, "
    "clip by clip.",
    "replaced": "From the first batch of a fresh process on, each damaged clip is named once, counted, and replaced by "
    "another that its place in the run decides; all other clips and views are the same bit for bit. Damage is of two "
    "kinds: bytes whose checksum differs, and bytes that fit their checksum and do not decode.",
    "continued": "The same command goes on: the stream is that of an undisturbed run bit for bit and, on one rank, so "
    "are losses and weights; on two ranks losses are the same within rounding.",
    "asked": "The run ends after a step with a checkpoint of it, one message and exit code 75, on all ranks; the same "
    "command goes on and nothing is lost.",
    "skipped": "A step whose gradient is not finite on any rank is skipped and counted; weights, statistics and all "
    "later losses are those of a run that leaves this one step of the optimiser out, bit for bit.",
    "refused": "One line that names the file and exit code 2; what existed stays good, and the same command goes on "
    "when there is room again.",
    "told": "When a rank dies or fails, the others end by themselves with a message that names the rank and the "
    "reason; the last checkpoint is good.",
    "scored": "Each clip is scored once and the report agrees with its predictions; two ranks give the same report, "
    "clip by clip.",
    "left out": "A damaged clip is named and left out; the predictions of all others are the same.",
    "untouched": "What lay there before stays as it was, without half a file beside it and without a traceback.",
    "named": "Each sign has the probability that numba gives it in another process, within what decoders differ; a "
    "checkpoint that was trained through a .beton needs none here.",
    "refused clip": "A video that does not decode is one line that names it, and exit code 2.",
    "neighbours": "The k-NN scores in the journal of a run are those of its checkpoint, probed on one rank.",
    "probed without": "A damaged test clip is named and left out, also when the checkpoint is probed on one rank.",
    "masked": "Every clip gets its mask; two ranks write the same data set as one, byte for byte.",
    "mask kept": "A clip whose bytes differ from their checksum ends the command with its name; one that does not "
    "decode keeps every pixel and is counted.",
    "embedded": "Each clip has one row, in the order of the data set, with what the model gives in another process, "
    "bit for bit; two ranks write the same file as one, byte for byte.",
    "no row": "A damaged clip is named once and has no row; the features of all others are the same within rounding.",
    "parts kept": "The same command, on any number of ranks, does only the parts that are not there, and leaves the "
    "file that an undisturbed one leaves, byte for byte, and nothing else.",
    "mask continued": "The data set can be read all the time; the same command goes on and leaves what an undisturbed "
    "one leaves, byte for byte.",
}

UNDISTURBED = {
    "evaluate": "scored", "predict": "named", "probe": "neighbours", "masks": "masked", "embed": "embedded",
}  # fmt: skip
DAMAGED = {
    "evaluate": "left out", "probe": "probed without", "predict": "refused clip", "masks": "mask kept",
    "embed": "no row",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One path."""

    program: str
    backend: str
    codec: str
    ranks: int
    accident: str

    def __str__(self) -> str:
        return "-".join((self.program, self.backend, self.codec, str(self.ranks), self.accident)).replace(", ", "+")


@dataclass(frozen=True)
class Tested:
    """A cell that is filled."""

    __test__ = False  # pytest collects what is called Test…

    promise: str  # a key of PROMISES
    ci: bool  # in every run of the tests; else in `make test-all`
    by: str  # test function


@dataclass(frozen=True)
class Empty:
    """A cell that is empty on purpose."""

    reason: str


def cells() -> Iterator[Cell]:
    """All cells, empty ones included."""
    for program, backends in PROGRAMS.items():
        yield from itertools.starmap(Cell, itertools.product([program], backends, CODECS, RANKS, ACCIDENTS))


def decide(cell: Cell) -> Tested | Empty:
    """Whether a cell is tested, where, and what it promises; or why it is not."""
    reason = _why_empty(cell)
    if reason:
        return Empty(reason)
    by = _elsewhere(cell)
    return Tested(_promise(cell), in_ci(cell) if by is None else True, by or "test_paths.py::test_path")


def _why_empty(cell: Cell) -> str | None:
    program, backend, codec, accident = cell.program, cell.backend, cell.codec, cell.accident
    loads = accident in ("none", "damaged clips")  # else it happens beside or after the loader
    if backend == "dali" and not codecs()[codec].dali_cpu:
        return "DALI decodes it on a GPU only; on a CPU it says so (test_rgb_dali.py::test_no_decoder_on_the_cpu)"
    if accident in NOT_FINITE and program not in TRAINERS:
        return "there is no gradient"
    if accident == "a rank dies" and cell.ranks == 1:
        return "one rank that dies is kill -9"
    if program == "predict":
        return _why_empty_predict(cell)
    if program == "probe" and accident not in ("none", "damaged clips", "kill -9"):
        return "the probe is a part of train, whose cells hold"
    if codec != USUAL and not loads:
        return f"as with {USUAL}: it happens after the clips are decoded"
    if backend not in ("numba", OWN) and not loads:
        if program not in TRAINERS:
            return "as with numba: nothing of the backend outlives the program"
        if accident not in ("kill -9", "SIGTERM"):
            return "as with numba: it happens after the loader"
    if backend == "ffcv" and codec != USUAL and (program, cell.ranks, accident) != ("train", 1, "damaged clips"):
        return f"as with {USUAL}: a .beton holds JPEG, whatever its shards hold"
    if program in ("finetune", "evaluate", "probe", "embed") and cell.ranks == 2 and codec != USUAL:
        return f"as with {USUAL}: train has every codec on two ranks, and the loader is the same"
    if program == "probe" and codec != USUAL:
        return "as evaluate: the same pass over the clips"
    return None


def _why_empty_predict(cell: Cell) -> str | None:
    if cell.ranks == 2:
        return "one clip is for one rank"
    if cell.accident in ("kill -9", *SIGNALS, "read-only folder"):
        return "nothing is written that stays"
    if cell.accident == "none":
        beton = cell.backend == "ffcv" and cell.codec != USUAL
        return f"as with {USUAL}: there is no .beton of one clip" if beton else None
    if (cell.backend, cell.codec) != ("numba", USUAL):
        return f"as with numba and {USUAL}: it happens before the clip is packed"
    return None


def _promise(cell: Cell) -> str:
    program, accident = cell.program, cell.accident
    if accident == "none":
        return UNDISTURBED.get(program, "stream")
    if accident == "damaged clips":
        return DAMAGED.get(program, "replaced")
    if accident in FULL:
        return "refused"
    if accident in NOT_FINITE:
        return "skipped"
    if accident == "a rank dies" and program in TRAINERS:
        return "told"
    if accident in SIGNALS and program in TRAINERS:
        return "asked"
    if program in ("masks", "embed"):
        return {"masks": "mask continued", "embed": "parts kept"}[program]
    return "continued" if program in (*TRAINERS, "probe") else "untouched"


# Tests beside the matrix that hold a cell by themselves: (program, ranks, accident), by numba or the codec, and JPEG.
_SIGNALS = "test_interrupt.py::test_a_signal_ends_after_a_step_and_nothing_is_lost"
_MIXED = "test_interrupt.py::test_killed_on_one_or_two_ranks_and_continued_on_another_number"
ELSEWHERE: dict[tuple[str, int, str], str] = {
    ("train", 1, "kill -9"): "test_train.py::test_killed_run_goes_on_bit_for_bit",
    ("train", 2, "kill -9"): _MIXED,
    ("train", 1, "SIGTERM"): _SIGNALS,
    ("train", 2, "SIGTERM"): "test_interrupt.py::test_ranks_stop_after_the_same_step",
    ("train", 1, "Ctrl-C"): _SIGNALS,
    ("finetune", 1, "kill -9"): "test_interrupt.py::test_killed_finetuning_goes_on_bit_for_bit",
    ("finetune", 2, "kill -9"): _MIXED,
    ("finetune", 1, "SIGTERM"): _SIGNALS,
    ("finetune", 2, "SIGTERM"): "test_interrupt.py::test_ranks_stop_after_the_same_step",
    ("finetune", 2, "none"): "test_two_ranks.py::test_scores_of_two_ranks_are_those_of_their_checkpoint_on_one",
    ("probe", 2, "none"): "test_two_ranks.py::test_knn_of_two_ranks_is_that_of_their_checkpoint_on_one",
}


# Paths that are not cells: what is promised there, and which tests hold it.
BESIDE = {
    "Schedules: kills on both sides of a border, one and two ranks, gone on with one": "test_schedule_run.py",
    "Sets in several sizes: views of the full size by three backends, damage, kills beside the border that changes the "
    "size": "test_smaller.py, test_schedule_run.py",
    "Packing: kills again and again, workers that die, clips added and mended": (
        "test_pack_killed.py, test_pack_add.py, test_pack_mending.py"
    ),
    "Shards in object storage: broken downloads, damaged objects, a server that goes away": (
        "test_shards_remote.py, test_pack_remote.py"
    ),
    "Studies: kills of the engine and of its stages": "test_study.py",
}


def _elsewhere(cell: Cell) -> str | None:
    if cell.backend not in ("numba", OWN) or cell.codec != USUAL:
        return None
    return ELSEWHERE.get((cell.program, cell.ranks, cell.accident))


def in_ci(cell: Cell) -> bool:
    """What every run of the tests affords: some three minutes on two cores."""
    if cell.accident == "damaged clips" and cell.program == "train" and cell.ranks == 1:
        return True  # every backend and codec, each in a fresh process
    if (cell.program, cell.backend, cell.accident) == ("predict", "ffcv", "none"):
        return True
    if cell.backend not in ("numba", OWN) or cell.codec != USUAL:
        return False
    two = ("none", "a rank dies")  # what only two ranks can show
    return cell.ranks == (2 if cell.accident in two and cell.program != "predict" else 1)


def page() -> str:
    """docs/path-matrix.md."""
    counts = {"✓": 0, "●": 0, "–": 0}
    for cell in cells():
        counts[_mark(decide(cell))] += 1
    text = [
        "# Which promise is tested on which path",
        "",
        "Generated from `tests/path_matrix.py` (`python tests/path_matrix.py`); `tests/test_paths.py` fills it with "
        "real processes, torchrun for two ranks, and files that are really damaged.",
        "",
        f"A cell holds one rank and two ranks. ✓ in every run of the tests ({counts['✓']} cells), ● in `make test-all` "
        f"({counts['●']}), – empty on purpose ({counts['–']}); its letter gives the reason below the table.",
        "",
        "## What is promised",
        "",
        "| programs | accidents | promise |",
        "|---|---|---|",
    ]
    for key, words in PROMISES.items():
        of = [cell for cell in cells() if getattr(decide(cell), "promise", None) == key]
        programs, accidents = (list(dict.fromkeys(x)) for x in ([c.program for c in of], [c.accident for c in of]))
        text.append(f"| {', '.join(programs)} | {', '.join(accidents)} | {words} |")
    for program in PROGRAMS:
        text += ["", f"## {program}", "", *_program_table(program)]
    text += ["", "## Beside the matrix", "", "| path | tests |", "|---|---|"]
    text += [f"| {path} | {tests} |" for path, tests in BESIDE.items()]
    return "\n".join(text) + "\n"


def _mark(decision: Tested | Empty) -> str:
    if isinstance(decision, Empty):
        return "–"
    return "✓" if decision.ci else "●"


def _program_table(program: str) -> list[str]:
    letters: dict[str, str] = {}  # by reason, or by test elsewhere

    def shown(decision: Tested | Empty) -> str:
        note = decision.reason if isinstance(decision, Empty) else decision.by
        if note == "test_paths.py::test_path":
            return _mark(decision)
        return _mark(decision) + letters.setdefault(note, string.ascii_lowercase[len(letters)])

    rows: dict[tuple[str, ...], dict[str, list[str]]] = {}  # equal rows of a backend are one
    for backend in PROGRAMS[program]:
        for codec in CODECS:
            marks = tuple(
                " ".join(dict.fromkeys(shown(decide(Cell(program, backend, codec, r, accident))) for r in RANKS))
                if all(isinstance(decide(Cell(program, backend, codec, r, accident)), Empty) for r in RANKS)
                else " ".join(shown(decide(Cell(program, backend, codec, r, accident))) for r in RANKS)
                for accident in ACCIDENTS
            )
            rows.setdefault((backend, *marks), {}).setdefault(backend, []).append(codec)
    if len(letters) == 1 and not any("✓" in mark or "●" in mark for key in rows for mark in key):
        return [f"Empty: {next(iter(letters))}."]
    lines = [f"| backend | codec | {' | '.join(ACCIDENTS)} |", "|---" * (len(ACCIDENTS) + 2) + "|"]
    for (_, *marks), of in rows.items():
        for backend, names in of.items():
            lines.append(f"| {backend} | {', '.join(names)} | {' | '.join(marks)} |")
    notes = [f"{letter}: {note}" for note, letter in letters.items()]
    return [*lines, "", "; ".join(notes) + "." if notes else ""]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

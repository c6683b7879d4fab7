"""Measure what accuracy costs: pre-trainings to the same target.

Runs a study whose file has a `target` (docs/studies.md), by default accuracy: rendered signs at the size of
make demo, five labels each, pre-trained at full size all the way, small views first, for fewer epochs, not at all.
Tells of each the operations (counted on shapes), the seconds and the processor's seconds of its pre-training, its
accuracy by branch after fine-tuning, and whether that is equal within one standard error of the paired difference.

Stopped or killed, the same command goes on. For seconds that can be compared the machine must be idle; the processor's
seconds bear other work better.
"""

from __future__ import annotations

from cclslr.cli import command_parser
from cclslr.commands.study import add_options, carry_out
from cclslr.errors import UserError
from cclslr.study.spec import find, load

EXAMPLES = """examples:
  cclslr bench accuracy                                           all arms, seeds 0 to 4
  cclslr bench accuracy --seeds 0 --override pretrain.optim.epochs=2   a quick look
  cclslr bench accuracy mine.yaml --dry-run                       other arms, another target
"""


def main(argv: list[str] | None = None) -> int:
    """Run the study; the exit code is 3 where stages failed."""
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("study", nargs="?", default="accuracy", metavar="FILE|NAME", help="(default: accuracy)")
    add_options(parser)
    args = parser.parse_args(argv)
    study = load(find(args.study), args.override, args.seeds)
    if study.target is None:
        raise UserError(
            f"study {study.name} has no target; say in its file what accuracy is aimed at (docs/studies.md)"
        )
    return carry_out(study, args)

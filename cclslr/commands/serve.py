"""A page on this machine: sign before the camera, or drop a clip.

It shows the clip with its keypoints, the likeliest signs by branch, the nearest
clips of a dictionary (--index), and how long each stage took. Signing live is
named by the pose branch, sign by sign, with the hands' rest between them; frames
that the estimator cannot keep up with are dropped, and counted on the page.

It answers this machine only, unless --host says otherwise. Clips are deleted
when they are answered.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cclslr.cli import command_parser
from cclslr.console import console
from cclslr.errors import UserError
from cclslr.poses.base import EstimatorOptions, backends

GROUP, PLACE = "use", 6

EXAMPLES = """examples:
  cclslr serve runs/finetune/last.pt
  cclslr serve runs/finetune/last.pt --index dictionary.parquet --port 8080

Needs the extras: pip install -c constraints.txt 'cclslr[serve,mediapipe]'"""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__name__, __doc__, EXAMPLES)
    parser.add_argument("checkpoint", type=Path, help="written by cclslr train or finetune, or exported weights")
    parser.add_argument("--index", type=Path, metavar="FILE", help="features of a dictionary (cclslr embed)")
    parser.add_argument("--host", default="127.0.0.1", help="address to answer on (default 127.0.0.1: this machine)")
    parser.add_argument("--port", type=int, default=8000, help="default 8000; 0: any that is free")
    parser.add_argument(
        "--estimator", choices=backends(), default="mediapipe", help="default mediapipe, which needs no downloads"
    )
    parser.add_argument("--max-mb", type=float, default=32.0, metavar="MB", help="of a clip (default 32)")
    parser.add_argument("--max-seconds", type=float, default=20.0, metavar="S", help="of a clip (default 20)")
    parser.add_argument("--max-waiting", type=int, default=64, metavar="N", help="clips that wait (default 64)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a key of the stored config")
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    try:
        import uvicorn

        from cclslr.serve.app import build_app
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed: pip install -c constraints.txt 'cclslr[serve,mediapipe]'"
        ) from error
    import cclslr
    from cclslr.inference.dictionary import open_index
    from cclslr.poses import open_estimator
    from cclslr.serve.answer import Answerer
    from cclslr.serve.limits import Limits, one_arena

    one_arena()
    index = None
    if args.index is None:
        model = cclslr.load(args.checkpoint, overrides=args.overrides)
    else:
        model, index = open_index(args.index, args.checkpoint, None, args.overrides)
    limits = Limits(args.max_mb, args.max_seconds, waiting=args.max_waiting)
    answerer = Answerer(model, open_estimator(EstimatorOptions(backend=args.estimator)), index, limits)
    app = build_app(answerer, hosts_of(args.host))
    config = uvicorn.Config(
        app, args.host, args.port, log_level="warning", ws_max_size=1 << 20, timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    with config.bind_socket() as socket:
        host, port = socket.getsockname()[:2]
        if args.host not in ("127.0.0.1", "localhost", "::1"):
            console.print(f"anyone who reaches {args.host} may use this page", style="yellow")
        console.print(f"open http://{'localhost' if host == '127.0.0.1' else host}:{port}   (Ctrl-C ends it)")
        server.run(sockets=[socket])


def hosts_of(host: str) -> list[str]:
    """The names under which a server on that address answers."""
    return ["*"] if host in ("0.0.0.0", "::") else ["localhost", "127.0.0.1", "[::1]", host]

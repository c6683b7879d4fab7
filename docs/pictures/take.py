"""Take a picture of a command's screen: run it in a terminal of a given size, wait for a text, draw what stands there.

    python docs/pictures/take.py cclslr.png --width 80 --height 40 --until doctor -- cclslr

Needs tmux, Chromium and the font Fira Code (Debian: tmux chromium fonts-firacode).
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text


def tmux(*arguments: str) -> str:
    """Run a tmux command on a server of our own; what it says."""
    command = ["tmux", "-L", f"take{os.getpid()}", "-f", "/dev/null", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def screen_of(command: str, shown: str, width: int, height: int, until: str, seconds: float) -> str:
    """The screen, with its colours as escape codes, as soon as `until` (a regular expression) stands on it."""
    shell = f"printf '$ %s\\n' {shlex.quote(shown)}; {command}; sleep 1000"
    tmux("new-session", "-d", "-x", str(width), "-y", str(height), "env", "TERM=xterm-256color", "sh", "-c", shell)
    try:
        end = time.monotonic() + seconds
        while not re.search(until, tmux("capture-pane", "-p", "-J")):
            if time.monotonic() > end:
                raise SystemExit(f"{until!r} did not appear within {seconds:.0f} s:\n{tmux('capture-pane', '-p')}")
            time.sleep(0.2)
        time.sleep(0.3)  # the rest of a screen that is being drawn
        return tmux("capture-pane", "-e", "-p").rstrip()
    finally:
        tmux("kill-server")


def save_png(ansi: str, width: int, title: str, path: Path) -> None:
    """Draw a screen as SVG, and that as PNG."""
    console = Console(record=True, width=width, file=open(os.devnull, "w"))  # noqa: SIM115
    for line in ansi.splitlines():
        console.print(Text.from_ansi(line), soft_wrap=True)
    svg = console.export_svg(title=title)
    across, down = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(f"<body style='margin:0'>{svg}</body>", encoding="utf-8")
        size = f"--window-size={round(across)},{round(down) + 4}"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", size]
        subprocess.run(
            ["chromium", *options, f"--screenshot={path.resolve()}", page.as_uri()], check=True, capture_output=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a PNG")
    parser.add_argument("--width", type=int, default=80, help="columns")
    parser.add_argument("--height", type=int, default=24, help="lines")
    parser.add_argument("--until", required=True, help="regular expression: take the picture when it stands there")
    parser.add_argument("--seconds", type=float, default=600, help="wait no longer than this")
    parser.add_argument("--shown", help="the command as the picture shows it; default: as it is")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    command = shlex.join(args.command) if len(args.command) > 1 else args.command[0]
    shown = args.shown or command
    ansi = screen_of(command, shown, args.width, args.height, args.until, args.seconds)
    save_png(ansi, args.width, f"{args.width} columns", args.out)


if __name__ == "__main__":
    main()

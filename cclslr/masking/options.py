"""Options of masking on the command line."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch

from cclslr.errors import UserError
from cclslr.masking.methods import CHOICES, MpmOptions, methods
from cclslr.masking.settings import MaskSettings

DEFAULT_FLOW = Path(__file__).with_name("weights") / "tiny.safetensors"
"""A small flow that this project trained on rendered signers (docs/masking.md). Good for a first look, no more."""
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that decide what masks look like."""
    default = MpmOptions()
    group = parser.add_argument_group("masks (docs/masking.md)")
    group.add_argument(
        "--flow", type=Path, default=DEFAULT_FLOW, metavar="FILE",
        help="flow of cclslr flow (default: a small one that comes with the program)",
    )  # fmt: skip
    group.add_argument(
        "--method", choices=methods(), default=default.method,
        help="; ".join(f"{name}: {method.help}" for name, method in methods().items()) + f" (default {default.method})",
    )  # fmt: skip
    group.add_argument(
        "--keep", choices=CHOICES["keep"], default=default.keep,
        help="high: moving latents survive; low: the paper's Eq. 5 to the letter (default high)",
    )  # fmt: skip
    group.add_argument(
        "--threshold", choices=CHOICES["threshold"], default=default.threshold,
        help="absolute: latents below a deviation of P are static; quantile: a share P is"
        f" (default {default.threshold})",
    )  # fmt: skip
    group.add_argument("--p", type=float, default=default.p, help=f"see --threshold (default {default.p})")
    group.add_argument(
        "--binarize", choices=CHOICES["binarize"], default=default.binarize,
        help=f"what of the motion-preserving video is thresholded (default {default.binarize})",
    )  # fmt: skip
    group.add_argument(
        "--radius", type=float, default=default.radius,
        help=f"of discs, in widths of the frame (default {default.radius})",
    )  # fmt: skip
    group.add_argument(
        "--amp", choices=("auto", *DTYPES), default="auto",
        help="type of the flow's subnets: bf16 is about twice as fast and changes 0.6 %% of a mask's pixels, half of"
        " what noise of half a gray level does; auto: bf16 where the hardware multiplies it (default auto)",
    )  # fmt: skip


def subnet_dtype(amp: str, device: torch.device) -> str:
    """The type of the flow's subnets by its short name; `auto` asks the hardware."""
    if amp == "auto":
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            capabilities = torch.cpu.get_capabilities()
            native = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
        amp = "bf16" if native else "fp32"
    return DTYPES[amp]


def mask_settings(args: argparse.Namespace, device: torch.device) -> MaskSettings:
    """What `add_arguments` understood, for masks made on `device`.

    Raises:
        FileNotFoundError: there is no such flow.
        UserError: an option is out of range.
    """
    options = MpmOptions(args.method, args.keep, args.threshold, args.p, args.binarize, args.radius)
    return with_flow(options, device, args.flow, args.amp)


def with_flow(options: MpmOptions, device: torch.device, flow: Path = DEFAULT_FLOW, amp: str = "auto") -> MaskSettings:
    """Settings of masks made on `device`, with a flow where the method needs one.

    Raises:
        FileNotFoundError: there is no such flow.
    """
    if not methods()[options.method].needs_flow:
        return MaskSettings(options)
    if not flow.is_file():
        raise FileNotFoundError(f"{flow}: no such flow; train one with cclslr flow")
    return MaskSettings(options, str(flow.resolve()), subnet_dtype(amp, device), str(device))


def settings_of(recorded: dict[str, Any]) -> MaskSettings | None:
    """The settings of masks, on processors, by what a dataset.json says of them; None where their flow is not the
    shipped one, or their options are another version's."""
    amp = next((name for name, dtype in DTYPES.items() if dtype == recorded.get("dtype")), "auto")
    try:
        settings = with_flow(MpmOptions(**recorded["options"]), torch.device("cpu"), amp=amp)
    except TypeError:
        return None
    return settings if settings.recipe() == recorded["recipe"] else None


def mask_options(words: list[str]) -> MpmOptions:
    """Options from words like `method=flow`; the others have their defaults.

    Raises:
        UserError: no such option, or a value that it cannot have.
    """
    defaults, given = dataclasses.asdict(MpmOptions()), {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in defaults:
            raise UserError(f"mask option {word!r}: write KEY=VALUE with one of {', '.join(defaults)}")
        try:
            given[name] = type(defaults[name])(value)
        except ValueError:
            raise UserError(f"mask option {word!r}: {name} is a number") from None
    return MpmOptions(**given)

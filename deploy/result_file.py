"""What came of a command, as a JSON file for whoever started it."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge.errors import EdgeError


def add_result(command: argparse.ArgumentParser) -> None:
    """Describe the option."""
    command.add_argument(
        "--result", type=Path, metavar="FILE", help="write what came of it, also a failure, as JSON"
    )


@contextlib.contextmanager
def reported(args: argparse.Namespace) -> Iterator[None]:
    """Write an error to the result file as well, and pass it on."""
    try:
        yield
    except EdgeError as error:
        write_result(args, {"host": args.host, "error": str(error)})
        raise


def write_result(args: argparse.Namespace, result: dict[str, Any]) -> None:
    """Write the result file, where one was asked for."""
    if args.result is not None:
        args.result.write_text(json.dumps(result, indent=1) + "\n")

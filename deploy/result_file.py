"""What came of a command, as a JSON file for whoever started it."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.errors import FlashError
from edge.errors import EdgeError


def add_result(command: argparse.ArgumentParser) -> None:
    """Describe the option."""
    command.add_argument(
        "--result", type=Path, metavar="FILE", help="write what came of it, also a failure, as JSON"
    )


@contextlib.contextmanager
def reported(args: argparse.Namespace) -> Iterator[None]:
    """Write an error to the result file as well, and pass it on as one line."""
    try:
        yield
    except (EdgeError, OSError) as error:
        with contextlib.suppress(FlashError):
            write_result(args, {"host": args.host, "error": str(error)})
        if isinstance(error, OSError):
            raise FlashError(str(error)) from error
        raise


def write_result(args: argparse.Namespace, result: dict[str, Any]) -> None:
    """Write the result file, where one was asked for; FlashError when it cannot be."""
    if args.result is None:
        return
    try:
        args.result.write_text(json.dumps(result, indent=1) + "\n")
    except OSError as error:
        raise FlashError(f"{args.result}: cannot be written: {error.strerror}") from error

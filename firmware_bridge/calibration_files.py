"""Where calibrations are kept: a file of one's own, or LeRobot's folder, by the arm's name."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from firmware_bridge.calibration import (
    Calibration,
    CalibrationError,
    calibration_text,
    save_calibration,
)
from firmware_bridge.calibration_search import find_calibration, lerobot_calibration_path
from firmware_bridge.port_options import UserError


def add_calibration_options(parser: argparse.ArgumentParser) -> None:
    """Add `--calibration FILE` and `--id NAME`, of which one may be given."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--calibration", type=Path, metavar="FILE", help="the calibration file")
    group.add_argument(
        "--id", metavar="NAME", help="the calibration LeRobot keeps for the robot of this id"
    )


def written_path(arguments: argparse.Namespace) -> Path:
    """Return where a calibration is to be written. Raises UserError when nothing says so."""
    if arguments.calibration:
        return arguments.calibration
    if not arguments.id:
        raise UserError("say where the calibration is kept: --calibration FILE or --id NAME")
    return lerobot_calibration_path(arguments.id)


def read_path(arguments: argparse.Namespace) -> Path | None:
    """Return the calibration to be read, None when none was asked for.

    By name it may also lie in the folders that older versions of LeRobot wrote to.
    """
    if arguments.calibration or not arguments.id:
        return arguments.calibration
    return find_calibration(arguments.id)


def check_writable(path: Path) -> None:
    """Make the folder of `path`. Raises CalibrationError unless files can be made there."""
    probe = path.with_name(f".{path.name}.{os.getpid()}.probe")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
        if path.is_dir():
            raise IsADirectoryError(None, "is a folder")
    except OSError as error:
        raise CalibrationError(
            f"{path}: cannot be written ({error.strerror}); choose another path"
        ) from error


def replace_calibration(calibration: Calibration, path: Path, stamp: str) -> Path | None:
    """Write a calibration file; return where the one that was there before is kept, if another was.

    Raises CalibrationError and leaves the old file where it was when it cannot be written.
    """
    try:
        if not path.exists() or path.read_bytes() == calibration_text(calibration).encode():
            save_calibration(calibration, path)
            return None
        kept = beside(path, f"until-{stamp}")
        path.rename(kept)
    except OSError as error:
        raise CalibrationError(
            f"{path}: cannot be replaced ({error.strerror}); choose another path"
        ) from error
    try:
        save_calibration(calibration, path)
    except BaseException:
        kept.rename(path)
        raise
    return kept


def beside(path: Path, suffix: str) -> Path:
    """Return an unused name like that of `path`, in the same folder."""
    stem = path.name.removesuffix(".json")
    names = (f"{stem}.{suffix}{'' if n == 1 else f'-{n}'}.json" for n in range(1, 1000))
    return next(path.with_name(name) for name in names if not path.with_name(name).exists())

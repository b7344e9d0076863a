"""A profile as a release carries it: a shipped one by its name, one's own with all its files."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from deploy.device.release_manifest import is_release_path
from deploy.errors import FlashError
from edge.profile import Profile, load_profile

FOLDER = "profile"
_CALIBRATION = "calibration"
_REFERENCES = ("board", "arm", "cameras", "based_on")


def profile_files(profile: str) -> tuple[str, dict[str, bytes], Profile]:
    """Return (what the runtime is given for --profile, files of the release by path, the profile).

    A profile of one's own may name board and arm files beside it; they are brought along.
    """
    loaded = load_profile(profile)
    if not _is_path(profile):
        return profile, {}, loaded
    path = Path(profile).expanduser().resolve()
    files: dict[str, bytes] = {}
    _collect(path, path.parent, files)
    return f"{FOLDER}/{path.name}", files, loaded


def _collect(path: Path, folder: Path, files: dict[str, bytes]) -> None:
    name = _name_in_release(path, folder)
    if name in files:
        return
    content = path.read_bytes()
    files[name] = content
    stated = yaml.safe_load(content)
    if not isinstance(stated, dict):
        return
    calibration = stated.get(_CALIBRATION)
    if isinstance(calibration, str) and (path.parent / calibration).is_file():
        file = Path(os.path.normpath(path.parent / calibration))
        files[_name_in_release(file, folder)] = file.read_bytes()
    for key in _REFERENCES:
        named = stated.get(key)
        if isinstance(named, str) and _is_path(named):
            if Path(named).is_absolute() or named.startswith("~"):
                raise FlashError(f"{path}: {key} is '{named}'; a path beside the profile travels")
            _collect((path.parent / named).resolve(), folder, files)


def _name_in_release(path: Path, folder: Path) -> str:
    if not path.is_relative_to(folder):
        raise FlashError(f"{path} lies outside {folder}; put the files of a profile in its folder")
    name = f"{FOLDER}/{path.relative_to(folder)}"
    if not is_release_path(name):
        raise FlashError(
            f"{path}: a release takes names of letters, digits and . _ + ! - only, that begin with "
            "a letter, a digit or _, at most 4 folders deep; rename it"
        )
    return name


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or "/" in name

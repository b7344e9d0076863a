"""Find the files a profile consists of, shipped or one's own, with the files each is based on."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import resources
from pathlib import Path

from edge.config_section import ProfileError, Section, section_from_yaml

PROFILE, BOARD, ARM, CAMERAS = "profile", "board", "arm", "cameras"
_FOLDERS = {PROFILE: "", BOARD: "boards", ARM: "arms", CAMERAS: "cameras"}  # within `profiles/`
_MOST_LISTED = 20  # names in an error


def read_file(name: str, kind: str, folder: Path | None) -> tuple[Section, Path | None]:
    """Read a file of some `kind` and those it is based on; ProfileError.

    A path counts from `folder`. Returns its keys, and the folder it lies in or None when shipped.
    """
    return _with_bases(name, kind, folder, [])


def shipped(kind: str) -> list[str]:
    """Return the names of the shipped files of a kind."""
    root = resources.files("profiles")
    root = root.joinpath(_FOLDERS[kind]) if _FOLDERS[kind] else root
    return sorted(
        entry.name.removesuffix(".yaml") for entry in root.iterdir() if entry.name.endswith(".yaml")
    )


def is_path(name: str) -> bool:
    """Tell a path from the name of a shipped file."""
    return name.endswith((".yaml", ".yml")) or "/" in name


def beside(name: str, folder: Path | None) -> Path:
    """Return the path that `name` means in a file of `folder`."""
    path = Path(name).expanduser()
    return path if path.is_absolute() or folder is None else folder / path


def _with_bases(
    name: str, kind: str, folder: Path | None, above: list[str]
) -> tuple[Section, Path | None]:
    text, file, own_folder = _read(name, kind, folder)
    section = section_from_yaml(text, file)
    base = section.base()
    if base is not None:
        if file in above:
            raise section.fail("based_on", f"'{base}' leads back to this file; remove one")
        section.fill_from(_with_bases(base, kind, own_folder, [*above, file])[0])
    return section, own_folder


def _read(name: str, kind: str, folder: Path | None) -> tuple[str, str, Path | None]:
    """Return (text, the name errors show, the folder the file lies in or None when shipped)."""
    if not is_path(name):
        names = shipped(kind)
        if name not in names:
            raise ProfileError(f"no {kind} named '{name}'; {_choice(name, kind, names)}")
        parts = [part for part in (_FOLDERS[kind], f"{name}.yaml") if part]
        source = resources.files("profiles").joinpath(*parts)
        return source.read_text("utf-8"), "/".join(["profiles", *parts]), None
    path = beside(name, folder)
    try:
        return path.read_text("utf-8"), str(path), path.parent
    except OSError as error:
        raise ProfileError(f"{path}: cannot read the {kind}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ProfileError(f"{path}: cannot read the {kind}: it is not UTF-8 text") from error


def _choice(name: str, kind: str, names: list[str]) -> str:
    told = f"shipped: {', '.join(names)}"
    if len(names) > _MOST_LISTED:
        told = f"the nearest of {len(names)} shipped: {', '.join(_nearest(name, names))}"
    if kind == PROFILE:
        told += f"; or a board, the nearest: {', '.join(_nearest(name, shipped(BOARD)))}"
    return f"{told}; or give a .yaml path"


def _nearest(name: str, names: list[str]) -> list[str]:
    return get_close_matches(name, names, cutoff=0.0)

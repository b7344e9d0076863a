"""A robot as datasets and checkpoints describe it: joints, rates, cameras, texts, joint frame.

The shipped presets are `training/embodiments/*.yaml`; a file of one's own is given by its path.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from edge.config_section import Section, section_from_yaml
from edge.errors import EdgeError
from edge.joint_frame import JointFrame
from training.errors import TrainingError

_MAX_DIMS = 64


class EmbodimentError(TrainingError):
    """A preset that is unknown, malformed, or out of range."""


@dataclass(frozen=True, slots=True)
class FrameCheck:
    """What tells a joint convention from the one it is taken for."""

    other: str  # the preset of the convention that datasets are mistaken for
    joints: tuple[int, ...]  # the dims in which the two differ
    low: tuple[float, ...]  # where these joints of most robots stay, in the checkpoint's frame
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Embodiment:
    """One robot in one joint convention."""

    name: str
    norm_tag: str
    setup: str
    control: str
    fps: int
    horizon: int
    n_action_steps: int
    state_key: str
    action_key: str
    cameras: tuple[str, ...]  # feature keys, in prompt order
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    normalize_gripper: bool
    state_signs: tuple[float, ...]  # model = sign * dataset + offset
    state_offsets: tuple[float, ...]
    action_signs: tuple[float, ...]
    action_offsets: tuple[float, ...]
    frame_check: FrameCheck | None

    @property
    def state_frame(self) -> JointFrame:
        return JointFrame(self.state_signs, self.state_offsets)

    @property
    def action_frame(self) -> JointFrame:
        return JointFrame(self.action_signs, self.action_offsets)

    def mask(self, names: tuple[str, ...]) -> np.ndarray:
        """Tell which dims are normalised, (dims,) bool: all, or all but the grippers."""
        return np.array([self.normalize_gripper or "gripper" not in name for name in names])


def shipped_embodiments() -> list[str]:
    """Return the names that `load_embodiment` knows without a path."""
    folder = resources.files("training").joinpath("embodiments")
    names = [entry.name for entry in folder.iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_embodiment(name_or_path: str) -> Embodiment:
    """Load a shipped preset by name, or a file by its path (ending in .yaml)."""
    text, file = _read(name_or_path)
    try:
        section = section_from_yaml(text, file)
        embodiment = _embodiment(section, Path(name_or_path).stem)
        section.finish()
    except EdgeError as error:
        raise EmbodimentError(str(error)) from None
    return embodiment


def _read(name: str) -> tuple[str, str]:
    if not name.endswith(".yaml") and "/" not in name:
        if name not in shipped_embodiments():
            raise EmbodimentError(
                f"no embodiment named '{name}'; shipped: {', '.join(shipped_embodiments())}; or "
                "give a .yaml path"
            )
        source = resources.files("training").joinpath("embodiments", f"{name}.yaml")
        return source.read_text("utf-8"), f"training/embodiments/{name}.yaml"
    try:
        return Path(name).read_text("utf-8"), name
    except (OSError, UnicodeDecodeError) as error:
        raise EmbodimentError(f"{name}: cannot read the embodiment: {error}") from None


def _embodiment(section: Section, name: str) -> Embodiment:
    state, action = section.child("state"), section.child("action")
    embodiment = Embodiment(
        name=name,
        norm_tag=section.text("norm_tag"),
        setup=section.text("setup"),
        control=section.text("control"),
        fps=section.integer("fps", 1, 1000),
        horizon=section.integer("horizon", 1, 1000),
        n_action_steps=section.integer("n_action_steps", 1, 1000),
        cameras=_texts(section, "cameras"),
        normalize_gripper=section.boolean("normalize_gripper"),
        state_key=state.text("key"),
        action_key=action.text("key"),
        frame_check=_frame_check(section.optional_child("frame_check")),
        **_vector(state, "state"),
        **_vector(action, "action"),
    )
    if embodiment.n_action_steps > embodiment.horizon:
        raise section.fail(
            "n_action_steps", f"{embodiment.n_action_steps}; allowed: 1..{embodiment.horizon}"
        )
    return embodiment


def _vector(section: Section, kind: str) -> dict[str, tuple]:
    names = _texts(section, "names")
    signs = section.numbers("signs", len(names), -1.0, 1.0)
    if any(abs(sign) != 1.0 for sign in signs):
        raise section.fail("signs", f"{list(signs)}; each must be 1 or -1")
    offsets = section.numbers("offsets", len(names), -1e6, 1e6)
    section.finish()
    return {f"{kind}_names": names, f"{kind}_signs": signs, f"{kind}_offsets": offsets}


def _frame_check(section: Section | None) -> FrameCheck | None:
    if section is None:
        return None
    joints = section.optional_integers("joints", 0, _MAX_DIMS - 1) or ()
    check = FrameCheck(
        other=section.text("other"),
        joints=joints,
        low=section.numbers("low", len(joints), -1e6, 1e6),
        high=section.numbers("high", len(joints), -1e6, 1e6),
    )
    section.finish()
    return check


def _texts(section: Section, key: str) -> tuple[str, ...]:
    values = section.texts(key)
    section.refuse_twins(key, list(values))
    return values

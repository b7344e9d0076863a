"""`molmoact-edge check`: open a bundle on this machine and predict once, before an arm is near.

The pictures are noise made here and the arm stands in the middle of its range, so the actions mean
nothing; that they are finite and come at all is what a release has to show on a new board.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import onnxruntime

from edge.board_state import BoardReader
from edge.errors import EdgeError
from edge.normalization import choose_tag
from edge.onnx_session import EngineSettings, session_options
from edge.policy import Policy
from edge.profile import Profile, load_profile
from edge.report import machine_name

TASK = "pick up the red cube"
CUDA = "CUDAExecutionProvider"
_SEED = 1
_KIB = 1024
# y = x + x as an ONNX graph.
_SUM = (
    b'\x08\x08:5\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Add\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12'
    b"\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


class HealthError(EdgeError):
    """A bundle that opens and yet does not do its work here."""


def add_check(commands: argparse._SubParsersAction) -> None:
    """Describe the command."""
    check = commands.add_parser(
        "check",
        help="open a bundle and predict once, without an arm",
        description="Verify and open a bundle on this machine, predict one chunk from synthetic "
        "pictures, and print one JSON line: machine, engine, seconds, memory. Devices run it "
        "before they switch to a release.",
        epilog="example: molmoact-edge check bundle/ --profile so101",
    )
    check.add_argument("bundle", type=Path, help="folder made by 'molmoact-quantize build'")
    check.add_argument(
        "--profile", required=True, help="name of a shipped profile, or a .yaml path"
    )


def run_check(args: argparse.Namespace) -> None:
    """Print the result; EdgeError when the bundle, the profile or the board does not fit."""
    print(json.dumps(check_health(args.bundle, load_profile(args.profile))))


def check_health(bundle: Path, profile: Profile, root: Path = Path("/")) -> dict:
    """Predict once; returns what was found, all of it measured on this machine."""
    module = _check_board(profile, root)
    started_s = time.perf_counter()
    policy = Policy.open(bundle, profile=profile)
    opened_s = time.perf_counter()
    tag = choose_tag(policy.bundle.tags, None)
    random = np.random.default_rng(_SEED)
    pictures = [
        random.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
        for camera in profile.cameras
    ]
    state = tag.state.unnormalize(np.zeros(tag.state.dim))
    depth = "full" if policy.bundle.manifest.model.depth_cells else "off"
    result = policy.act(pictures, TASK, state, tag.name, depth=depth)
    done_s = time.perf_counter()
    if not np.isfinite(result.actions).all():
        raise HealthError(f"{bundle}: actions are not finite on this machine; build it again")
    return {
        "ok": True,
        "kind": "measured",
        "machine": machine_name(),
        "module": module,
        "profile": profile.name,
        "onnxruntime": onnxruntime.__version__,
        "providers": _providers(),
        "open_s": round(opened_s - started_s, 3),
        "act_s": round(done_s - opened_s, 3),
        "stages_s": {name: round(seconds, 4) for name, seconds in result.stages.items()},
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KIB, 1),
    }


def _providers() -> list[str]:
    """Return what onnxruntime computes with; CUDA only where a sum was computed with it.

    A build lists CUDA whether or not this machine's CUDA can be loaded.
    """
    listed = onnxruntime.get_available_providers()
    if CUDA not in listed:
        return listed
    others = [name for name in listed if name != CUDA]
    options = session_options(EngineSettings())
    try:
        session = onnxruntime.InferenceSession(_SUM, options, [CUDA, "CPUExecutionProvider"])
        session.run(None, {"x": np.ones(1, np.float32)})
    except Exception:  # noqa: BLE001  (onnxruntime raises several unrelated kinds)
        return others
    return listed if CUDA in session.get_providers() else others


def _check_board(profile: Profile, root: Path) -> str | None:
    """Return the module this is; HealthError when the profile is for another one."""
    module = BoardReader(root).identity().module
    hardware = profile.board.hardware
    if hardware is not None and module is not None and hardware.module != module:
        raise HealthError(
            f"profile {profile.name} is for {hardware.module}, this board is {module}; choose "
            "this board's profile"
        )
    return module

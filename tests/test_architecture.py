"""Who may import whom, and what the robot must never load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = [
    "firmware_bridge",
    "edge",
    "sim",
    "training",
    "quantization",
    "benchmarks",
    "deploy",
]
WORKSTATION_ONLY = ("torch", "transformers", "onnx", "lerobot", "scservo_sdk", "mujoco", "datasets")
RUNTIME_FOLDERS = ("firmware_bridge", "edge", "profiles")


def imports(path):
    """Yield (module, inside a function) of every import in a file."""
    tree = ast.parse(path.read_text())
    lazy = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module, id(node) in lazy


def python_files(folder):
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", [name for name in ORDER if (ROOT / name).is_dir()])
def test_a_folder_imports_only_folders_below_it(folder):
    above = set(ORDER[ORDER.index(folder) + 1 :])
    for path in python_files(folder):
        for module, _ in imports(path):
            assert module.split(".")[0] not in above, f"{path} imports {module}"


def test_in_edge_only_the_command_line_meets_the_servo_bus():
    for path in python_files("edge"):
        for module, _ in imports(path):
            if module.split(".")[0] == "firmware_bridge":
                assert path.name == "cli.py", f"{path} imports {module}"


@pytest.mark.parametrize("folder", RUNTIME_FOLDERS)
def test_the_runtime_never_imports_what_a_robot_does_not_have(folder):
    for path in python_files(folder):
        for module, _ in imports(path):
            assert module.split(".")[0] not in WORKSTATION_ONLY, f"{path} imports {module}"


def test_quantization_never_imports_torch():
    for path in python_files("quantization"):
        for module, _ in imports(path):
            assert module.split(".")[0] not in ("torch", "transformers", "lerobot"), path


def test_a_clean_interpreter_acts_without_loading_the_workstation(bundles):
    program = f"""
import sys
import numpy as np
import edge.cli, firmware_bridge.cli
from edge.policy import Policy
policy = Policy.open({str(bundles())!r})
pictures = [np.zeros((60, 80, 3), np.uint8)] * 2
for depth in ("full", "incremental"):
    result = policy.act(pictures, "lift the cube", np.zeros(6), depth=depth)
assert np.isfinite(result.actions).all()
loaded = sorted(set(m.split(".")[0] for m in sys.modules) & set({WORKSTATION_ONLY!r}))
print("loaded:", loaded)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "loaded: []"


def test_the_agent_of_a_bare_device_is_one_folder_and_the_standard_library():
    ours = {"deploy", "__future__"}
    for path in python_files("deploy/device"):
        for module, lazy in imports(path):
            assert not lazy, f"{path}: {module} would be loaded from an archive replaced meanwhile"
            assert module.split(".")[0] in ours | set(sys.stdlib_module_names), path
            if module.split(".")[0] == "deploy":
                assert module.startswith("deploy.device."), f"{path} imports {module}"


def test_packages_ship_every_folder_that_is_code():
    project = (ROOT / "pyproject.toml").read_text()
    for folder in [*ORDER, "profiles"]:
        if (ROOT / folder).is_dir():
            assert f'"{folder}"' in project

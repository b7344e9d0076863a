"""`molmoact-bench` on a robot, which has nothing of the `demo` extra."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_compare import report

ROOT = Path(__file__).parent.parent
PROGRAM = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
from benchmarks.cli import main
sys.exit(main({arguments}))
"""
OF_DEMO = ("av", "matplotlib", "ml_dtypes", "mujoco", "onnx", "psutil", "safetensors", "tqdm")


def bench(*arguments):
    program = PROGRAM.format(absent=OF_DEMO, arguments=[str(word) for word in arguments])
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120
    )


def test_reports_are_compared(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report(0)))
    run = bench("compare", tmp_path / "a", tmp_path / "b")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1])["regressions"] == 0


def test_a_bundle_is_predicted(bundles):
    run = bench("predict", bundles(), "--profile", "orin_nano_8gb_25w")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1])["board"] == "orin_nano_8gb_25w"


@pytest.mark.parametrize(
    "arguments",
    [
        ["ceiling", "--threads", "1"],
        ["predict", "--size", "full", "--recipe", "int4", "--all"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_cannot_be_done_without_it_names_the_extra_in_one_line(arguments):
    run = bench(*arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert "Traceback" not in run.stderr
    start, _, missing = run.stderr.splitlines()[-1].partition(" needs ")
    assert start == "molmoact-bench: error:"
    name, _, remedy = missing.partition("; install with: ")
    assert name in OF_DEMO
    assert remedy == "pip install 'molmoact-edge[demo]'"

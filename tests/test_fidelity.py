"""The printed difference is the difference."""

from __future__ import annotations

import json

import pytest
from conftest import load_cases

from benchmarks.cli import main
from benchmarks.fidelity import compare_bundles


def compare(bundle, against, samples=4):
    return compare_bundles(bundle, against, samples=samples, cameras=2, norm_tag=None, seed=0)


def test_a_bundle_differs_from_itself_by_nothing(bundles):
    report = compare(bundles(), bundles())
    assert all(joint.max == 0 for joint in report.joints)
    assert report.depth_code_agreement == 1


def test_fewer_bits_mean_a_larger_difference_that_is_repeatable(bundles):
    first, again = (
        compare(bundles(recipe="int4"), bundles()),
        compare(bundles(recipe="int4"), bundles()),
    )
    eight = compare(bundles(recipe="int8"), bundles())
    assert first == again
    mean = [sum(joint.mean for joint in report.joints) for report in (first, eight)]
    assert mean[0] > mean[1] > 0


def test_the_last_line_is_json_and_the_table_names_every_joint(bundles, capsys):
    arguments = ["fidelity", str(bundles(recipe="int4")), "--against", str(bundles())]
    assert main([*arguments, "--samples", "2"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    report = json.loads(lines[-1])
    joints = len(load_cases("two_cameras")[0].arrays["state"])
    assert len(report["joints"]) == joints
    for joint in report["joints"]:
        assert any(line.startswith(joint["name"]) for line in lines[:-1])


def test_bundles_of_different_checkpoints_are_refused(bundles, capsys):
    arguments = ["fidelity", str(bundles("one_camera_crops")), "--against", str(bundles())]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "come from different checkpoints" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("text", ["0", "-3", "many"])
def test_a_sample_count_that_is_no_count_is_bad_usage(text, bundles):
    with pytest.raises(SystemExit) as end:
        main(["fidelity", "a", "--against", "b", "--samples", text])
    assert end.value.code == 2

"""What the gate asks is what was asked for, and never more than was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("onnx")

from quantization.errors import BuildError
from quantization.fidelity.flips import FlipAgreement
from quantization.fidelity.report import Amount, BesideSpread, BundleCard, OpenLoopReport
from quantization.fidelity.shares import paired_difference
from quantization.gate_advice import advice, wanted_share
from quantization.gate_limits import (
    DROP_BOUND_POINTS,
    LIMITS,
    TIP_PLAY_MM,
    check_chosen,
    gate_checks,
    parse_limit,
)

NOTHING = Amount(0.0, 0.0, 0.0)


def flips(sides_equal):
    return FlipAgreement(sides_equal, 0, 0, 0, None)


def report(tip_mm=1.0, spread_mm=4.0, sides=1.0, sides_spread=1.0, **changes):
    card = BundleCard("small", "int4", 1000, "ab" * 32)
    tip = BesideSpread(Amount(tip_mm, 2 * tip_mm, 0.0), Amount(spread_mm, 2 * spread_mm, 0.0))
    values = dict.fromkeys(OpenLoopReport.__slots__)
    values.update(bundle=card, against=card, observations=100, undecodable=0)
    values.update(undecodable_alone=0)
    values.update(tip_mm=tip, action_share=BesideSpread(Amount(0.02, 0.0, 0.0), NOTHING))
    values.update(gripper=flips(sides), gripper_spread=flips(sides_spread))
    return OpenLoopReport(**{**values, **changes})


def failed(report, limits=(), difference=None, full=None):
    checks = gate_checks(report, difference, full, dict(limits))
    return {name for name, check in checks.items() if not check.holds}


def trials(only_bundle, only_full, both, neither=0):
    """Results of paired trials: the bundle's difference to full precision, and the latter's."""
    bundle = [True] * only_bundle + [False] * only_full + [True] * both + [False] * neither
    full = [False] * only_bundle + [True] * only_full + [True] * both + [False] * neither
    return {"difference": paired_difference(bundle, full), "full": sum(full) / len(full)}


def test_a_tip_as_near_as_full_precision_is_to_itself_passes():
    assert failed(report(tip_mm=3.9, spread_mm=4.0)) == set()
    assert failed(report(tip_mm=4.1, spread_mm=4.0)) == {"tip_mean_mm", "tip_p95_mm"}


def test_where_full_precision_is_sure_of_itself_the_play_of_the_gears_is_allowed():
    assert failed(report(tip_mm=TIP_PLAY_MM, spread_mm=0.0)) == set()
    assert failed(report(tip_mm=TIP_PLAY_MM + 0.1, spread_mm=0.0)) == {"tip_mean_mm", "tip_p95_mm"}


def test_a_limit_by_name_overrules_both_ways():
    assert failed(report(tip_mm=3.0), {"tip_mean_mm": 2.0}) == {"tip_mean_mm"}
    loose = {"tip_mean_mm": 9.0, "tip_p95_mm": 20.0}
    assert failed(report(tip_mm=8.0), loose) == set()


def test_a_gripper_that_closes_elsewhere_fails():
    assert failed(report(sides=0.97)) == {"gripper_agreement"}
    assert failed(report(sides=0.97, sides_spread=0.96)) == set()


def test_an_arm_whose_tip_is_not_known_is_judged_by_its_joints():
    unknown = report(tip_mm=0.0, gripper=None, gripper_spread=None)
    unknown = replace(unknown, tip_mm=None)
    assert failed(unknown) == {"joint_mean_share"}
    assert failed(unknown, {"joint_mean_share": 0.03}) == set()


def test_chunks_that_could_not_be_decoded_count():
    assert failed(report(undecodable=1, undecodable_alone=1)) == set()
    assert failed(report(undecodable=10, undecodable_alone=10)) == {"undecodable_share"}
    assert failed(report(undecodable=10)) == set()  # full precision wrote none either
    assert failed(report(), {"undecodable_share": 0.0}) == set()


@pytest.mark.parametrize(
    ("counts", "names"),
    [
        ((0, 0, 100), set()),
        ((1, 2, 97), set()),
        ((0, 8, 92), {"success_drop_points", "success_drop_bound_points"}),
        ((0, 0, 20), {"success_drop_bound_points"}),  # too few to say
        ((10, 0, 90), set()),  # better than full precision
        ((0, 0, 40, 60), {"full_success_percent"}),  # full precision cannot do it either
    ],
)
def test_trials_must_be_as_good_and_enough_to_say_so(counts, names):
    assert failed(report(), **trials(*counts)) == names


def test_the_drop_that_trials_cannot_rule_out_shrinks_with_their_number():
    bounds = []
    for count in (20, 40, 100, 400):
        checks = gate_checks(report(), *trials(0, 0, count).values(), {})
        bounds.append(checks["success_drop_bound_points"].value)
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > DROP_BOUND_POINTS > bounds[1]


def test_a_limit_on_what_was_not_measured_is_refused():
    with pytest.raises(BuildError, match="depth_agreement is on what these bundles do not show"):
        gate_checks(report(), None, None, {"depth_agreement": 0.5})
    with pytest.raises(BuildError, match="there are none; give --trials"):
        check_chosen({"success_drop_points": 2.0}, trials=0)
    check_chosen({"success_drop_points": 2.0, "tip_mean_mm": 1.0}, trials=10)


def test_a_few_observations_are_not_enough():
    assert failed(report(observations=19)) == {"observations"}
    assert failed(report(observations=19), {"observations": 10}) == set()


@pytest.mark.parametrize(
    "text", ["tip_mean_mm", "tip=3", "tip_mean_mm=", "tip_mean_mm=-1", "tip_mean_mm=nan"]
)
def test_a_limit_that_is_none_is_refused(text):
    with pytest.raises(BuildError, match=r"limit '.*' is not|not a number from 0 to"):
        parse_limit(text)


def test_every_limit_can_be_given():
    for name, kind in LIMITS.items():
        assert parse_limit(f"{name}={kind.most:g}") == (name, kind.most)


def test_as_much_harm_is_to_go_as_the_worst_limit_wants():
    checks = gate_checks(report(tip_mm=8.0), None, None, {})
    assert wanted_share(checks) == pytest.approx(0.8 * 0.25)
    assert wanted_share(gate_checks(report(), None, None, {})) == 1.0
    only_gripper = gate_checks(report(sides=0.5), None, None, {})
    assert wanted_share(only_gripper) == 0.25


def test_advice_names_the_layers_that_do_it_and_a_format_that_is_better():
    from quantization.fidelity.sensitivity import LayerSensitivity

    def layer(path, form, tip_mm):
        return LayerSensitivity(path, form, 100, 400, tip_mm, 0.01, None)

    layers = [
        layer("decoder/blocks.0.q", "int4-block32", 7.0),
        layer("expert/blocks.0.mlp.up_proj", "int8-block128", 3.0),
        layer("vision/blocks.0.w1", "int8", 2.0),
        layer("vision/blocks.1.w1", "int4-block32", 0.1),
    ]
    checks = gate_checks(report(tip_mm=8.0), None, None, {})
    assert advice(layers, checks) == (
        "decoder/blocks.0.q=int8-block",
        "expert/blocks.0.mlp.up_proj=fp32",
    )

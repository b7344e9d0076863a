"""What a call may spend: the pace of each level, and what less effort does to a policy's answer."""

import json
import shutil

import numpy as np
import pytest
from conftest import REFERENCE, load_cases
from ladder_settings import LADDER

from edge.errors import ObservationError
from edge.pace import FULL_EFFORT, FULL_PACE, Effort, pace_at, runnable_flow_steps
from edge.policy import Policy


def test_levels_add_one_rung_each_and_the_last_of_a_kind_counts():
    paces = [pace_at(LADDER.rungs, level, "too hot") for level in range(len(LADDER.rungs) + 1)]
    assert paces[0] == FULL_PACE
    assert [pace.level for pace in paces] == list(range(9))
    assert paces[1].effort == Effort(draft_window=8)
    assert paces[5].effort == Effort(8, 4, 25, 5)
    assert (paces[5].camera_hz, paces[6].camera_hz) == (None, 5.0)
    assert (paces[6].speed_share, paces[7].speed_share) == (1.0, 0.5)
    assert (paces[1].max_policy_hz, paces[8].max_policy_hz) == (None, 2.0)
    assert [bool(pace.hold) for pace in paces] == [False] * 8 + [True]
    assert paces[8].hold == "the ladder holds the arm: too hot"


@pytest.mark.parametrize(
    ("built", "possible"), [(10, (1, 2, 5, 10)), (8, (1, 2, 4, 8)), (7, (1, 7)), (0, ())]
)
def test_flow_steps_that_the_table_has_are_the_divisors_of_those_built_for(built, possible):
    assert runnable_flow_steps(built) == possible
    times = np.arange(built, dtype=np.float32) / np.float32(max(built, 1))
    for steps in possible:  # the very times, to the last bit
        wanted = np.arange(steps, dtype=np.float32) / np.float32(steps)
        assert np.array_equal(times[:: built // steps], wanted)


@pytest.fixture(scope="module")
def case():
    return next(case for case in load_cases("two_cameras") if case.depth == "full")


def act(policy, case, images=None, **changes):
    words = {"depth": "full", "noise": case.arrays["noise"], **changes}
    return policy.act(
        case.images if images is None else images,
        case.meta["task"],
        case.arrays["state"],
        case.meta["norm_tag"],
        **words,
    )


@pytest.fixture(scope="module")
def fewer_steps(tmp_path_factory):
    """The same checkpoint, built for fewer flow steps."""
    build = pytest.importorskip("quantization.build")
    root = tmp_path_factory.mktemp("steps")

    def bundle(steps):
        checkpoint = root / f"checkpoint-{steps}"
        shutil.copytree(REFERENCE / "two_cameras" / "checkpoint", checkpoint)
        config = json.loads((checkpoint / "config.json").read_text())
        config["flow_matching_num_steps"] = steps
        (checkpoint / "config.json").write_text(json.dumps(config))
        build.build_bundle(checkpoint, root / f"bundle-{steps}", "fp32")
        return root / f"bundle-{steps}"

    return bundle


def test_fewer_flow_steps_give_what_a_bundle_built_for_them_gives(bundles, fewer_steps, case):
    policy = Policy.open(bundles(), "sim")
    built = policy.bundle.manifest.model.flow_steps
    steps = runnable_flow_steps(built)[-2]
    assert steps < built
    other = Policy.open(fewer_steps(steps), "sim")
    wanted = act(other, case).actions
    fewer = act(policy, case, effort=Effort(flow_steps=steps)).actions
    np.testing.assert_allclose(fewer, wanted, atol=1e-4)  # degrees; only the table's sums round
    assert np.abs(act(policy, case).actions - wanted).max() > 1e-2


def test_flow_steps_that_the_bundle_cannot_run_are_refused_with_those_it_can(bundles, case):
    policy = Policy.open(bundles(), "sim")
    built = policy.bundle.manifest.model.flow_steps
    possible = ", ".join(map(str, runnable_flow_steps(built)))
    with pytest.raises(ObservationError, match=rf"asks for {built - 1} flow .* can run {possible}"):
        act(policy, case, effort=Effort(flow_steps=built - 1))


def test_narrower_draft_window_takes_more_passes_and_changes_no_code(bundles, case):
    answers, passes = [], []
    for effort in (FULL_EFFORT, Effort(draft_window=1)):
        policy = Policy.open(bundles(), None)
        act(policy, case)
        answer = act(policy, case, effort=effort)
        answers.append(answer)
        passes.append(answer.depth_passes)
    assert np.array_equal(answers[0].depth_codes, answers[1].depth_codes)
    np.testing.assert_allclose(answers[0].actions, answers[1].actions, atol=1e-4)
    assert passes[1] > passes[0]


def test_depth_codes_stay_between_refreshes_and_are_then_compared_with_their_picture(bundles, case):
    policy = Policy.open(bundles(), "sim")
    first = act(policy, case)
    other = [255 - image for image in case.images]
    effort = Effort(depth_every_calls=2)
    kept = act(policy, case, other, depth="incremental", effort=effort)
    assert (kept.changed_cells, kept.depth_passes) == (0, 1)
    assert np.array_equal(kept.depth_codes, first.depth_codes)
    due = act(policy, case, other, depth="incremental", effort=effort)
    fresh = Policy.open(bundles(), "sim")
    act(fresh, case)
    wanted = act(fresh, case, other, depth="incremental")
    assert due.changed_cells == wanted.changed_cells > 0
    assert np.array_equal(due.depth_codes, wanted.depth_codes)


def test_no_more_cells_are_asked_than_the_effort_allows(bundles, case):
    policy = Policy.open(bundles(), "sim")
    act(policy, case)
    other = [255 - image for image in case.images]
    counts = []
    for _ in range(40):
        answer = act(policy, case, other, depth="incremental", effort=Effort(depth_max_cells=3))
        counts.append(answer.changed_cells)
        assert np.count_nonzero(answer.asked_cells) == answer.changed_cells
    changed = sum(counts)
    assert max(counts) == 3
    assert counts[-1] == 0
    fresh = Policy.open(bundles(), "sim")
    act(fresh, case)
    assert act(fresh, case, other, depth="incremental").changed_cells == changed

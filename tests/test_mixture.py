"""Sources are drawn by weight, and an example is a function of seed and number alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from training.datasets import mixture as mixture_module
from training.datasets.embodiment import load_embodiment, shipped_embodiments
from training.datasets.mixture import Mixture, MixtureContext
from training.datasets.settings import MixtureError, parse_mixture
from training.examples.example import Example

ARM = {"robot": "data/demos", "embodiment": "so101"}
THREE = {
    "arm": {**ARM, "weight": 0.6},
    "sim": {"questions": "data/questions/embodied/train", "weight": 0.3},
    "text": {"questions": "data/questions/general/train", "weight": 0.1},
    "unused": {**ARM, "weight": 0.0},
}


class NamedSource:
    """Gives examples that show what they were drawn with."""

    def __init__(self, name):
        self.name = name

    def example(self, number, rng):
        return Example(number, self.name, (), str(rng.random()), "", None)


@pytest.fixture
def opened(monkeypatch):
    """Give `opened(data, seed)`: a mixture of sources that need no files."""

    def sources(settings, context):
        every = (*settings.robots, *settings.questions)
        return [NamedSource(source.name) for source in every if source.weight > 0]

    monkeypatch.setattr(mixture_module, "open_sources", sources)
    return lambda data, seed=0: Mixture(parse_mixture(data), MixtureContext(seed, None, None))


def test_sources_are_drawn_by_their_shares(opened):
    drawn = opened(THREE)
    counts = Counter(drawn.example(number).source for number in range(4000))
    assert set(counts) == {"arm", "sim", "text"}
    for name, share in (("arm", 0.6), ("sim", 0.3), ("text", 0.1)):
        assert counts[name] / 4000 == pytest.approx(share, abs=0.025)


def test_weights_need_not_sum_to_one():
    shares = parse_mixture({"a": {**ARM, "weight": 3}, "b": {"questions": "q"}}).shares
    assert shares == {"a": 0.75, "b": 0.25}


def test_an_example_is_drawn_again_alike_in_any_order(opened):
    first, again, other = opened(THREE), opened(THREE), opened(THREE, seed=1)
    forward = [first.example(number) for number in range(50)]
    backward = [again.example(number) for number in range(49, -1, -1)]
    assert forward == backward[::-1]
    assert len({example.question for example in forward}) == 50
    assert [other.example(number) for number in range(50)] != forward


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, r"data: no source; name at least one"),
        ({"arm": {**ARM, "weight": -1}}, r"data\.arm\.weight: -1; allowed: 0\.\.1e\+06"),
        ({"arm": {**ARM, "colour": 1}}, r"data\.arm: unknown key 'colour'"),
        ({"arm": {"robot": "x"}}, r"data\.arm\.embodiment: this key is missing"),
        ({"arm": {**ARM, "styles": {"depth": 1}}}, r"data\.arm\.depth: null; styles with depth"),
        ({"arm": {**ARM, "styles": {"act": 0}}}, r"data\.arm\.styles: every style has weight 0"),
        ({"arm": {**ARM, "styles": {"think": 1}}}, r"data\.arm\.styles: unknown key 'think'"),
        ({"arm": {**ARM, "episodes": [5, 2]}}, r"data\.arm\.episodes: \[5, 2\]; give \[first"),
        ({"arm": {**ARM, "weight": 0}}, r"data: every weight is 0"),
        ("demos", r"data: 'demos' is not a mapping"),
    ],
)
def test_a_wrong_mixture_is_refused_by_file_key_and_value(data, message):
    with pytest.raises(MixtureError, match=message):
        parse_mixture(data, file="stage.yaml")


def test_every_shipped_embodiment_is_whole():
    for name in shipped_embodiments():
        embodiment = load_embodiment(name)
        assert embodiment.state_frame.n_joints == len(embodiment.state_names)
        assert embodiment.action_frame.n_joints == len(embodiment.action_names)
        assert embodiment.n_action_steps <= embodiment.horizon
        masked = [n for n, m in zip(embodiment.action_names,
                                    embodiment.mask(embodiment.action_names), strict=True)
                  if not m]  # fmt: skip
        assert all("gripper" in joint for joint in masked)
        assert bool(masked) != embodiment.normalize_gripper


def test_the_two_calibrations_of_an_arm_differ_by_the_published_frame():
    for arm in ("so100", "so101"):
        new, old = load_embodiment(arm), load_embodiment(f"{arm}_old")
        pose = np.array([10.0, -30.0, 20.0, 5.0, 6.0, 40.0])
        expected = [10.0, 120.0, 110.0, 5.0, 6.0, 40.0]
        assert new.state_frame.model_from_arm(pose).tolist() == expected
        assert old.state_frame.model_from_arm(pose).tolist() == pose.tolist()
        assert new.frame_check.other == old.name
        assert old.frame_check.other == new.name
        assert new.norm_tag == old.norm_tag


def test_the_published_mixtures_in_the_docs_are_mixtures():
    text = (Path(__file__).parent.parent / "docs" / "datasets.md").read_text()
    blocks = [part.split("```")[0] for part in text.split("```yaml\n")[1:]]
    recipes = [yaml.safe_load(block) for block in blocks]
    parsed = [parse_mixture(recipe["data"], recipe.get("augmentation")) for recipe in recipes]
    assert len(parsed) >= 3
    for mixture in parsed:
        assert sum(mixture.shares.values()) == pytest.approx(1.0)
        for robot in mixture.robots:
            load_embodiment(robot.embodiment)

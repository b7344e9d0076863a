"""Bytes go where they help most, and never beyond the ceiling."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from quantization.allocation import Choice, allocate, most_needed
from quantization.errors import BuildError

SMALL, MIDDLE, LARGE = "int4", "int8", "fp32"


def ways(weights, harms):
    """The three forms of a matrix of so many weights."""
    sizes = (5 * weights // 8, weights, 4 * weights)
    return [Choice(*row) for row in zip((SMALL, MIDDLE, LARGE), sizes, harms, strict=True)]


def size_of(choices, formats):
    return sum(way.size_bytes for path, way in chosen(choices, formats))


def harm_of(choices, formats):
    return sum(way.harm for path, way in chosen(choices, formats))


def chosen(choices, formats):
    return [
        (path, next(way for way in choices[path] if way.format == form))
        for path, form in formats.items()
    ]


def best(choices, max_bytes):
    """Try everything."""
    combinations = itertools.product(*choices.values())
    fitting = [ways for ways in combinations if sum(w.size_bytes for w in ways) <= max_bytes]
    return min(sum(way.harm for way in ways) for ways in fitting)


def random_choices(seed, paths=6):
    random = np.random.default_rng(seed)
    choices = {}
    for number in range(paths):
        harms = np.sort(random.lognormal(0, 2, 3))[::-1]
        choices[f"decoder/{number}"] = ways(int(random.integers(8, 400)), map(float, harms))
    return choices


def test_the_matrix_that_hurts_most_gets_the_bits():
    choices = {"a": ways(80, (9.0, 1.0, 0.0)), "b": ways(80, (2.0, 1.0, 0.0))}
    assert allocate(choices, 130).formats == {"a": MIDDLE, "b": SMALL}


def test_of_two_that_hurt_alike_the_smaller_gets_them():
    choices = {"large": ways(800, (4.0, 1.0, 0.5)), "small": ways(80, (4.0, 1.0, 0.5))}
    assert allocate(choices, 600).formats == {"large": SMALL, "small": MIDDLE}


@pytest.mark.parametrize("seed", range(30))
def test_the_ceiling_holds_and_little_is_lost_against_trying_everything(seed):
    choices = random_choices(seed)
    least = sum(ways[0].size_bytes for ways in choices.values())
    most = sum(ways[-1].size_bytes for ways in choices.values())
    for max_bytes in np.linspace(least, most, 9).astype(int):
        found = allocate(choices, int(max_bytes))
        assert found.size_bytes == size_of(choices, found.formats) <= max_bytes
        assert found.harm == pytest.approx(harm_of(choices, found.formats))
        # Greedy misses at most one step of the whole, the one that did not fit any more.
        largest_step = max(w[0].harm - w[-1].harm for w in choices.values())
        assert found.harm <= best(choices, max_bytes) + largest_step


@pytest.mark.parametrize("seed", range(10))
def test_with_room_for_everything_nothing_is_lost(seed):
    choices = random_choices(seed)
    most = sum(ways[-1].size_bytes for ways in choices.values())
    assert allocate(choices, most).harm == pytest.approx(best(choices, most))


@pytest.mark.parametrize("seed", range(10))
def test_more_bytes_never_make_it_much_worse(seed):
    choices = random_choices(seed, paths=20)
    least = sum(ways[0].size_bytes for ways in choices.values())
    most = sum(ways[-1].size_bytes for ways in choices.values())
    harms = [allocate(choices, int(size)).harm for size in np.linspace(least, most, 40)]
    assert harms[-1] < harms[0]
    largest_step = max(w[0].harm - w[-1].harm for w in choices.values())
    for one, next_one in itertools.pairwise(harms):
        assert next_one <= one + largest_step


def test_a_form_that_costs_more_and_does_worse_is_never_taken():
    choices = {"a": [Choice("int4", 10, 1.0), Choice("int8", 20, 3.0), Choice("fp32", 40, 0.5)]}
    assert allocate(choices, 30).formats == {"a": "int4"}
    assert allocate(choices, 40).formats == {"a": "fp32"}


def test_a_step_that_does_not_fit_leaves_room_for_others():
    choices = {"large": ways(8000, (100.0, 1.0, 0.0)), "small": ways(80, (0.1, 0.01, 0.0))}
    found = allocate(choices, 5050 + 400)
    assert found.formats == {"large": SMALL, "small": LARGE}


def test_what_cannot_fit_is_refused_with_the_size_that_would():
    choices = {"a": ways(80, (9.0, 1.0, 0.0))}
    with pytest.raises(BuildError, match="give --max-bytes 1050 or more"):
        allocate(choices, 200, fixed_bytes=1000)
    assert allocate(choices, 1050, fixed_bytes=1000).formats == {"a": SMALL}


def test_the_same_sensitivities_give_the_same_recipe_in_any_order():
    choices = random_choices(3)
    turned = dict(reversed(choices.items()))
    assert list(allocate(choices, 900).formats.items()) == list(
        allocate(turned, 900).formats.items()
    )


def test_as_many_layers_are_named_as_are_needed_the_worst_first():
    stored = {
        name: Choice("int4", 1, harm) for name, harm in zip("abcd", (1, 50, 3, 20), strict=True)
    }
    better = {name: Choice("int8", 2, 0.01) for name in "abc"}
    assert most_needed(stored, better, harm_wanted=30.0) == ["b"]
    assert most_needed(stored, better, harm_wanted=21.5) == ["b", "c"]
    assert most_needed(stored, better, harm_wanted=0.0) == ["b", "c", "a"]
    assert most_needed(stored, better, harm_wanted=math.inf) == []


def test_a_form_that_does_not_help_is_not_named():
    stored = {"a": Choice("int4", 1, 1.0), "b": Choice("int4", 1, 2.0)}
    better = {"a": Choice("int8", 2, 1.5), "b": Choice("int8", 2, 1.0)}
    assert most_needed(stored, better, harm_wanted=0.0) == ["b"]

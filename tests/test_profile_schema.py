"""Editors check profiles against JSON Schemas; what they say must be what the loader says."""

import copy
import json
from functools import cache
from importlib import resources
from pathlib import Path

import pytest
import yaml

from edge.arm_file import arm_from_section
from edge.board_profile import board_from_section
from edge.config_section import ProfileError, Section
from edge.profile import load_profile
from edge.profile_files import ARM, BOARD, CAMERAS, PROFILE, read_file

jsonschema = pytest.importorskip("jsonschema")
referencing = pytest.importorskip("referencing")

ROOT = Path(str(resources.files("profiles")))
FOLDERS = {PROFILE: ".", BOARD: "boards", ARM: "arms", CAMERAS: "cameras"}
FILES = [
    (kind, path)
    for kind, folder in FOLDERS.items()
    for path in sorted((ROOT / folder).glob("*.yaml"))
]
LADDER = {
    **dict.fromkeys(("trip_margin_c", "clear_margin_c", "late_call_share", "late_tick_share"), 0.5),
    **dict.fromkeys(("window_s", "least_step_s", "quiet_s", "max_quiet_s", "hold_quiet_s"), 5.0),
    "late_tick_s": 0.02,
    "throttled": True,
    "min_count": 4,
    "rungs": [{"draft_window": 8}, {"speed_share": 0.5}, {"hold": True}],
}


@cache
def validator(kind):
    schemas = {path.name: json.loads(path.read_text()) for path in (ROOT / "schema").glob("*.json")}
    resource = referencing.jsonschema.DRAFT202012.create_resource
    registry = referencing.Registry().with_resources(
        (name, resource(schema)) for name, schema in schemas.items()
    )
    schema = schemas[f"{kind}.json"]
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema, registry=registry)


def whole(kind, name):
    """Return all values of a shipped file, those of its bases included."""
    return read_file(name, kind, None)[0]._values


def loads(kind, values, folder):
    """Tell whether the loader takes the values of a whole file."""
    try:
        if kind == PROFILE:
            (folder / "own.yaml").write_text(yaml.safe_dump(values))
            load_profile(folder / "own.yaml")
        elif kind == CAMERAS:
            profile = {**whole(PROFILE, "so101"), "cameras": "own_cameras.yaml"}
            (folder / "own_cameras.yaml").write_text(yaml.safe_dump(values))
            return loads(PROFILE, profile, folder)
        else:
            section = Section(copy.deepcopy(values), "own.yaml")
            (arm_from_section if kind == ARM else board_from_section)(section)
            section.finish()
    except ProfileError:
        return False
    return True


def places(value, path=()):
    """Yield the path of every mapping and of every single value."""
    yield path
    if isinstance(value, (dict, list)):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(child, (*path, key))


def at(values, path):
    for key in path:
        values = values[key]
    return values


def mistakes(values):
    """Yield (what was done, the values with one wrong type, unknown key or missing key)."""
    for path in places(values):
        found = at(values, path)
        wrong = {dict: "text", list: 7, str: True, bool: "yes", type(None): {"a": 1}}
        for change in ("unknown", "missing", "type"):
            changed = copy.deepcopy(values)
            if change == "unknown":
                # A name in `joints` and `sources` is the user's own, and what it has is checked.
                if not isinstance(found, dict) or path[-1:] in (("joints",), ("sources",)):
                    continue
                at(changed, path)["colour"] = "red"
            elif not path or path == ("hardware", "sources"):
                continue
            elif change == "missing":
                if len(path) > 1 or path == ("hardware",):
                    continue
                del changed[path[0]]
            else:
                at(changed, path[:-1])[path[-1]] = wrong.get(type(found), "fast")
            yield f"{change} {'.'.join(map(str, path))}", changed


def board():
    return {**whole(BOARD, "orin_nano_8gb_25w"), "ladder": LADDER}


CASES = {
    BOARD: board,
    ARM: lambda: whole(ARM, "so101"),
    CAMERAS: lambda: whole(CAMERAS, "front_wrist"),
    PROFILE: lambda: {**whole(PROFILE, "so101"), "calibration": "mine.json"},
}


@pytest.mark.parametrize(
    ("kind", "path"), FILES, ids=[str(path.relative_to(ROOT)) for _, path in FILES]
)
def test_every_shipped_file_is_what_its_schema_says_and_names_it(kind, path):
    text = path.read_text("utf-8")
    errors = [error.message for error in validator(kind).iter_errors(yaml.safe_load(text))]
    assert not errors
    named = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / named).resolve() == ROOT / "schema" / f"{kind}.json"


@pytest.mark.parametrize("kind", CASES)
def test_a_wrong_type_an_unknown_and_a_missing_key_are_refused_by_schema_and_loader(kind, tmp_path):
    values = CASES[kind]()
    assert validator(kind).is_valid(values)
    assert loads(kind, values, tmp_path)
    made = list(mistakes(values))
    assert len(made) > 10
    for what, changed in made:
        assert not loads(kind, changed, tmp_path), f"the loader takes {what}"
        assert not validator(kind).is_valid(changed), f"the schema takes {what}"


def test_a_number_of_a_board_that_is_out_of_range_is_refused_by_schema_and_loader(tmp_path):
    values = board()
    numbers = [
        path for path in places(values) if type(at(values, path)) in (int, float) and path[1:]
    ]
    ladder = {path[1] for path in numbers if path[0] == "ladder"}
    assert ladder == set(LADDER) - {"throttled"}
    for path in numbers:
        for wrong in (-1, 10**10):
            changed = copy.deepcopy(values)
            at(changed, path[:-1])[path[-1]] = wrong
            assert not loads(BOARD, changed, tmp_path), f"the loader takes {path} {wrong}"
            assert not validator(BOARD).is_valid(changed), f"the schema takes {path} {wrong}"


@pytest.mark.parametrize("name", ["bandwidth_gb_s", "cpu_int8_gops", "cpu_fp32_gflops", "sms"])
def test_only_a_figure_of_a_gpu_may_be_zero_for_schema_and_loader(name, tmp_path):
    values = copy.deepcopy(board())
    values["hardware"]["power_mode"][name].update(value=0, kind="derived")
    assert validator(BOARD).is_valid(values) == loads(BOARD, values, tmp_path) == (name == "sms")


def test_a_figure_without_a_value_is_unverified():
    values = board()
    values["hardware"] = copy.deepcopy(values["hardware"])
    values["hardware"]["usable_mib"]["value"] = None
    assert not validator(BOARD).is_valid(values)
    with pytest.raises(ProfileError, match="kind: 'published' without a value; allowed"):
        board_from_section(Section(values, "own.yaml"))


def test_a_file_based_on_another_may_leave_keys_out():
    assert validator(ARM).is_valid({"name": "mine", "based_on": "so101"})
    assert not validator(ARM).is_valid({"name": "mine"})

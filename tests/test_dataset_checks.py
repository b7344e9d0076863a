"""A dataset that would teach something wrong is refused, with file, episode and field."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("lerobot.datasets")

import pyarrow as pa
import pyarrow.parquet as pq
from tiny_dataset import JOINTS, write_tiny_dataset

from training.datasets.checks import check_dataset
from training.datasets.dataset_files import DatasetError, open_dataset
from training.datasets.embodiment import load_embodiment

CAMERAS = ("observation.images.front", "observation.images.wrist")
DATA_FILE = "data/chunk-000/file-000.parquet"


@pytest.fixture
def dataset(tiny_dataset, tmp_path):
    """Give a copy that may be damaged."""
    return shutil.copytree(tiny_dataset, tmp_path / "tiny")


def check(folder, embodiment="so101", cameras=CAMERAS, min_frames=30):
    return check_dataset(open_dataset(folder), load_embodiment(embodiment), cameras, min_frames)


def edit_info(folder, change):
    path = folder / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def edit_column(folder, name, change, file=DATA_FILE):
    """Change one column of a parquet file as a numpy array, vectors as rows."""
    path = folder / file
    table = pq.read_table(path)
    kind = table.schema.field(name).type
    values = np.array(table[name].to_pylist())
    change(values)
    index = table.column_names.index(name)
    pq.write_table(table.set_column(index, name, pa.array(values.tolist(), kind)), path)


def move_all_states(folder, change):
    def moved(values):
        values[:] = change(values)

    for name in ("observation.state", "action"):
        edit_column(folder, name, moved)


def test_a_good_dataset_gives_its_rows_in_the_checkpoints_frame(tiny_dataset):
    rows = check(tiny_dataset)
    stored = pq.read_table(tiny_dataset / DATA_FILE)
    arm = np.array(stored["observation.state"].to_pylist(), np.float32)
    expected = arm * [1, -1, 1, 1, 1, 1] + [0, 90, 90, 0, 0, 0]
    np.testing.assert_allclose(rows.state, expected, rtol=1e-6)
    assert rows.starts.tolist() == [0, 40, 76, 120]
    assert rows.action.shape == (120, 6)
    assert rows.tasks.tolist() == stored["task_index"].to_pylist()


def test_a_camera_that_is_not_there_is_named(tiny_dataset):
    with pytest.raises(DatasetError, match=r"info\.json: no camera observation\.images\.top; "):
        check(tiny_dataset, cameras=("observation.images.top",))


def test_a_camera_kept_as_single_pictures_is_named(tmp_path):
    folder = write_tiny_dataset(tmp_path / "pictures", lengths=(32,), video=False)
    with pytest.raises(DatasetError, match=r"front is kept as single pictures.*convert_image"):
        check(folder)


def test_a_missing_video_is_named(dataset):
    file = dataset / "videos/observation.images.wrist/chunk-000/file-000.mp4"
    file.unlink()
    with pytest.raises(DatasetError, match=rf"{file}: missing, it has episode 0"):
        check(dataset)


def test_dims_that_do_not_fit_are_named(tiny_dataset):
    with pytest.raises(DatasetError, match=r"observation\.state has 6 dims, embodiment .* has 14"):
        check(tiny_dataset, "yam_bimanual")


def test_joints_in_another_order_are_refused(dataset):
    turned = list(reversed(JOINTS))
    edit_info(dataset, lambda info: info["features"]["action"].update(names=turned))
    with pytest.raises(DatasetError, match=r"action lists gripper\.pos, .*needs the order sh"):
        check(dataset)


@pytest.mark.parametrize("text", ["", "  ", "Task: .", None])
def test_a_task_without_an_instruction_is_refused(dataset, text):
    """The public training code trains on an empty instruction without a word."""
    path = dataset / "meta/tasks.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "task", pa.array(["put it there", text])), path)
    with pytest.raises(DatasetError, match=rf"{DATA_FILE}: episode 1 frame 0: task is .* no instr"):
        check(dataset)


def test_a_frame_without_a_task_text_is_refused(dataset):
    edit_column(dataset, "task_index", lambda values: np.put(values, 41, 7))
    with pytest.raises(DatasetError, match=rf"{DATA_FILE}: episode 1 frame 1: task is null"):
        check(dataset)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("key", ["action", "observation.state"])
def test_a_value_that_is_no_number_is_found(dataset, key, value):
    edit_column(dataset, key, lambda values: values.__setitem__((80, 2), value))
    with pytest.raises(
        DatasetError, match=rf"{DATA_FILE}: episode 2 frame 4: {key}\[elbow_flex\.pos\] is {value}"
    ):
        check(dataset)


def test_rows_of_another_width_do_not_shift_those_behind_them(dataset):
    path = dataset / DATA_FILE
    table = pq.read_table(path)
    rows = table["action"].to_pylist()
    rows[50], rows[51] = rows[50][:5], [*rows[51], 0.0]  # as many numbers as before in all
    index = table.column_names.index("action")
    pq.write_table(table.set_column(index, "action", pa.array(rows, pa.list_(pa.float32()))), path)
    with pytest.raises(DatasetError, match=r"episode 1 frame 10: action has 5 numbers, .* says 6"):
        check(dataset)


def test_an_arm_of_the_old_calibration_is_not_taken_for_a_new_one(dataset):
    new = np.array([0, 90, 90, 0, 0, 0], np.float64)
    signs = np.array([1, -1, 1, 1, 1, 1])
    move_all_states(dataset, lambda values: signs * values + new)
    message = r"recorded in the frame of so101_old, not so101 \(median of shoulder_lift\.pos 12\d"
    with pytest.raises(DatasetError, match=message):
        check(dataset)
    assert check(dataset, "so101_old").state.shape == (120, 6)


def test_an_arm_of_the_new_calibration_is_not_taken_for_an_old_one(tiny_dataset):
    with pytest.raises(DatasetError, match=r"frame of so100, not so100_old .* use embod"):
        check(tiny_dataset, "so100_old")


def test_joints_as_shares_of_their_range_are_not_taken_for_degrees(dataset):
    move_all_states(dataset, lambda values: np.clip(2.5 * values, -100, 100))
    message = r"recorded as -100\.\.100 .*, not in degrees \(wrist_flex\.pos is .* in \d+ f"
    with pytest.raises(DatasetError, match=message):
        check(dataset)


def test_another_rate_is_refused(dataset):
    edit_info(dataset, lambda info: info.update(fps=25))
    with pytest.raises(DatasetError, match=r"info\.json: fps is 25, embodiment so101 has 30"):
        check(dataset)


def test_an_episode_shorter_than_a_chunk_is_refused(tiny_dataset):
    with pytest.raises(DatasetError, match=rf"{DATA_FILE}: episode 1 has 36 frames, a chunk needs"):
        check(tiny_dataset, min_frames=40)


def test_a_lost_frame_is_found(dataset):
    path = dataset / DATA_FILE
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table.slice(0, 50), table.slice(51)]), path)
    with pytest.raises(DatasetError, match=r"episode 1 frame 11 is not where meta/episodes put"):
        check(dataset)


def test_a_cut_data_file_is_found(dataset):
    path = dataset / DATA_FILE
    pq.write_table(pq.read_table(path).slice(0, 100), path)
    with pytest.raises(DatasetError, match=r"data: 100 frames, meta/episodes lists 120"):
        check(dataset)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DatasetError, match=rf"{DATA_FILE}: cannot be read"):
        check(dataset)


def test_recordings_of_a_policy_are_refused(dataset, tmp_path):
    renamed = dataset.rename(tmp_path / "eval_pick_cube")
    with pytest.raises(DatasetError, match="named like recordings of a policy"):
        check(renamed)


def test_an_older_format_is_refused_with_the_way_to_convert_it(dataset):
    edit_info(dataset, lambda info: info.update(codebase_version="v2.1"))
    with pytest.raises(DatasetError, match=r"codebase_version is 'v2\.1', v3\.0 is read; convert"):
        check(dataset)


def test_a_folder_that_is_no_dataset_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"no meta/info\.json; give the folder"):
        open_dataset(tmp_path)


def test_a_gripper_that_is_not_normalised_has_to_be_in_the_models_range(dataset, tmp_path):
    from importlib import resources

    preset = resources.files("training").joinpath("embodiments", "so101.yaml").read_text()
    own = tmp_path / "mine.yaml"
    own.write_text(preset.replace("normalize_gripper: true", "normalize_gripper: false"))
    message = r"gripper\.pos\] is .*, and this embodiment does not normalise it; -1\.\.1 is needed"
    with pytest.raises(DatasetError, match=message):
        check(dataset, str(own))


def test_a_preset_with_an_unknown_key_is_refused(tmp_path):
    from importlib import resources

    from training.datasets.embodiment import EmbodimentError

    preset = resources.files("training").joinpath("embodiments", "so101.yaml").read_text()
    own = tmp_path / "mine.yaml"
    own.write_text(preset + "colour: red\n")
    with pytest.raises(EmbodimentError, match=r"mine\.yaml: unknown key 'colour'"):
        load_embodiment(str(own))
    with pytest.raises(EmbodimentError, match="no embodiment named 'so102'; shipped: bc_z, dr"):
        load_embodiment("so102")

"""Chunks drawn from datasets on disk: which, how normalised, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("lerobot")

from training.cli import main
from training.datasets.embodiment import EmbodimentError, load_embodiment
from training.errors import TrainingError
from training.init.norm_stats import norm_stats
from training.openfast.dataset import ActionDataset, ActionFile, Episode, open_actions
from training.openfast.draw import Source, apportion, draw_jobs, open_sources
from training.openfast.errors import OpenFastError
from training.openfast.synthetic import ROBOTS, motion, write_synthetic

EPISODES = 11


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Datasets of a few short made-up episodes, to be copied before they are damaged."""
    import training.openfast.synthetic as synthetic

    out = tmp_path_factory.mktemp("synthetic") / "data"
    patch = pytest.MonkeyPatch()
    patch.setattr(synthetic, "_EPISODE_S", (1.5, 2.5))
    write_synthetic(out, EPISODES, seed=0)
    patch.undo()
    return out


@pytest.fixture
def so101(written, tmp_path):
    return shutil.copytree(written / "so101", tmp_path / "so101")


def actions_file(folder):
    return folder / "data" / "chunk-000" / "file-000.parquet"


def change_info(folder, **changes):
    path = folder / "meta" / "info.json"
    info = json.loads(path.read_text())
    info.update(changes)
    path.write_text(json.dumps(info))


def rewrite_actions(folder, change):
    table = pq.read_table(actions_file(folder))
    actions = [list(row) for row in table["action"].to_pylist()]
    change(actions)
    place = table.schema.get_field_index("action")
    column = pa.array(actions, pa.list_(pa.float32()))
    pq.write_table(table.set_column(place, "action", column), actions_file(folder))


def source_of(folder, spec="so101", norm_stats=None):
    return open_sources([f"{folder}:{spec}"], norm_stats)[0]


def test_actions_and_episodes_are_those_that_lerobot_reads(so101):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    theirs = LeRobotDataset("synthetic/so101", root=so101, video_backend="pyav")
    dataset = open_actions(so101, load_embodiment("so101"))
    (file,) = dataset.files
    assert dataset.frames == len(theirs)
    assert [e.index for e in file.episodes] == list(range(EPISODES))
    expected = theirs.hf_dataset.with_format("numpy")["action"]
    np.testing.assert_array_equal(file.read(), np.stack(list(expected)))


def test_a_chunk_is_normalised_in_the_checkpoints_frame_and_repeats_the_last_action(so101):
    source = source_of(so101)
    jobs = draw_jobs(source, source.dataset.frames // 2, np.random.default_rng(0), held_out=False)
    (job,) = jobs
    chunks = job.read()
    assert chunks.shape == (source.dataset.frames // 2, 30, 6)
    assert chunks.dtype == np.float32
    assert np.abs(chunks).max() == 1.0
    actions = source.dataset.files[0].read()
    model = actions * [1, -1, 1, 1, 1, 1] + [0, 90, 90, 0, 0, 0]
    low, high = np.quantile(model, (0.01, 0.99), axis=0)
    normal = np.clip(2 * (model - low) / (high - low) - 1, -1, 1)
    for start, chunk in zip(job.starts, chunks, strict=True):
        stop = next(e.stop for e in job.file.episodes if e.start <= start < e.stop)
        rows = np.minimum(np.arange(start, start + 30), stop - 1)
        np.testing.assert_allclose(chunk, normal[rows], atol=1e-4)


def test_norm_stats_replace_the_data_sets_own_quantiles(written, so101, tmp_path):
    path = tmp_path / "norm_stats.json"
    path.write_text(json.dumps(norm_stats(30, ())))
    source = source_of(so101, norm_stats=path)
    np.testing.assert_allclose(source.normalizer.low, [-41.9, 43.7, 38.4, 5.7, -63.5, 0.0])
    with pytest.raises(OpenFastError, match="no tag 'franka_droid'"):
        source_of(written / "droid_franka", "droid_franka", norm_stats=path)


def test_a_gripper_that_is_not_normalised_passes_through(written):
    source = source_of(written / "yam_bimanual", "yam_bimanual")
    (job,) = draw_jobs(source, 50, np.random.default_rng(0), held_out=False)
    grippers = job.read()[..., [6, 13]]
    assert grippers.min() >= 0
    assert grippers.max() <= 1


def test_held_out_episodes_are_never_fitted_on(so101):
    source = source_of(so101)
    rng = np.random.default_rng(0)
    fitted = draw_jobs(source, 100_000, rng, held_out=False)
    held_out = draw_jobs(source, 1000, rng, held_out=True)
    spans = source.dataset.files[0].episodes

    def episodes(jobs):
        starts = np.concatenate([job.starts for job in jobs])
        return {e.index for e in spans if np.any((e.start <= starts) & (starts < e.stop))}

    assert sum(len(job.starts) for job in fitted) == 100_000
    assert episodes(held_out) == {9}
    assert episodes(fitted) == set(range(EPISODES)) - {9}


def test_every_frame_of_every_file_can_start_a_chunk():
    def file(number, lengths):
        ends = np.cumsum(lengths).tolist()
        episodes = [
            Episode(10 * number + index, end - length, end)
            for index, (length, end) in enumerate(zip(lengths, ends, strict=True))
        ]
        return ActionFile(Path(f"{number}.parquet"), "action", 6, tuple(episodes))

    files = (file(0, [4, 7]), file(1, [3]), file(2, [5, 2]))
    dataset = ActionDataset(Path("somewhere"), load_embodiment("so101"), files)
    source = Source(dataset, normalizer=None, weight=1.0)
    rng = np.random.default_rng(0)
    fitted = draw_jobs(source, 19, rng, held_out=False)
    assert [(job.file.path.name, job.starts.tolist()) for job in fitted] == [
        ("0.parquet", list(range(11))),
        ("1.parquet", list(range(3))),
        ("2.parquet", list(range(5))),
    ]
    (held_out,) = draw_jobs(source, 2, rng, held_out=True)
    assert (held_out.file.path.name, held_out.starts.tolist()) == ("2.parquet", [5, 6])
    assert sum(len(job.starts) for job in draw_jobs(source, 9000, rng, held_out=False)) == 9000
    assert all(len(job.starts) <= 4096 for job in draw_jobs(source, 9000, rng, held_out=False))


def test_the_same_seed_draws_the_same_chunks(so101):
    source = source_of(so101)
    first, again, other = (
        draw_jobs(source, 40, np.random.default_rng(seed), held_out=False)[0].starts
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert len(set(first.tolist())) == 40
    assert not np.array_equal(first, other)


def test_chunks_are_shared_out_by_weight_and_add_up():
    assert apportion(1000, [30, 30, 30, 10 / 3, 10 / 3, 10 / 3]) == [300, 300, 300, 34, 33, 33]
    assert apportion(1, [1, 1]) == [1, 0]


@pytest.mark.parametrize("robot", ROBOTS, ids=lambda robot: robot.embodiment)
def test_made_up_motions_stay_in_reach_and_move_the_gripper(robot):
    actions = motion(robot, np.random.default_rng(0))
    names = load_embodiment(robot.embodiment).action_names
    assert actions.shape[1] == len(names)
    assert actions.dtype == np.float32
    grippers = actions[:, ["gripper" in name for name in names]]
    assert set(np.quantile(grippers, (0, 1)).round(3).tolist()) == set(map(float, robot.gripper))
    if not robot.delta:
        slack = 6 * robot.encoder_step
        joints = actions[:, ["gripper" not in name for name in names]]
        assert np.all(joints >= np.array(robot.low) - slack)
        assert np.all(joints <= np.array(robot.high) + slack)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("data", "is not FOLDER:EMBODIMENT"),
        ("data:so101:1:2", "is not FOLDER:EMBODIMENT"),
        ("data:so101:", "is not FOLDER:EMBODIMENT"),
        ("absent:so101", "absent: no meta/info.json; give the folder of a LeRobot v3 dataset"),
    ],
)
def test_a_wrong_data_argument_is_refused(spec, message):
    with pytest.raises(TrainingError, match=message):
        open_sources([spec], None)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "heavy"])
def test_a_weight_that_is_none_is_refused(so101, weight):
    with pytest.raises(OpenFastError, match=f"weight {weight} is no number above 0"):
        source_of(so101, f"so101:{weight}")


def test_an_unknown_robot_is_refused(so101):
    with pytest.raises(EmbodimentError, match="no embodiment named 'r2d2'"):
        source_of(so101, "r2d2")


def test_a_nan_is_refused_with_episode_frame_and_field(so101):
    start = open_actions(so101, load_embodiment("so101")).files[0].episodes[2].start

    def spoil(actions):
        actions[start + 7][3] = float("nan")

    rewrite_actions(so101, spoil)
    with pytest.raises(OpenFastError, match=r"so101.*episode 2, frame 7: action\[3\] is nan"):
        source_of(so101)


def test_a_row_of_another_width_is_refused(so101):
    rewrite_actions(so101, lambda actions: actions[5].pop())
    with pytest.raises(OpenFastError, match=r"numbers in \d+ rows; 6 a row are needed"):
        source_of(so101)


def test_rows_that_are_missing_are_refused(so101):
    pq.write_table(pq.read_table(actions_file(so101)).slice(0, 30), actions_file(so101))
    with pytest.raises(OpenFastError, match=r"30 rows are not the .* rows of episodes 0 to 10"):
        source_of(so101)


def test_a_data_set_of_another_shape_or_rate_is_refused(so101):
    with pytest.raises(OpenFastError, match="has 6 dims; embodiment droid_franka has 8"):
        source_of(so101, "droid_franka")
    change_info(so101, fps=20)
    with pytest.raises(OpenFastError, match="20 frames/s; embodiment so101 has 30"):
        source_of(so101)


def test_another_format_is_refused(so101):
    change_info(so101, codebase_version="v2.1")
    with pytest.raises(TrainingError, match=r"codebase_version is 'v2\.1'"):
        source_of(so101)


@pytest.mark.parametrize("name", ["meta/info.json", "data/chunk-000/file-000.parquet"])
def test_a_file_that_is_garbage_is_refused_by_name(so101, name):
    (so101 / name).write_text("garbage")
    with pytest.raises(TrainingError, match=str(so101)):
        source_of(so101)


def test_episodes_that_are_garbage_or_gone_are_refused(so101):
    episodes = so101 / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    episodes.write_text("garbage")
    with pytest.raises(TrainingError, match=r"file-000\.parquet: cannot be read"):
        source_of(so101)
    episodes.unlink()
    with pytest.raises(TrainingError, match="it has no episode"):
        source_of(so101)


def test_fit_and_report_run_from_the_command_line(written, tmp_path, capsys):
    data = ["--data", f"{written}/so101:so101:2", f"{written}/bc_z:bc_z", "--workers", "1"]
    out = tmp_path / "openfast"
    assert main(["openfast", "fit", str(out), *data, "--chunks", "600", "--vocab", "512"]) == 0
    assert "512 tokens from 600 chunks" in capsys.readouterr().out
    assert main(["openfast", "fit", str(out), *data]) == 2
    assert "already exists" in capsys.readouterr().err
    report = ["openfast", "report", str(out), *data, "--chunks", "20", "--fit-chunks", "600"]
    assert main(report) == 0
    text = capsys.readouterr().out
    assert "| so101 | 256 bins | 180.0 | 180 |" in text
    assert "| bc_z | padded to 32 dims |" in text
    assert "| so101 | gripper.pos | % |" in text


def test_a_missing_tokenizer_is_one_line(written, tmp_path, capsys):
    data = ["--data", f"{written}/so101:so101"]
    assert main(["openfast", "report", str(tmp_path / "absent"), *data]) == 2
    error = capsys.readouterr().err
    assert "processor_config.json: missing" in error
    assert error.count("\n") == 1

"""Change masks and carried codes: as the runtime and the reference see them, at any interval."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="annotating is of the workstation")
pytest.importorskip("lerobot")
from lerobot.policies.molmoact2.molmoact2_hf_model.modeling_molmoact2 import (
    _compute_depth_update_mask,
)
from tiny_dataset import write_tiny_dataset

from edge.images import CHANGE_SIMILARITY, changed_cells
from training.cli import main
from training.datasets.dataset_files import DatasetError, open_dataset
from training.datasets.pictures import PictureReader
from training.demonstrations.true_depth import write_episode, write_info
from training.depth.annotate import AnnotateSettings, EpisodeAnnotator, annotate_dataset
from training.depth.annotations import DepthAnnotations
from training.depth.buffer import carried_codes, episode_similarity
from training.depth.codec import DepthCodec
from training.depth.pictures import check_camera, episode_pictures
from training.depth.vq_vae import CodecShape, VqVae
from training.errors import TrainingError

FRONT = "observation.images.front"
LENGTHS = (34, 32)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    """A dataset of two episodes with true depth in which a box moves."""
    folder = write_tiny_dataset(tmp_path_factory.mktemp("data") / "demos", lengths=LENGTHS)
    depth = folder / "depth/front"
    depth.mkdir(parents=True)
    for episode, length in enumerate(LENGTHS):
        frames = []
        for frame in range(length):
            depth_mm = np.full((48, 64), 900, np.uint16)
            depth_mm[10:30, frame : frame + 20] = 400 + 50 * episode
            frames.append(depth_mm)
        write_episode(depth / f"episode_{episode:06d}.npz", frames)
    write_info(depth, "front", (64, 48), 30, LENGTHS)
    return folder


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """A codec with weights as they come, which is as good as any to say what is carried."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("codec") / "codec"
    model = VqVae(CodecShape(hidden=2, codes=16, code_width=8, residual_blocks=1))
    with torch.no_grad():
        latents = model.encoder(torch.randn(4, 1, 320, 320))
        model.codebook.start_at(latents, torch.Generator().manual_seed(0))
    DepthCodec(model).save(folder, {})
    return folder


@pytest.fixture(scope="module")
def annotated(demos, codec):
    out = demos.parent / "demos_depth"
    annotate_dataset(AnnotateSettings(demos, codec, intervals=(5, 1)), out, workers=1)
    return DepthAnnotations.open(out, demos)


def _walk(frames: int, seed: int = 0) -> list[np.ndarray]:
    """Pictures in which one corner changes more and more."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(40, 200, (90, 120, 3)).astype(np.int64)
    pictures = []
    for frame in range(frames):
        picture[: 8 * frame, : 10 * frame] += rng.integers(-30, 31, picture.shape)[
            : 8 * frame, : 10 * frame
        ]
        pictures.append(np.clip(picture, 0, 255).astype(np.uint8))
    pictures[-1][40:60, 40:60] = 0  # cells of no norm
    return pictures


@pytest.mark.parametrize("interval", [1, 3])
def test_changed_cells_are_those_of_runtime_and_reference(interval):
    pictures = _walk(8)
    similarity = episode_similarity(pictures, (interval,), 100)[interval]
    assert similarity.shape == (8, 100)
    assert (similarity[:interval] == -1).all()
    shares = []
    for frame in range(interval, 8):
        pair = pictures[frame], pictures[frame - interval]
        ours = similarity[frame] < CHANGE_SIMILARITY
        assert np.array_equal(ours, changed_cells(*pair, 100))
        assert np.array_equal(ours, _compute_depth_update_mask(*pair, num_depth_codes=100))
        shares.append(ours.mean())
    assert min(shares) < max(shares) < 1


def test_codes_are_carried_where_nothing_changed():
    fresh = np.array([[1, 2], [3, 4], [5, 6], [7, 8]])
    changed = np.array([[False, False], [True, False], [False, False], [False, True]])
    codes = carried_codes(fresh, changed, 1)
    assert codes.changed.tolist() == [[True, True], *changed[1:].tolist()]
    assert codes.buffer.tolist() == [[1, 2], [3, 2], [3, 2], [3, 8]]
    assert codes.fresh.tolist() == fresh.tolist()
    assert codes.buffer.dtype == np.int16


def test_at_an_interval_every_first_call_has_a_chain_of_its_own():
    fresh = np.arange(7)[:, None]
    changed = np.zeros((7, 1), bool)
    changed[4] = True
    codes = carried_codes(fresh, changed, 3)
    assert codes.changed[:, 0].tolist() == [True, True, True, False, True, False, False]
    assert codes.buffer[:, 0].tolist() == [0, 1, 2, 0, 4, 2, 0]


def test_an_episode_shorter_than_the_interval_is_all_fresh():
    codes = carried_codes(np.arange(3)[:, None], np.zeros((3, 1), bool), 30)
    assert codes.buffer[:, 0].tolist() == [0, 1, 2]
    assert codes.changed.all()


def test_pictures_in_order_are_those_of_lerobot(demos):
    dataset = open_dataset(demos)
    reader = PictureReader(dataset)
    for episode in range(2):
        pictures = list(episode_pictures(dataset, episode, FRONT))
        assert len(pictures) == LENGTHS[episode]
        for frame, picture in enumerate(pictures):
            assert np.array_equal(picture, reader.picture(episode, frame, FRONT))


def test_annotation_is_what_the_runtime_would_carry(demos, codec, annotated):
    annotator = EpisodeAnnotator(AnnotateSettings(demos, codec))
    assert annotated.info.episode_frames == LENGTHS
    assert annotated.info.camera == FRONT
    assert annotated.info.codebook == annotator.codec.digest
    shares = []
    for interval in annotated.intervals:
        for episode in range(2):
            pictures = list(episode_pictures(annotator.dataset, episode, FRONT))
            fresh = annotator.codec.encode(annotator.look(episode).depth)
            for first in range(interval):  # as if the policy were called first at this frame
                codes = fresh[first]
                for frame in range(first, LENGTHS[episode], interval):
                    changed = np.ones(100, bool)
                    if frame > first:
                        pair = pictures[frame], pictures[frame - interval]
                        changed = changed_cells(*pair, 100)
                        shares.append(changed.mean())
                    codes = np.where(changed, fresh[frame], codes)
                    place = episode, frame
                    assert np.array_equal(annotated.codes(*place, "fresh", interval), fresh[frame])
                    assert np.array_equal(annotated.codes(*place, interval=interval), codes)
                    assert np.array_equal(annotated.changed(*place, interval), changed)
    assert 0 < np.mean(shares) < 1


def test_workers_write_the_same_codes(demos, codec, annotated, tmp_path):
    settings = AnnotateSettings(demos, codec, intervals=(5, 1))
    annotate_dataset(settings, tmp_path / "again", workers=2)
    for interval in ("interval-005", "interval-001"):
        file = f"{interval}/data/chunk-000/file-000.parquet"
        assert (tmp_path / "again" / file).read_bytes() == (annotated.folder / file).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_a_codec_is_fitted_and_used_from_the_command_line(demos, tmp_path, capsys):
    codec, out = tmp_path / "codec", tmp_path / "demos_depth"
    fit = ["depth", "fit", str(codec), "--data", str(demos), "--steps", "12", "--batch", "2"]
    assert main([*fit, "--hidden", "2", "--frames", "20"]) == 0
    assert '"codes_used"' in capsys.readouterr().out.splitlines()[-1]
    assert main([*fit, "--hidden", "2", "--frames", "20"]) == 2
    assert "already exists" in capsys.readouterr().err
    annotate = ["depth", "annotate", str(demos), "--codec", str(codec), "--out", str(out)]
    assert main([*annotate, "--interval", "30"]) == 0
    assert DepthAnnotations.open(out, demos).intervals == (30,)
    report = ["depth", "report", str(demos), "--codec", str(codec), "--episodes", "1"]
    assert main([*report, "--out", str(tmp_path / "report.md")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert '"changed_share"' in lines[-1]
    assert "## Carried codes" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"camera": "observation.images.top"}, "no camera 'observation.images.top' kept as video"),
        ({"camera": "observation.images.wrist"}, "there is no true depth of camera 'wrist'"),
        ({"intervals": (5, 5)}, "intervals 5, 5; give different ones of 1 to 999 frames"),
        ({"threshold": 1.5}, "threshold 1.5; a cosine above 0"),
        ({"teacher": "nowhere"}, "teacher 'nowhere': no config.json there"),
    ],
)
def test_what_cannot_be_annotated_is_refused(demos, codec, tmp_path, change, message):
    with pytest.raises(TrainingError, match=message):
        annotate_dataset(AnnotateSettings(demos, codec, **change), tmp_path / "out", workers=1)
    assert not list(tmp_path.iterdir())


def test_a_codec_with_the_range_of_another_teacher_is_refused(demos, codec, tmp_path):
    other = DepthCodec.open(codec)
    other.limits = (0.0, 9.0)
    other.save(tmp_path / "other", {"teacher": "depth-anything"})
    with pytest.raises(TrainingError, match="range in the unit of teacher 'depth-anything'"):
        EpisodeAnnotator(AnnotateSettings(demos, tmp_path / "other"))


def test_an_episode_without_all_its_pictures_is_refused(demos):
    dataset = open_dataset(demos)
    longer = dataset.episodes[1]
    object.__setattr__(longer, "frames", LENGTHS[1] + 1)
    with pytest.raises(DatasetError, match=r"episode 1 has 32 pictures of .*, the dataset says 33"):
        list(episode_pictures(dataset, 1, FRONT))


def test_a_dataset_without_videos_is_refused(tmp_path):
    folder = write_tiny_dataset(tmp_path / "still", lengths=(3,), video=False)
    with pytest.raises(DatasetError, match="no camera that is kept as video"):
        check_camera(open_dataset(folder), None)

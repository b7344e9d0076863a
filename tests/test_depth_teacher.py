"""Teachers of depth: true depth inverted, Depth-Anything through transformers, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="teachers are of the workstation")
pytest.importorskip("transformers")
from PIL import Image
from transformers import (
    AutoModelForDepthEstimation,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTImageProcessor,
    pipeline,
)

from training.datasets.dataset_files import DatasetFiles, Episode
from training.demonstrations.true_depth import write_episode, write_info
from training.depth.relative import (
    depth_picture,
    inverse_depth,
    own_limits,
    relative_from_picture,
    resize_nearest,
)
from training.depth.teacher import (
    DepthAnythingTeacher,
    TeacherError,
    TeacherFrame,
    checked_depth,
    open_teacher,
)

CAMERA = "observation.images.front"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def depth_anything(tmp_path_factory):
    """A tiny Depth-Anything with random weights, in the layout of the published ones."""
    folder = tmp_path_factory.mktemp("depth-anything")
    backbone = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        head_hidden_size=4,
        initializer_range=0.3,  # else depth is zero everywhere
    )
    torch.manual_seed(0)
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    DPTImageProcessor(
        do_resize=True,
        size={"height": 56, "width": 56},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        do_normalize=True,
    ).save_pretrained(folder)
    return folder


def _picture(height=48, width=64):
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def _dataset(folder, lengths=(3,)):
    episodes = tuple(Episode(i, n, folder / "x", {}) for i, n in enumerate(lengths))
    return DatasetFiles(folder, 30.0, "so101", {}, {}, episodes)


def test_depth_anything_gives_what_transformers_pipeline_gives(depth_anything):
    teacher = DepthAnythingTeacher(depth_anything)
    picture = _picture()
    ours = teacher.depth(TeacherFrame(0, 0, picture))
    theirs = pipeline("depth-estimation", model=str(depth_anything))(Image.fromarray(picture))
    assert ours.shape == picture.shape[:2]
    assert ours.dtype == np.float32
    assert np.ptp(ours) > 0
    assert np.allclose(ours, theirs["predicted_depth"].numpy(), rtol=1e-5, atol=1e-6)
    # The pipeline stretches and cuts to levels as the release does, without the last resize.
    levels = depth_picture(ours, 320)
    expected = resize_nearest(np.asarray(theirs["depth"]), 320)
    assert np.abs(levels.astype(int) - expected).max() <= 1
    assert (levels != expected).mean() < 0.01


def test_weights_are_those_of_the_folder(depth_anything):
    ours = DepthAnythingTeacher(depth_anything)._model.state_dict()
    theirs = AutoModelForDepthEstimation.from_pretrained(depth_anything).state_dict()
    assert all(torch.equal(value.cpu(), theirs[name]) for name, value in ours.items())
    assert ours.keys() == theirs.keys()


def test_true_depth_is_inverted_so_that_near_is_bright(tmp_path):
    folder = tmp_path / "depth/front"
    folder.mkdir(parents=True)
    depth_mm = np.full((6, 8), 2000, np.uint16)
    depth_mm[2:4, 2:4] = 500
    depth_mm[0, 0] = 0  # nothing was met
    write_episode(folder / "episode_000000.npz", [depth_mm] * 3)
    write_info(folder, "front", (8, 6), 30, [3])
    teacher = open_teacher("sim", _dataset(tmp_path), CAMERA)
    depth = teacher.depth(TeacherFrame(0, 1, None))
    assert depth[3, 3] == pytest.approx(2.0)
    assert depth[5, 7] == pytest.approx(0.5)
    assert depth[0, 0] == 0
    picture = depth_picture(depth, 320)
    assert picture.shape == (320, 320)
    assert picture.dtype == np.uint8
    assert (picture.min(), picture.max()) == (0, 255)
    assert picture[160, 120] == 255


def test_the_stretch_of_a_picture_is_undone():
    depth = inverse_depth(np.linspace(0.3, 3.0, 320 * 320, dtype=np.float32).reshape(320, 320))
    for limits in (own_limits(depth), (0.2, 4.0)):
        back = relative_from_picture(depth_picture(depth, 320, limits), limits)
        assert np.abs(back - depth).max() <= 1.001 * (limits[1] - limits[0]) / 255
    assert np.array_equal(depth_picture(depth, 320), depth_picture(depth, 320, own_limits(depth)))


def test_with_common_limits_the_same_depth_is_the_same_level():
    near, nearer = np.full((8, 8), 1.0, np.float32), np.full((8, 8), 1.0, np.float32)
    nearer[:2] = 2.5
    levels = [depth_picture(depth, 320, (0.0, 2.0)) for depth in (near, nearer)]
    assert np.array_equal(levels[0][-1], levels[1][-1])
    assert levels[1][0, 0] == 255  # beyond the limits is cut off


def test_a_flat_picture_is_all_dark():
    assert not depth_picture(np.full((4, 4), 0.7, np.float32), 320).any()


@pytest.mark.parametrize("shape", [(480, 640), (333, 517), (100, 64), (720, 1280)])
def test_resize_is_opencv_nearest(shape):
    cv2 = pytest.importorskip("cv2")
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    expected = cv2.resize(values, (320, 320), interpolation=cv2.INTER_NEAREST)
    assert np.array_equal(resize_nearest(values, 320), expected)


def test_depth_of_other_episodes_is_refused(tmp_path):
    folder = tmp_path / "depth/front"
    folder.mkdir(parents=True)
    write_info(folder, "front", (8, 6), 30, [3])
    with pytest.raises(TeacherError, match="3 frames in 1 episodes, the dataset has 7 in 2"):
        open_teacher("sim", _dataset(tmp_path, (3, 4)), CAMERA)


def test_depth_that_is_not_finite_is_refused_with_its_place():
    class Broken:
        name = "broken"
        looks = False

        def depth(self, frame):
            return np.array([[1.0, np.nan]], np.float32)

    with pytest.raises(TeacherError, match=r"episode 2, frame 7: broken gave depth .* 1 values"):
        checked_depth(Broken(), TeacherFrame(2, 7, None))


def test_a_folder_that_is_no_teacher_is_refused(tmp_path):
    with pytest.raises(TeacherError, match=r"no config\.json there; give 'sim', or the folder"):
        open_teacher(str(tmp_path), _dataset(tmp_path), CAMERA)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(TeacherError, match="cannot be loaded"):
        open_teacher(str(tmp_path), _dataset(tmp_path), CAMERA)

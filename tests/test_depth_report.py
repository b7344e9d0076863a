"""What is measured of depth codes: error in millimetres, and what a checkpoint says by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the depth report is of the workstation")
pytest.importorskip("lerobot")
from tiny_dataset import write_tiny_dataset

from edge.policy import Policy
from quantization.cli import main as quantize
from training.cli import main
from training.datasets.dataset_files import open_dataset
from training.datasets.pictures import PictureReader
from training.demonstrations.true_depth import write_episode, write_info
from training.depth.annotate import AnnotateSettings, annotate_dataset
from training.depth.annotations import DepthAnnotations
from training.depth.code_accuracy import CodeSpeaker
from training.depth.codec import DepthCodec
from training.depth.depth_error import depth_error, truth_from_metres
from training.depth.vq_vae import CodecShape, VqVae

NANO = Path(__file__).parents[1] / "checkpoints/nano"
LENGTHS = (34, 32)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    """A dataset, a codec and the annotation that it made."""
    root = tmp_path_factory.mktemp("data")
    write_tiny_dataset(root / "demos", lengths=LENGTHS)
    depth = root / "demos/depth/front"
    depth.mkdir(parents=True)
    for episode, length in enumerate(LENGTHS):
        ramps = [np.linspace(400, 900 + frame, 48).astype(np.uint16) for frame in range(length)]
        frames = [np.repeat(ramp[:, None], 64, 1) for ramp in ramps]
        write_episode(depth / f"episode_{episode:06d}.npz", frames)
    write_info(depth, "front", (64, 48), 30, LENGTHS)
    torch.manual_seed(0)
    model = VqVae(CodecShape(hidden=2, code_width=8, residual_blocks=1))
    with torch.no_grad():
        latents = model.encoder(torch.randn(8, 1, 320, 320))
        model.codebook.start_at(latents, torch.Generator().manual_seed(0))
    DepthCodec(model).save(root / "codec", {})
    settings = AnnotateSettings(root / "demos", root / "codec", intervals=(5,))
    annotate_dataset(settings, root / "demos_depth", workers=1)
    return root


def test_decoded_depth_is_judged_in_millimetres():
    depth_m = np.full((320, 320), 0.5, np.float32)
    depth_m[:, 160:] = 1.0
    depth_m[:20] = 0  # nothing was met
    for limits in (None, (0.0, 4.0)):
        truth = truth_from_metres(depth_m, 320, limits)
        exact = depth_error(truth.picture[None].astype(np.float32), [truth])
        assert exact.levels == 0
        assert exact.mm < 4  # a level of the picture, at one metre
        least, most = truth.limits_per_m
        per_m = np.where(depth_m > 0, 1 / np.maximum(depth_m, 0.1), 0)
        per_m[:, 160:] = 1 / 1.2
        off = depth_error((per_m - least)[None] / (most - least) * 255 - 0.5, [truth])
        assert off.mm == pytest.approx(100, abs=1)  # half of the pixels by 200 mm
        assert off.relative == pytest.approx(0.1, abs=0.001)


def test_what_is_decoded_as_far_away_counts_as_two_metres():
    truth = truth_from_metres(np.full((320, 320), 0.5, np.float32), 320, (0.0, 4.0))
    assert depth_error(np.zeros((1, 320, 320)), [truth]).mm == pytest.approx(1500)


def test_without_true_depth_only_levels_are_judged():
    truth = truth_from_metres(np.full((320, 320), 0.5, np.float32), 320, (0.0, 4.0))
    object.__setattr__(truth, "depth_m", None)
    error = depth_error(np.zeros((1, 320, 320)), [truth])
    assert (error.levels, error.mm, error.relative) == (127, None, None)


def test_codes_said_alone_are_those_of_the_robot(annotated, tmp_path):
    """The same frame through the robot's runtime, code by code."""
    folder = annotated / "demos"
    speaker = CodeSpeaker(NANO, folder, annotated / "demos_depth", "so101")
    episode, frame = 1, 7
    said = speaker.said([(episode, frame)])
    bundle = tmp_path / "bundle"
    assert quantize(["build", str(NANO), str(bundle), "--recipe", "fp32"]) == 0
    policy = Policy.open(bundle)
    dataset = open_dataset(folder)
    reader = PictureReader(dataset)
    images = [reader.picture(episode, frame, camera) for camera in dataset.cameras]
    rows = speaker._source.rows
    row = int(rows.starts[episode]) + frame
    task = dataset.tasks[int(rows.tasks[row])]
    result = policy.act(images, task, rows.state[row], depth="full")
    assert np.array_equal(said.greedy[0], result.depth_codes)
    assert len(np.unique(said.greedy)) > 1
    known = DepthAnnotations.open(annotated / "demos_depth")
    assert np.array_equal(said.buffer[0], known.codes(episode, frame))
    assert np.array_equal(said.usual, _most_frequent(known.episode(0).buffer))


def _most_frequent(codes: np.ndarray) -> np.ndarray:
    return np.array([np.bincount(column).argmax() for column in codes.T])


def test_a_report_with_a_checkpoint_says_how_many_codes_are_right(annotated, capsys):
    folder = str(annotated / "demos")
    report = ["depth", "report", folder, "--codec", str(annotated / "codec"), "--episodes", "1"]
    judged = [*report, "--checkpoint", str(NANO), "--calls", "2"]
    assert main([*judged, "--annotations", f"{folder}_depth"]) == 0
    out = capsys.readouterr().out
    assert "2 calls, compared with codes carried at interval 5." in out
    assert '"greedy_share"' in out.splitlines()[-1]
    assert main(judged) == 2
    assert "--checkpoint needs --annotations" in capsys.readouterr().err


def test_annotations_of_another_codec_are_refused(annotated, capsys):
    other = annotated / "other"
    DepthCodec(VqVae(CodecShape(hidden=2, code_width=8, residual_blocks=1))).save(other, {})
    folder = str(annotated / "demos")
    report = ["depth", "report", folder, "--codec", str(other), "--episodes", "1"]
    with_checkpoint = ["--checkpoint", str(NANO), "--annotations", f"{folder}_depth"]
    assert main([*report, *with_checkpoint]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "was made with another codec than" in error

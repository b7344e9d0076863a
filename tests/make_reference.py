"""Make a small checkpoint and record what LeRobot's MolmoAct2 returns on it.

LeRobot ships the model behind the released checkpoints. A bundle built from the checkpoint must
give the same depth codes and the same actions; the recorded intermediates tell where a difference
starts. Needs Python 3.12 with `lerobot[molmoact2]==0.6.1`; the tests need only the files.

    PYTHONPATH=. python tests/make_reference.py three_cameras tests/reference/three_cameras

writes OUT/checkpoint, OUT/cases.json (one entry per call, in order) and OUT/cases.npz (arrays named
`frame0.camera0`, `<call>.state`, `<call>.noise`, `<call>.actions`, `<call>.depth_codes`, ...).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lerobot.policies.molmoact2.modeling_molmoact2 import _strict_load_safetensors_weights
from lerobot.policies.molmoact2.molmoact2_hf_model import modeling_molmoact2 as reference
from lerobot.policies.molmoact2.processor_molmoact2 import _load_local_molmoact2_processor

from training.init.init_checkpoint import init_checkpoint
from training.init.norm_stats import NORM_TAG, STATE_QUANTILES
from training.init.sizes import DepthGate, ExpertSize, ModelSize, TextSize, VisionSize

TASKS = ("Put the green cube in the bin.", "Task: open the DRAWER!", "wipe the table")
CAMERA_SIZES_PX = ((60, 80), (72, 72), (50, 90), (90, 64), (64, 100))  # height, width
# PyTorch resizes with another kernel on one thread than on several, and the two round halves
# differently. Robots' computers have several cores.
RESIZE_THREADS = 2
RECORDED = {
    "image_features": "model.vision_backbone",
    "hidden_after_block_0": "model.transformer.blocks.0",
    "hidden_final": "model.transformer.ln_f",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One checkpoint and the calls on it."""

    size: ModelSize
    frames: int
    seed: int
    dtype: str = "fp32"
    max_shard_mib: float = 4768


SMALL = ModelSize(
    name="three_cameras",
    vision=VisionSize(
        image_size_px=70,
        patch_size_px=14,
        pooling_patches=2,
        width=24,
        heads=2,
        mlp_width=40,
        layers=3,
        tap_layers=(-2,),
        adapter_width=32,
        adapter_heads=4,
        adapter_mlp_width=24,
    ),
    text=TextSize(
        width=32,
        layers=3,
        heads=4,
        kv_heads=4,
        head_dim=16,
        mlp_width=56,
        vocab_rows=3072,
        added_rows=16,
        rope_theta=10_000.0,
        max_positions=512,
    ),
    expert=ExpertSize(
        width=48,
        heads=3,
        mlp_ratio=8 / 3,
        mlp_multiple=16,
        timestep_width=16,
        max_action_dim=7,
        horizon=9,
        flow_steps=4,
    ),
    depth_grid=3,
    depth_gate=DepthGate.NONE,
    cameras=("top", "side", "wrist"),
)
FIVE_CAMERAS = dataclasses.replace(
    SMALL, name="five_cameras", cameras=("top", "left", "right", "front", "wrist")
)
DEEP = dataclasses.replace(
    SMALL,
    name="deep",
    text=dataclasses.replace(SMALL.text, layers=7, heads=6, kv_heads=1, head_dim=20),
    depth_grid=6,
    depth_gate=DepthGate.PER_LAYER,
    cameras=("front", "wrist"),
)
TILED = dataclasses.replace(
    SMALL,
    name="tiled",
    vision=dataclasses.replace(
        SMALL.vision, crop_mode="overlap-and-resize-c2", max_crops=4, overlap_patches=(1, 2)
    ),
    depth_grid=5,
    depth_gate=DepthGate.SHARED,
    cameras=("front", "wrist"),
)

CASES = {
    "three_cameras": Case(SMALL, frames=3, seed=1, dtype="bf16", max_shard_mib=0.5),
    "five_cameras": Case(FIVE_CAMERAS, frames=3, seed=2),
    "deep": Case(DEEP, frames=4, seed=3),
    "tiled": Case(TILED, frames=3, seed=4),
}


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", choices=tuple(CASES))
    parser.add_argument("out", type=Path, help="folder to write; must not exist")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Write the checkpoint, run the reference on it, record."""
    args = build_parser().parse_args(argv)
    case = CASES[args.case]
    args.out.mkdir(parents=True)
    init_checkpoint(
        args.out / "checkpoint",
        case.size,
        seed=case.seed,
        dtype=case.dtype,
        max_shard_mib=case.max_shard_mib,
    )
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(RESIZE_THREADS)
    entries, arrays = record_calls(case, args.out / "checkpoint")
    content = {"case": args.case, "seed": case.seed, "cases": entries}
    (args.out / "cases.json").write_text(json.dumps(content, indent=1) + "\n")
    np.savez_compressed(args.out / "cases.npz", **arrays)
    return 0


def load_reference(checkpoint: Path) -> tuple[torch.nn.Module, object]:
    """Load model (float32) and processor as LeRobot's policy does.

    transformers 5 draws new weights after reading them, because the model's own initialisation does
    not heed its marks; LeRobot therefore loads a second time, strictly, and so do we.
    """
    model = reference.MolmoAct2ForConditionalGeneration.from_pretrained(
        checkpoint, dtype=torch.float32
    )
    _strict_load_safetensors_weights(model, str(checkpoint))
    return model.eval(), _load_local_molmoact2_processor(str(checkpoint))


def record_calls(case: Case, checkpoint: Path) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Call the reference once without depth, then frame by frame with depth kept in between."""
    model, processor = load_reference(checkpoint)
    rng = np.random.default_rng(case.seed)
    frames = moving_scene(rng, len(case.size.cameras), case.frames)
    arrays = {
        f"frame{f}.camera{c}": image
        for f, views in enumerate(frames)
        for c, image in enumerate(views)
    }
    entries: list[dict] = []
    cache, before = None, None
    for call in range(case.frames + 1):
        frame, depth = max(0, call - 1), call > 0
        name = "plain" if call == 0 else f"depth_{frame}"
        state = rng.uniform(*(STATE_QUANTILES[q] for q in ("q01", "q99"))).astype(np.float32)
        noise_seed = int(rng.integers(1 << 31))
        kept, hooks = _record_modules(model)
        result = model.predict_action(
            processor=processor,
            images=frames[frame],
            task=TASKS[call % len(TASKS)],
            state=state,
            norm_tag=NORM_TAG,
            inference_action_mode="continuous",
            enable_depth_reasoning=depth,
            depth_cache=cache,
            enable_cuda_graph=False,
            generator=torch.Generator().manual_seed(noise_seed),
        )
        for hook in hooks:
            hook.remove()
        outputs = {"state": state, "noise": _noise(case, noise_seed), **kept}
        outputs["actions"] = result.actions.numpy()
        if depth:
            outputs["depth_codes"] = result.depth_bins.numpy()
            outputs["generated_token_ids"] = result.generated_token_ids.numpy()
        if before is not None:
            outputs["changed_cells"] = reference._compute_depth_update_mask(
                frames[frame][0], frames[frame - 1][0], num_depth_codes=case.size.depth_grid**2
            )
        arrays.update({f"{name}.{key}": value for key, value in outputs.items()})
        entries.append(
            {
                "name": name,
                "frame": frame,
                "images": [f"frame{frame}.camera{c}" for c in range(len(case.size.cameras))],
                "task": TASKS[call % len(TASKS)],
                "norm_tag": NORM_TAG,
                "depth_reasoning": depth,
                "adaptive_depth": depth,
                "depth_cache_from": before,
            }
        )
        if depth:
            cache, before = result.depth_cache, name
    return entries, arrays


def moving_scene(rng: np.random.Generator, cameras: int, frames: int) -> list[list[np.ndarray]]:
    """Paint smooth pictures in which one square moves a little further in every frame."""
    pictures = []
    for height, width in CAMERA_SIZES_PX[:cameras]:
        y, x = np.mgrid[0:height, 0:width]
        waves = [
            np.sin(x / rng.uniform(8, 30) + rng.uniform(0, 6)) * np.cos(y / rng.uniform(8, 30))
            for _ in range(3)
        ]
        pictures.append(128 + 90 * np.stack(waves, axis=-1))
    scene = []
    for frame in range(frames):
        views = []
        for picture in pictures:
            view = picture + rng.normal(0, 0.7, picture.shape)
            top, left = 6 + 9 * frame, 8 + 11 * frame
            view[top : top + 16, left : left + 16] = (220, 60, 30)
            views.append(np.clip(view, 0, 255).astype(np.uint8))
        scene.append(views)
    return scene


def _record_modules(model: torch.nn.Module) -> tuple[dict[str, np.ndarray], list]:
    kept: dict[str, np.ndarray] = {}

    def keep(name: str):
        def hook(_module, _inputs, output):
            value = output[0] if isinstance(output, tuple) else output
            kept.setdefault(name, value.detach().numpy())  # the first pass, which is the prefill

        return hook

    modules = dict(model.named_modules())
    return kept, [
        modules[path].register_forward_hook(keep(name)) for name, path in RECORDED.items()
    ]


def _noise(case: Case, seed: int) -> np.ndarray:
    shape = (1, case.size.expert.horizon, case.size.expert.max_action_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).numpy()


if __name__ == "__main__":
    sys.exit(main())

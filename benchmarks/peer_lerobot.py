"""The public model's side of a comparison: LeRobot's MolmoAct2 on CPU, in a process of its own.

The model is LeRobot's, unchanged. Only two things are ours: the loading, which never holds more
than the model and a shard; and hooks that note when each stage begins and ends.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from lerobot.policies.molmoact2.molmoact2_hf_model import modeling_molmoact2 as public
from lerobot.policies.molmoact2.processor_molmoact2 import _load_local_molmoact2_processor

from benchmarks.errors import PeerError
from benchmarks.peer_job import (
    ALL_DIFFER,
    DEPTH_SCENARIOS,
    FIRST_FRAME,
    NO_DEPTH,
    STILL,
    TASK,
    Answer,
    Call,
    Job,
    Scene,
    with_twins,
)
from training.errors import TrainingError
from training.model.load import load_model as load_trained_model


def measure_lerobot(job: Job, scene: Scene) -> Answer:
    """Run every scenario on `job.checkpoint`; raises `PeerError`.

    To the public model it makes no difference how many of the changed cells' codes come out
    different, so the scenario is run once.
    """
    torch.set_num_threads(job.threads)
    started = time.perf_counter()
    model = LeRobotModel(Path(job.checkpoint), getattr(torch, job.dtype))
    load_s = time.perf_counter() - started
    codes: list[int] = []
    if model.depth_cells:
        model.act(scene.pictures, TASK, scene.state, job.norm_tag, depth=True)
        codes = model.codes.tolist()

    def run(scenario: str) -> Call:
        previous = None
        if scenario not in (NO_DEPTH, FIRST_FRAME):
            previous = (scene.pictures[0] if scenario == STILL else scene.before, codes)
        depth = scenario != NO_DEPTH
        model.act(scene.pictures, TASK, scene.state, job.norm_tag, depth=depth, previous=previous)
        return model.call

    scenarios = [name for name in DEPTH_SCENARIOS if name != ALL_DIFFER] if codes else []
    calls = with_twins(scenarios, job.calls, run)
    return Answer(
        versions={"lerobot": version("lerobot"), "torch": torch.__version__},
        load_s=load_s,
        prompt_tokens=model.prompt_tokens,
        calls=calls,
        changed=model.changed,
        codes=codes,
        one_token_s=model.one_token_s,
    )


class LeRobotModel:
    """The public model with a clock on every stage; one call at a time.

    After a call, `call`, `codes` and `prompt_tokens` tell about it; `changed` lists the cells of
    the last call that compared pictures, `one_token_s` gathers the passes of a single token.
    """

    def __init__(self, checkpoint: Path, dtype: torch.dtype) -> None:
        self._model = load_model(checkpoint, dtype)
        self._processor = _load_local_molmoact2_processor(str(checkpoint))
        config = self._model.config
        self.depth_cells = int(config.num_depth_codes or 0) * bool(config.enable_depth_reasoning)
        self.call: Call | None = None
        self.codes = np.zeros(0, np.int64)
        self.changed: list[int] = []
        self.one_token_s: list[float] = []
        self.prompt_tokens = 0
        self._marks: dict[str, float] = {}
        self._passes = 0
        self._pass_started = 0.0
        self._mask: np.ndarray | None = None
        self._listen()

    def act(
        self,
        pictures: Sequence[np.ndarray],
        task: str,
        state: np.ndarray,
        norm_tag: str,
        *,
        depth: bool,
        previous: tuple[np.ndarray, Sequence[int]] | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        """Predict actions (n_action_steps, dim) float32; `seed` draws the flow noise.

        `previous` is the first picture and the codes of the call before; without it every cell is
        predicted. Raises `PeerError` when the model does not end its depth span.
        """
        cache = None
        if previous is not None:
            cache = {"image": previous[0], "depth_bins": np.asarray(previous[1], np.int64)}
        self._marks, self._passes, self._mask = {}, 0, None
        started = time.perf_counter()
        try:
            result = self._model.predict_action(
                processor=self._processor,
                images=list(pictures),
                task=task,
                state=np.asarray(state, np.float32),
                norm_tag=norm_tag,
                inference_action_mode="continuous",
                enable_depth_reasoning=depth,
                depth_cache=cache,
                enable_cuda_graph=False,
                generator=torch.Generator().manual_seed(seed),
            )
        except RuntimeError as error:
            raise PeerError(f"LeRobot's model gave up: {error}") from None
        ended = time.perf_counter()
        changed = 0
        if depth:
            self.codes = result.depth_bins[0].numpy()
            changed = self.depth_cells
        if self._mask is not None:
            self.changed = np.flatnonzero(self._mask).tolist()
            changed = len(self.changed)
        self.call = Call(
            call_s=ended - started,
            stages_s=_stages(self._marks, started, ended, depth),
            depth_passes=self._passes - 1 if depth else 0,
            changed_cells=changed,
            moved_cells=None,
        )
        return result.actions[0].float().numpy()

    def _listen(self) -> None:
        """Note the moments that separate the stages; the model's own code stays as it is."""
        model, inner = self._model, self._model.model

        def first(name: str) -> None:
            self._marks.setdefault(name, time.perf_counter())

        def prompt_comes(_module: object, _given: tuple, named: dict) -> None:
            self.prompt_tokens = int(named["input_ids"].shape[1])

        def pass_begins(*_: object) -> None:
            self._pass_started = time.perf_counter()

        def pass_ends(_module: object, _given: tuple, named: dict, _out: object) -> None:
            self._passes += 1
            if named["inputs_embeds"].shape[1] == 1:
                self.one_token_s.append(time.perf_counter() - self._pass_started)

        inner.register_forward_pre_hook(prompt_comes, with_kwargs=True)
        inner.vision_backbone.register_forward_pre_hook(lambda *_: first("vision begins"))
        inner.vision_backbone.register_forward_hook(lambda *_: first("vision ends"))
        inner.register_forward_hook(lambda *_: first("prompt is read"))
        model.register_forward_hook(lambda *_: first("head is read"))  # only before depth
        inner.transformer.register_forward_pre_hook(pass_begins)
        inner.transformer.register_forward_hook(pass_ends, with_kwargs=True)
        generate, compare = inner.generate_actions_from_inputs, public._compute_depth_update_mask

        def generate_actions(**named: object) -> torch.Tensor:
            first("actions begin")
            return generate(**named)

        def compare_pictures(*given: object, **named: object) -> np.ndarray:
            self._mask = compare(*given, **named)
            return self._mask

        inner.generate_actions_from_inputs = generate_actions
        public._compute_depth_update_mask = compare_pictures


def load_model(checkpoint: Path, dtype: torch.dtype) -> torch.nn.Module:
    """Build LeRobot's model with the checkpoint's weights as `dtype`, ready to act.

    It attends by the functions that its configuration names. Raises `PeerError` when the shards and
    the model do not name the same tensors.
    """
    try:
        model = load_trained_model(checkpoint, dtype, fast_attention=False)
    except TrainingError as error:
        raise PeerError(str(error)) from None
    return model.requires_grad_(False).eval()


def _stages(marks: dict[str, float], started: float, ended: float, depth: bool) -> dict[str, float]:
    """Cut a call into the stages that a bundle's call has too; they add up to the call."""
    prefill_ends = marks["head is read" if depth else "prompt is read"]
    depth_ends = marks["actions begin"] if depth else prefill_ends
    return {
        "preprocess": marks["vision begins"] - started,
        "vision": marks["vision ends"] - marks["vision begins"],
        "prefill": prefill_ends - marks["vision ends"],
        "depth": depth_ends - prefill_ends,
        "expert": ended - depth_ends,
    }

"""The policy: pictures, a task and joint positions in, a chunk of joint goals out.

    policy = Policy.open("bundle/")
    result = policy.act([front, wrist], "pick up the red cube", state, depth="incremental")

It knows nothing of the engine behind the stages, of cameras, or of servos.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge.action_span import ActionSpan
from edge.board_profile import MEASURED
from edge.bundle import Bundle, open_bundle
from edge.depth import DepthSpan, SpanTokens, settle
from edge.depth_refresh import DepthRefresh
from edge.draft_window import Acceptance, FixedWindow, MeasuredWindow, Trust, Window
from edge.engines import Decoder, Expert, Vision
from edge.errors import BundleError, ObservationError, shown
from edge.images import ImagePatches, changed_cells, cut_image
from edge.inpainting import HeldActions
from edge.manifest import CONTINUOUS, DISCRETE
from edge.normalization import RobotTag, choose_tag
from edge.observation import ActionsMode, DepthMode, check_noise, check_observation, numbers
from edge.onnx_engine import EngineSettings, open_engines
from edge.pace import FULL_EFFORT, Effort, runnable_flow_steps
from edge.pass_costs import PassCosts
from edge.profile import load_profile
from edge.prompt import Prompt, clean_task, encode, is_text, robot_text, state_text

if TYPE_CHECKING:
    from edge.profile import Profile

STAGES = ("preprocess", "vision", "prefill", "depth", "expert")
_MAX_TASK_CHARACTERS = 4096
_ONE_BY_ONE = FixedWindow(0)  # without codes to draft from, most guesses are wasted rows
# Share of drafts to be believed right before any was checked, as if seen in _BELIEF_TRIALS: the
# last call's codes, cells guessed from their neighbours, and, in the order of `Source`, what the
# model says of cells behind a wrong code (with random weights about that many were right).
_PREVIOUS, _NEIGHBOUR, _SAID, _BELIEF_TRIALS = 0.7, 0.2, (0.9, 0.5, 0.5, 0.95), 6.0


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """What one call returns."""

    actions: np.ndarray  # (n_action_steps, action_dim) float32, robot units, checkpoint joint frame
    depth_codes: np.ndarray | None  # (depth_cells,) int64
    stages: dict[str, float]  # seconds per stage, keys STAGES; "expert" also stands for tokens
    depth_passes: int  # decoder passes that carried depth tokens
    changed_cells: int  # cells whose picture changed, so that their code was asked again
    moved_cells: int  # cells whose code came out different from the last call's; all without one
    prompt_tokens: int
    action_tokens: np.ndarray | None  # (n,) int64 as written, with the end of turn; discrete only
    asked_cells: np.ndarray | None = None  # (depth_cells,) bool, those of changed_cells


class Policy:
    """An open bundle, ready to act. One thread at a time."""

    def __init__(
        self,
        bundle: Bundle,
        vision: Vision,
        decoder: Decoder,
        expert: Expert | None,
        window: FixedWindow | PassCosts,
        actions: ActionsMode | None = None,
    ) -> None:
        """Put the stages together; `window` bounds drafted passes, or says what passes cost."""
        self.bundle = bundle
        self.actions = self._possible(actions or bundle.manifest.model.actions[0])
        self._vision, self._decoder, self._expert = vision, decoder, expert
        self._trust: Trust | None = None
        self._blind_trust: Trust | None = None
        self._window: Window
        self._blind_window: Window
        if isinstance(window, PassCosts):
            self._trust, self._blind_trust = _belief(_PREVIOUS), _belief(_NEIGHBOUR)
            self._window = MeasuredWindow(window, self._trust)
            self._blind_window = MeasuredWindow(window, self._blind_trust)
        else:
            self._window, self._blind_window = window, _ONE_BY_ONE
        self._model, self._tokens = bundle.manifest.model, bundle.manifest.tokens
        self._action_span = ActionSpan(bundle) if bundle.action_tokenizer else None
        self._image_ids = np.array(self._tokens.image)
        self._previous: tuple[np.ndarray, np.ndarray] | None = None  # first picture, codes
        self._refresh = DepthRefresh(self._model.depth_cells)
        self._random = np.random.default_rng()
        added = bundle.tokenizer.get_added_tokens_decoder().values()
        self._reserved = sorted(token.content for token in added)

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        profile: Profile | str | Path | None = None,
        actions: ActionsMode | None = None,
    ) -> Policy:
        """Verify and load a bundle; never downloads.

        `profile` sets threads and draft window; None means all cores and no bound. `actions` is
        what calls do that do not say; None means continuous where the bundle can. Raises
        `BundleError`, `ObservationError` or `ProfileError`.
        """
        if isinstance(profile, (str, Path)):
            profile = load_profile(profile)
        opened = open_bundle(bundle)
        board = profile.board if profile else None
        settings = EngineSettings(board.threads, board.spinning) if board else EngineSettings()
        vision, decoder, expert = open_engines(opened, settings)
        window = FixedWindow(None)
        if board and board.draft_window == MEASURED:
            if opened.manifest.model.depth_cells:  # else there is nothing to draft
                window = decoder.measure_passes()
        elif board:
            window = FixedWindow(board.draft_window)
        return cls(opened, vision, decoder, expert, window, actions)

    def reset(self) -> None:
        """Forget the previous frame and its depth codes."""
        self._previous = None
        self._refresh.forget()

    def check_task(self, task: str) -> str:
        """Return a task as the prompt puts it; `ObservationError` when it cannot be said."""
        if not is_text(task) or len(task) > _MAX_TASK_CHARACTERS:
            raise ObservationError(
                f"task is {shown(task)}; a text of at most {_MAX_TASK_CHARACTERS} characters is "
                "needed"
            )
        words = clean_task(task)
        if not words:
            raise ObservationError(f"task {shown(task)} says nothing; tell the robot what to do")
        reserved = [text for text in self._reserved if text in words] if "<" in words else []
        if reserved:
            raise ObservationError(f"task holds the reserved token {reserved[0]}; leave it out")
        return words

    def act(
        self,
        images: Sequence[np.ndarray],
        task: str,
        state: np.ndarray,
        norm_tag: str | None = None,
        depth: DepthMode = "off",
        noise: np.ndarray | None = None,
        committed: np.ndarray | None = None,
        committed_weights: np.ndarray | None = None,
        actions: ActionsMode | None = None,
        effort: Effort = FULL_EFFORT,
    ) -> PolicyResult:
        """Predict a chunk of actions.

        `images` are (height, width, 3) uint8 RGB in camera order, `state` (dof,) in the
        checkpoint's joint frame, `noise` (1, horizon, max_action_dim) float32 makes the call
        repeatable. With `depth` "full" every cell is predicted, with "incremental" those that
        changed since the last call with depth.

        The first k returned actions are held to `committed`, (k, action_dim) in robot units and the
        checkpoint's joint frame; with `committed_weights`, (k,), those below 1 are only drawn to
        it. See `edge.inpainting`.

        `actions` "continuous" integrates the flow, "discrete" writes action tokens, greedily; None
        does what the policy was opened for. Tokens need no `noise`, and take no `committed`.
        `effort` bounds what the call may spend. Raises `ObservationError`, and
        `UndecodableActionsError` when tokens do not stand for a chunk.
        """
        clock = time.perf_counter
        marks = [clock()]
        tag = choose_tag(self.bundle.tags, norm_tag)
        check_observation(images, state, tag, depth, self._model.depth_cells)
        discrete = self._possible(actions or self.actions) == DISCRETE
        flow_steps = self._flow_steps(effort)
        noise = self._noise(noise, tag)
        held = self._held(committed, committed_weights, tag)
        if discrete and held is not None:
            raise ObservationError(
                "committed needs continuous actions: tokens are written without it; leave it out"
            )
        pictures = [cut_image(image, self._model.image) for image in images]
        prompt = self._prompt(pictures, task, state, tag, depth != "off")
        span = self._span(images[0], depth, discrete, effort) if depth != "off" else None
        marks.append(clock())
        features = self._encode(pictures)
        marks.append(clock())
        said = self._prefill(prompt, features, span, discrete)
        marks.append(clock())
        if span is not None:
            settle(self._decoder, span, len(prompt.tokens))
            newest = self._refresh.done() or self._previous is None
            picture = np.array(images[0]) if newest else self._previous[0]
            self._previous = (picture, span.codes)
        marks.append(clock())
        if discrete:
            said = said if span is None else span.logits_behind
            written = self._action_span.write(self._decoder, said, tag.action_horizon)
            chunk = self._action_span.chunk(written, tag.action_horizon, tag.action.dim)
        else:
            written, chunk = None, self._flow(prompt, span, tag, noise, held, flow_steps)
        marks.append(clock())
        return PolicyResult(
            actions=self._robot_actions(chunk, tag),
            depth_codes=span.codes.copy() if span else None,
            stages=dict(zip(STAGES, np.diff(marks).tolist(), strict=True)),
            depth_passes=span.passes if span else 0,
            changed_cells=span.changed_count if span else 0,
            moved_cells=span.moved_count if span else 0,
            prompt_tokens=len(prompt.tokens),
            action_tokens=written,
            asked_cells=span.changed if span else None,
        )

    def _possible(self, actions: str) -> str:
        possible = self.bundle.manifest.model.actions
        if actions not in possible:
            if actions not in (CONTINUOUS, DISCRETE):
                raise ObservationError(f"actions is {shown(actions)}; choose {', '.join(possible)}")
            raise ObservationError(
                f"this bundle has no {actions} actions; use actions={possible[0]!r}, or build it "
                f"with --actions {actions} from a checkpoint that has them"
            )
        return actions

    def _flow_steps(self, effort: Effort) -> int:
        built = self._model.flow_steps
        steps = effort.flow_steps or built
        if steps != built and steps not in runnable_flow_steps(built):
            possible = ", ".join(map(str, runnable_flow_steps(built))) or "none"
            raise ObservationError(
                f"effort asks for {steps} flow steps; this bundle was built for {built}, and can "
                f"run {possible}"
            )
        return steps

    def _prompt(
        self,
        pictures: list[ImagePatches],
        task: str,
        state: np.ndarray,
        tag: RobotTag,
        with_depth: bool,
    ) -> Prompt:
        words, layout = self.check_task(task), self._model.prompt
        bins = state_text(tag.state.normalize(state), layout.state_bins)
        text = robot_text(words, bins, tag.setup, tag.control, pictures, with_depth, layout)
        return encode(self.bundle.tokenizer, text, self._tokens.bos, self._image_ids)

    def _span(
        self, picture: np.ndarray, depth: DepthMode, goes_on: bool, effort: Effort
    ) -> DepthSpan:
        cells, tokens = self._model.depth_cells, self._tokens
        ids = SpanTokens(
            tokens.depth_start, tokens.depth_first, tokens.depth_end, self._model.depth_codes
        )
        codes, changed = None, np.ones(cells, bool)
        window, trust = self._blind_window, self._blind_trust
        if self._previous is not None:
            before, codes = self._previous
            window, trust = self._window, self._trust
            if depth == "incremental":
                changed = changed_cells(picture, before, cells)
            changed = self._refresh.choose(changed, effort)
            if effort.draft_window is not None:
                window = FixedWindow(effort.draft_window)
        pairs = self._decoder.row_pairs
        return DepthSpan(codes, changed, ids, window, trust, pairs=pairs, goes_on=goes_on)

    def _encode(self, pictures: list[ImagePatches]) -> np.ndarray:
        """Run the vision tower on all pictures at once; (image tokens, width) in prompt order."""
        crops = np.concatenate([picture.patches for picture in pictures])
        pooling, first = [], 0
        for picture in pictures:
            pooling.append(np.where(picture.pooling >= 0, picture.pooling + first, -1))
            first += picture.patches.shape[0] * picture.patches.shape[1]
        return self._vision.encode(crops, np.concatenate(pooling))

    def _prefill(
        self, prompt: Prompt, features: np.ndarray, span: DepthSpan | None, goes_on: bool
    ) -> np.ndarray | None:
        """Fill the cache; return the logits behind the prompt if the answer `goes_on` from there.

        With a depth span in between the span keeps them.
        """
        embeddings = self.bundle.embeddings.rows(prompt.tokens)
        patches = prompt.tokens == self._tokens.image_patch
        if np.count_nonzero(patches) != len(features):
            raise BundleError(
                f"the prompt has {np.count_nonzero(patches)} picture tokens, the pictures have "
                f"{len(features)}; tokenizer or norm_stats.json is of another model"
            )
        embeddings[patches] += features
        rows = np.array([len(prompt.tokens) - 1] if goes_on else [], np.int64)
        if span is not None:
            drafted, rows = span.first_pass(prompt_decides=self._decoder.prefill_decides)
            embeddings = np.concatenate([embeddings, self.bundle.embeddings.rows(drafted)])
            rows = rows + len(prompt.tokens)
        logits = self._decoder.prefill(embeddings, prompt.image_mask, rows)
        if span is not None:
            span.accept(logits)
            return None
        return logits[0] if goes_on else None

    def _flow(
        self,
        prompt: Prompt,
        span: DepthSpan | None,
        tag: RobotTag,
        noise: np.ndarray,
        held: HeldActions | None,
        flow_steps: int,
    ) -> np.ndarray:
        """Integrate the flow from noise to actions with Euler steps; (horizon, dim)."""
        model, tokens = self._model, self._tokens
        depth = prompt.tokens == (-1 if tokens.depth_output is None else tokens.depth_output)
        visible = np.ones(len(prompt.tokens), bool)
        if model.hide_eos_from_expert and tokens.eos is not None:
            visible = prompt.tokens != tokens.eos
        if span is not None:
            depth = np.pad(depth, (0, span.length), constant_values=True)
            visible = np.pad(visible, (0, span.length), constant_values=True)
        self._expert.prepare(self._decoder.keys_values(), visible, depth)
        actions, padding = np.array(noise, np.float32), slice(None)
        if model.mask_action_dim_padding:
            padding = slice(0, tag.action.dim)
            actions[..., tag.action.dim :] = 0
        step_size = np.float32(1 / flow_steps)
        for index in range(flow_steps):
            velocity = self._expert.step(actions, index * model.flow_steps // flow_steps)
            if held is not None:
                velocity = held.steer(velocity, actions, 1 - index / flow_steps)
            actions[..., padding] += step_size * velocity[..., padding]
        return actions[0, :, : tag.action.dim]

    def _robot_actions(self, chunk: np.ndarray, tag: RobotTag) -> np.ndarray:
        """Cut a chunk (horizon, dim) in model units to (n_action_steps, dim) in robot units."""
        first = self._model.n_obs_steps - 1
        wanted = chunk[first : first + tag.n_action_steps]
        return tag.action.unnormalize(wanted).astype(np.float32)

    def _noise(self, noise: np.ndarray | None, tag: RobotTag) -> np.ndarray:
        shape = (1, tag.action_horizon, self._model.max_action_dim)
        if noise is None:
            return self._random.standard_normal(shape, np.float32)
        return check_noise(noise, shape)

    def _held(
        self, committed: np.ndarray | None, weights: np.ndarray | None, tag: RobotTag
    ) -> HeldActions | None:
        if committed is None:
            if weights is not None:
                raise ObservationError("committed_weights without committed; give both or neither")
            return None
        weights = None if weights is None else numbers(weights, "committed_weights")
        return HeldActions(numbers(committed, "committed"), weights, tag, self._model.n_obs_steps)


def _belief(before: float) -> Trust:
    shares = (before, *_SAID)
    return Trust(*(Acceptance(share * _BELIEF_TRIALS, _BELIEF_TRIALS) for share in shares))

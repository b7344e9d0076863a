"""A checkpoint's `config.json` and `processor_config.json`, checked against what is supported.

Every field that would change the arithmetic is either read or refused by name and value: a graph
that ignores a switch is worse than none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from edge.errors import shown
from edge.images import ImageLayout
from edge.prompt import PromptFormat
from quantization.errors import BuildError

_ROPE_DEFAULT_THETA = 1_000_000.0  # the class default of the release's text config
_MOST = 1 << 20  # above every size of a released model; a larger one is a damaged file
_LARGEST = 1e12
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class VitConfig:
    """The vision tower and the adapter that turns its patches into tokens."""

    width: int
    mlp_width: int
    heads: int
    kv_heads: int
    head_dim: int
    layer_norm_eps: float
    built_layers: int  # layers up to the deepest that is read
    taps: tuple[int, ...]  # indices of the layers that are concatenated, in order
    positions: int
    pool_width: int
    pool_heads: int
    pool_kv_heads: int
    pool_head_dim: int
    pool_mean_over_valid: bool  # the query averages real patches only
    pool_masks_padding: bool  # the softmax leaves padding out ("sdpa"; "eager" lets it in)
    projector_width: int


@dataclass(frozen=True, slots=True)
class TextConfig:
    """The decoder."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    vocab: int
    added_vocab: int
    qkv_bias: bool
    qk_norm: bool
    norm_eps: float
    rope_theta: float
    max_positions: int
    tied_head: bool


@dataclass(frozen=True, slots=True)
class ExpertConfig:
    """The flow-matching action expert."""

    width: int
    heads: int
    mlp_width: int
    time_width: int
    context_norm: bool
    qk_norm: bool
    qk_norm_eps: float
    rope: bool
    flow_steps: int


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """A whole checkpoint."""

    vit: VitConfig
    text: TextConfig
    expert: ExpertConfig | None  # None: actions are tokens only
    image: ImageLayout
    prompt: PromptFormat
    max_action_horizon: int
    max_action_dim: int
    action_codes: int  # action tokens; 0 when the checkpoint was not trained to write them
    n_obs_steps: int
    mask_action_dim_padding: bool
    hide_eos_from_expert: bool
    depth_cells: int
    depth_codes: int
    depth_gate: str
    norm_stats_name: str
    token_ids: dict[str, int | None]  # as config.json states them, to compare with the tokenizer


def parse_config(config: dict[str, Any], processor: dict[str, Any]) -> CheckpointConfig:
    """Read both JSON objects; raise `BuildError` with field and value when unsupported."""
    top = _Section(config, "config.json")
    top.only("model_type", "molmoact2")
    top.only("state_format", "discrete", default="discrete")
    modes = ("continuous", "discrete", "both")
    action_mode = top.choice("action_mode", modes, default="both")
    has_expert = top.flag("add_action_expert", True)
    if not has_expert and action_mode == "continuous":
        top.refuse("add_action_expert", False, "true, because action_mode is 'continuous'")
    text = _parse_text(top.section("text_config"))
    vit = _parse_vit(top.section("vit_config"), top.section("adapter_config"), text.width)
    expert = None
    if has_expert and action_mode != "discrete":
        expert = _parse_expert(top, text)
    depth_gate = "none"
    if expert is not None and top.flag("action_expert_depth_gate", False):
        per_layer = top.flag("action_expert_depth_gate_per_layer", False)
        depth_gate = "per-layer" if per_layer else "single"
    depth_cells = depth_codes = 0
    if top.flag("enable_depth_reasoning", False):
        depth_cells = top.count("num_depth_codes", 100)
        depth_codes = top.count("num_depth_tokens")
        if math.isqrt(depth_cells) ** 2 != depth_cells:
            top.refuse("num_depth_codes", depth_cells, "a square number of cells")
    image, prompt = _parse_processor(_Section(processor, "processor_config.json"), top)
    rows, columns = image.grid
    if vit.positions != rows * columns:
        raise BuildError(
            f"config.json: vit_config.image_num_pos is {vit.positions}, the processor cuts "
            f"{rows} x {columns} patches; only an equal number is supported"
        )
    return CheckpointConfig(
        vit=vit,
        text=text,
        expert=expert,
        image=image,
        prompt=prompt,
        max_action_horizon=top.count("max_action_horizon", 30),
        max_action_dim=top.count("max_action_dim", 32),
        action_codes=0 if action_mode == "continuous" else top.count("num_action_tokens", 0, 0),
        n_obs_steps=top.count("n_obs_steps", 30),
        mask_action_dim_padding=top.flag("mask_action_dim_padding", True),
        hide_eos_from_expert=action_mode == "both",
        depth_cells=depth_cells,
        depth_codes=depth_codes,
        depth_gate=depth_gate,
        norm_stats_name=top.text("norm_stats_filename", "norm_stats.json"),
        token_ids={
            key: None if config.get(key) is None else top.count(key, least=0)
            for key in (
                "image_patch_id",
                "depth_output_token_id",
                "depth_start_token_id",
                "depth_end_token_id",
                "depth_token_start_id",
                "action_start_token_id",
                "action_end_token_id",
                "action_token_start_id",
                "state_token_start_id",
                "eos_token_id",
            )
        },
    )


def _parse_text(section: _Section) -> TextConfig:
    section.only("hidden_act", "silu", default="silu")
    section.only("norm_after", False, default=False)
    section.only("rope_scaling_layers", None, default=None)
    scaling = section.get("rope_scaling", None) or section.get("rope_parameters", None) or {}
    if not isinstance(scaling, dict):
        section.refuse("rope_parameters", scaling, "an object")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default":
        section.refuse("rope_scaling", kind, "'default'")
    theta = section.number("rope_theta", scaling.get("rope_theta", _ROPE_DEFAULT_THETA))
    heads = section.count("num_attention_heads")
    grouped = section.get("num_key_value_heads", None) is not None
    kv_heads = section.count("num_key_value_heads") if grouped else heads
    head_dim = section.count("head_dim", 128)
    if heads % kv_heads:
        section.refuse("num_key_value_heads", kv_heads, f"a divisor of {heads} heads")
    if head_dim % 2:
        section.refuse("head_dim", head_dim, "an even number")
    qk_norm = section.flag("use_qk_norm", False)
    if qk_norm:
        section.only("qk_norm_type", "qwen3", default="olmo")
    return TextConfig(
        width=section.count("hidden_size"),
        layers=section.count("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        mlp_width=section.count("intermediate_size"),
        vocab=section.count("vocab_size"),
        added_vocab=section.count("additional_vocab_size", 0, least=0),
        qkv_bias=section.flag("qkv_bias", True),
        qk_norm=qk_norm,
        norm_eps=section.number("layer_norm_eps", 1e-6),
        rope_theta=theta,
        max_positions=section.count("max_position_embeddings", 4096),
        tied_head=section.flag("tie_word_embeddings", False),
    )


def _parse_vit(vit: _Section, adapter: _Section, text_width: int) -> VitConfig:
    vit.only("hidden_act", "gelu_pytorch_tanh", default="gelu_pytorch_tanh")
    adapter.only("hidden_act", "silu", default="silu")
    layers = vit.count("num_hidden_layers")
    taps = []
    for tap in adapter.whole_numbers("vit_layers", [-3, -9], None):
        index = tap if tap >= 0 else tap + layers
        if not 0 <= index < layers:
            adapter.refuse("vit_layers", tap, f"a layer of the {layers}")
        taps.append(index)
    if adapter.count("text_hidden_size") != text_width:
        adapter.refuse("text_hidden_size", adapter.get("text_hidden_size"), str(text_width))
    attention = adapter.choice("attn_implementation", ("eager", "sdpa"), default="eager")
    mean_over_valid = adapter.flag("pooling_attention_mask", False)
    return VitConfig(
        width=vit.count("hidden_size"),
        mlp_width=vit.count("intermediate_size"),
        heads=vit.count("num_attention_heads"),
        kv_heads=vit.count("num_key_value_heads"),
        head_dim=vit.count("head_dim"),
        layer_norm_eps=vit.number("layer_norm_eps", 1e-6),
        built_layers=max(taps) + 1,
        taps=tuple(taps),
        positions=vit.count("image_num_pos", 577),
        pool_width=adapter.count("hidden_size"),
        pool_heads=adapter.count("num_attention_heads"),
        pool_kv_heads=adapter.count("num_key_value_heads"),
        pool_head_dim=adapter.count("head_dim"),
        pool_mean_over_valid=mean_over_valid,
        pool_masks_padding=mean_over_valid and attention == "sdpa",
        projector_width=adapter.count("intermediate_size"),
    )


def _parse_expert(top: _Section, text: TextConfig) -> ExpertConfig:
    section = top.section("action_expert_config")
    section.only("causal_attn", False, default=False)
    width, heads = section.count("hidden_size"), section.count("num_heads")
    if section.count("num_layers") != text.layers:
        found = section.get("num_layers")
        section.refuse("num_layers", found, f"one a decoder layer: {text.layers}")
    if width % heads or (width // heads) % 2:
        section.refuse("num_heads", heads, f"a divisor of {width} that leaves an even head width")
    multiple = section.count("ffn_multiple_of", 256)
    inner = int(width * section.number("mlp_ratio", 8.0 / 3.0))
    return ExpertConfig(
        width=width,
        heads=heads,
        mlp_width=-(-inner // multiple) * multiple,
        time_width=section.count("timestep_embed_dim", 256),
        context_norm=section.flag("context_layer_norm", True),
        qk_norm=section.flag("qk_norm", True),
        qk_norm_eps=section.number("qk_norm_eps", 1e-6),
        rope=section.flag("rope", True),
        flow_steps=top.count("flow_matching_num_steps", 10),
    )


def _parse_processor(processor: _Section, top: _Section) -> tuple[ImageLayout, PromptFormat]:
    image = processor.section("image_processor")
    size = {"height": 378, "width": 378}
    if image.get("size", None) is not None:
        size = {side: image.section("size").count(side) for side in size}
    for key in ("image_mean", "image_std"):
        image.only(key, [0.5, 0.5, 0.5], default=[0.5, 0.5, 0.5])
    image.only("resample", 2, default=2)  # bilinear in Pillow's numbering
    crop_mode = image.choice(
        "crop_mode",
        ("resize", "overlap-and-resize-c2", "overlap-and-resize"),
        default="overlap-and-resize-c2",
    )
    height, width = size["height"], size["width"]
    patch = image.count("patch_size", 14)
    if height % patch or height != width:
        image.refuse("size", size, f"equal sides, whole patches of {patch}")
    vit_size = top.section("vit_config").get("image_default_input_size", [378, 378])
    if vit_size not in ([height, width], (height, width)):
        image.refuse("size", size, f"vit_config.image_default_input_size {vit_size}")
    pooling = image.whole_numbers("pooling_size", [2, 2], 2)
    margins = image.whole_numbers("overlap_margins", [4, 4], 2)
    layout = ImageLayout(
        height=height,
        width=width,
        patch_size=patch,
        pooling_height=pooling[0],
        pooling_width=pooling[1],
        crop_mode="resize" if crop_mode == "resize" else "overlap-and-resize",
        max_crops=image.count("max_crops", 8),
        overlap_left=margins[0],
        overlap_right=margins[1],
    )
    columns = processor.flag("image_use_col_tokens", True)
    single = processor.get("use_single_crop_col_tokens", None)
    return layout, PromptFormat(
        wrap_setup=top.flag("add_setup_tokens", True),
        wrap_control=top.flag("add_control_tokens", True),
        overview_column_tokens=columns if single is None else bool(single),
        detail_column_tokens=columns,
        low_res_start=processor.flag("use_single_crop_start_token", True),
        state_bins=top.count("num_state_tokens"),
    )


class _Section:
    """One object of a JSON file, read by key with errors that name file, field and value."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self._values, self._where = values, where

    def get(self, key: str, default: Any = _ABSENT) -> Any:
        value = self._values.get(key, default)
        if value is _ABSENT:
            raise BuildError(f"{self._where}: {key} is missing")
        return value

    def section(self, key: str) -> _Section:
        value = self.get(key)
        if not isinstance(value, dict):
            self.refuse(key, value, "an object")
        separator = " " if self._where.endswith(".json") else "."
        return _Section(value, f"{self._where}{separator}{key}")

    def count(self, key: str, default: Any = _ABSENT, least: int = 1) -> int:
        value = self.get(key, default)
        if type(value) is not int or not least <= value <= _MOST:
            self.refuse(key, value, f"a whole number of {least} to {_MOST}")
        return value

    def whole_numbers(self, key: str, default: list[int], length: int | None) -> list[int]:
        values = self.get(key, default)
        fits = isinstance(values, list) and values and len(values) == (length or len(values))
        if not fits or any(type(value) is not int for value in values):
            self.refuse(key, values, f"{length or 'a list of'} whole numbers")
        return values

    def number(self, key: str, default: Any = _ABSENT) -> float:
        value = self.get(key, default)
        if type(value) not in (int, float) or not 0 < value <= _LARGEST:
            self.refuse(key, value, f"a number above 0, at most {_LARGEST:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            self.refuse(key, value, "true or false")
        return value

    def text(self, key: str, default: str) -> str:
        value = self.get(key, default)
        if not isinstance(value, str):
            self.refuse(key, value, "a text")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        value = self.get(key, default)
        if value not in choices:
            self.refuse(key, value, " or ".join(repr(choice) for choice in choices))
        return value

    def only(self, key: str, supported: Any, default: Any = _ABSENT) -> None:
        value = self.get(key, default)
        if value != supported:
            self.refuse(key, value, repr(supported))

    def refuse(self, key: str, value: Any, supported: str) -> None:
        raise BuildError(
            f"{self._where}: {key} is {shown(value, 60)}, which is not supported; expected "
            f"{supported}"
        )

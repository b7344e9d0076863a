"""The JSON files of a checkpoint: config.json, generation_config.json, processor_config.json.

Field names and values are those of the released MolmoAct2 repositories; `docs/checkpoint_layout.md`
says which of them inference reads.
"""

from __future__ import annotations

from tokenizers import Tokenizer

from training.init.sizes import DepthGate, ModelSize
from training.init.tokenizer import (
    NUM_ACTION_TOKENS,
    NUM_DEPTH_TOKENS,
    NUM_STATE_TOKENS,
    TURN_END,
    token_id,
)

LAYER_NORM_EPS = 1e-6
# LeRobot's default. In the pooling of patches it lets padding into the softmax; "sdpa" masks it.
ATTENTION = "eager"

TORCH_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

# config.json field -> the token whose id it holds
TOKEN_FIELDS = {
    "bos_token_id": TURN_END,
    "eos_token_id": TURN_END,
    "image_start_token_id": "<im_start>",
    "image_end_token_id": "<im_end>",
    "image_patch_id": "<im_patch>",
    "image_high_res_id": "<im_patch>",
    "image_col_id": "<im_col>",
    "low_res_image_start_token_id": "<low_res_im_start>",
    "image_low_res_id": "<im_low>",
    "frame_start_token_id": "<frame_start>",
    "frame_end_token_id": "<frame_end>",
    "state_start_token_id": "<state_start>",
    "state_end_token_id": "<state_end>",
    "state_token_start_id": "<state_0>",
    "action_output_token_id": "<action_output>",
    "action_start_token_id": "<action_start>",
    "action_end_token_id": "<action_end>",
    "action_token_start_id": "<action_0>",
    "depth_output_token_id": "<depth_output>",
    "depth_start_token_id": "<depth_start>",
    "depth_end_token_id": "<depth_end>",
    "depth_token_start_id": "<depth_0>",
}


def model_config(size: ModelSize, tokenizer: Tokenizer, dtype: str) -> dict[str, object]:
    """Give the content of config.json for weights stored as `dtype` (a key of TORCH_DTYPES)."""
    expert = size.expert
    return {
        "architectures": ["MolmoAct2ForConditionalGeneration"],
        "model_type": "molmoact2",
        "dtype": TORCH_DTYPES[dtype],
        **{field: token_id(tokenizer, token) for field, token in TOKEN_FIELDS.items()},
        "num_state_tokens": NUM_STATE_TOKENS,
        "num_action_tokens": NUM_ACTION_TOKENS,
        "num_depth_tokens": NUM_DEPTH_TOKENS,
        "use_frame_special_tokens": True,
        "add_setup_tokens": True,
        "add_control_tokens": True,
        "state_format": "discrete",
        "n_obs_steps": 1,
        "norm_stats_filename": "norm_stats.json",
        "add_action_expert": size.has_expert,
        "action_mode": "both" if size.has_expert else "discrete",
        "max_action_dim": expert.max_action_dim,
        "max_action_horizon": expert.horizon,
        "mask_action_dim_padding": True,
        "flow_matching_num_steps": expert.flow_steps,
        "flow_matching_cutoff": 1.0,
        "flow_matching_time_offset": 0.001,
        "flow_matching_time_scale": 0.999,
        "flow_matching_beta_alpha": 1.0,
        "flow_matching_beta_beta": 1.5,
        "enable_depth_reasoning": size.has_expert,
        "depth_mode": 2,
        "num_depth_codes": size.depth_grid**2,
        "action_expert_depth_gate": size.depth_gate is not DepthGate.NONE,
        "action_expert_depth_gate_per_layer": size.depth_gate is DepthGate.PER_LAYER,
        "action_expert_depth_gate_init_bias": -4.0,
        "initializer_range": 0.02,
        "text_config": _text_config(size),
        "vit_config": _vit_config(size),
        "adapter_config": _adapter_config(size),
        "action_expert_config": _expert_config(size),
    }


def generation_config(tokenizer: Tokenizer) -> dict[str, object]:
    """Give the content of generation_config.json."""
    turn_end = token_id(tokenizer, TURN_END)
    return {"bos_token_id": turn_end, "eos_token_id": turn_end, "use_cache": True}


def processor_config(size: ModelSize) -> dict[str, object]:
    """Give the content of processor_config.json."""
    vision = size.vision
    return {
        "processor_class": "MolmoAct2Processor",
        "image_processor": {
            "image_processor_type": "MolmoAct2ImageProcessor",
            "size": {"height": vision.image_size_px, "width": vision.image_size_px},
            "crop_mode": vision.crop_mode,
            "max_crops": vision.max_crops,
            "overlap_margins": list(vision.overlap_patches),
            "patch_size": vision.patch_size_px,
            "pooling_size": [vision.pooling_patches, vision.pooling_patches],
            "resample": 2,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "do_convert_rgb": True,
        },
        "image_use_col_tokens": True,
        "use_single_crop_col_tokens": False,
        "use_single_crop_start_token": True,
        "video_use_col_tokens": False,
        "use_frame_special_tokens": True,
    }


def _text_config(size: ModelSize) -> dict[str, object]:
    text = size.text
    return {
        "model_type": "molmoact2_text",
        "attn_implementation": ATTENTION,
        "hidden_size": text.width,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "num_key_value_heads": text.kv_heads,
        "head_dim": text.head_dim,
        "intermediate_size": text.mlp_width,
        "hidden_act": "silu",
        "vocab_size": text.vocab_rows,
        "additional_vocab_size": text.added_rows,
        "max_position_embeddings": text.max_positions,
        "rope_theta": text.rope_theta,
        "rope_scaling": None,
        "rope_scaling_layers": None,
        "use_qk_norm": True,
        "qk_norm_type": "qwen3",
        "qkv_bias": False,
        "norm_after": False,
        "layer_norm_eps": LAYER_NORM_EPS,
        "tie_word_embeddings": False,
        "use_cache": True,
        **_no_dropout("attention_dropout", "embedding_dropout", "residual_dropout"),
    }


def _vit_config(size: ModelSize) -> dict[str, object]:
    vision = size.vision
    return {
        "model_type": "molmoact2",
        "attn_implementation": ATTENTION,
        "hidden_size": vision.width,
        "intermediate_size": vision.mlp_width,
        "num_hidden_layers": vision.layers,
        "num_attention_heads": vision.heads,
        "num_key_value_heads": vision.heads,
        "head_dim": vision.width // vision.heads,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": LAYER_NORM_EPS,
        "image_default_input_size": [vision.image_size_px, vision.image_size_px],
        "image_patch_size": vision.patch_size_px,
        "image_num_pos": vision.patches_per_side**2,
        "float32_attention": True,
        **_no_dropout("attention_dropout", "residual_dropout"),
    }


def _adapter_config(size: ModelSize) -> dict[str, object]:
    vision = size.vision
    return {
        "model_type": "molmoact2",
        "attn_implementation": ATTENTION,
        "vit_layers": list(vision.tap_layers),
        "pooling_attention_mask": True,
        "hidden_size": vision.adapter_width,
        "num_attention_heads": vision.adapter_heads,
        "num_key_value_heads": vision.adapter_heads,
        "head_dim": vision.adapter_width // vision.adapter_heads,
        "hidden_act": "silu",
        "intermediate_size": vision.adapter_mlp_width,
        "text_hidden_size": size.text.width,
        "float32_attention": True,
        **_no_dropout("attention_dropout", "residual_dropout", "image_feature_dropout"),
    }


def _expert_config(size: ModelSize) -> dict[str, object]:
    expert = size.expert
    return {
        "model_type": "molmoact2_action_expert",
        "hidden_size": expert.width,
        "num_layers": size.text.layers,
        "num_heads": expert.heads,
        "mlp_ratio": expert.mlp_ratio,
        "ffn_multiple_of": expert.mlp_multiple,
        "timestep_embed_dim": expert.timestep_width,
        "context_layer_norm": True,
        "qk_norm": True,
        "qk_norm_eps": LAYER_NORM_EPS,
        "rope": True,
        "causal_attn": False,
        **_no_dropout("attn_dropout", "dropout"),
    }


def _no_dropout(*fields: str) -> dict[str, float]:
    return dict.fromkeys(fields, 0.0)

"""A small byte-level BPE that holds every special token of the released MolmoAct2 tokenizer.

The released tokenizer is Qwen3's with robot tokens behind it and image tokens behind those. Here
the text part is trained on robot prompts (`prompt_sentences.txt`), and the special tokens follow in
the released order. Text is split as Qwen2/Qwen3 do it, so that a tokenizer class that rebuilds the
splitter (transformers' Qwen2Tokenizer) and one that reads it from the file agree.
"""

from __future__ import annotations

from importlib import resources

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from training.errors import TokenizerError

NUM_STATE_TOKENS = 256
NUM_ACTION_TOKENS = 2048
NUM_DEPTH_TOKENS = 128

END_OF_TEXT = "<|endoftext|>"
TURN_END = "<|im_end|>"

# Qwen2/Qwen3: contractions, words with one leading mark, single digits, punctuation, white space.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Qwen3 tokenizer_config.json, ids 151643 to 151668.
CHAT_TOKENS = (
    END_OF_TEXT,
    "<|im_start|>",
    TURN_END,
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)

# MolmoAct2, in the order of the released ids (151669 onwards).
ROBOT_TOKENS = (
    "<setup_start>",
    "<setup_end>",
    "<control_start>",
    "<control_end>",
    "<state_start>",
    "<state_end>",
    *(f"<state_{i}>" for i in range(NUM_STATE_TOKENS)),
    "<action_output>",
    "<action_start>",
    "<action_end>",
    *(f"<action_{i}>" for i in range(NUM_ACTION_TOKENS)),
    "<depth_output>",
    "<depth_start>",
    "<depth_end>",
    *(f"<depth_{i}>" for i in range(NUM_DEPTH_TOKENS)),
)

# Molmo2, in the order of the released ids; these live in the rows added behind the vocabulary.
IMAGE_TOKENS = (
    "<im_start>",
    "<im_end>",
    "<im_patch>",
    "<im_col>",
    "<low_res_im_start>",
    "<|image|>",
    "<im_low>",
    "<frame_start>",
    "<frame_end>",
    "<|video|>",
    "<|points|>",
    "<|token_index|>",
    "<|vit_index|>",
    "<|vit_loc|>",
)


def build_tokenizer(vocab_rows: int) -> Tokenizer:
    """Train the tokenizer so that image tokens start at id `vocab_rows`.

    Ids below are text pieces, chat tokens, robot tokens and as many `<|unused_N|>` as it takes to
    fill up. Raises TokenizerError when `vocab_rows` is too small for bytes and special tokens.
    """
    special = (*CHAT_TOKENS, *ROBOT_TOKENS)
    text_rows = vocab_rows - len(special)
    smallest = len(pre_tokenizers.ByteLevel.alphabet())
    if text_rows < smallest:
        raise TokenizerError(
            f"vocab_rows is {vocab_rows}; {len(special)} special tokens and {smallest} bytes need "
            f"at least {len(special) + smallest}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=text_rows,
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_prompt_sentences(), trainer)
    _add(tokenizer, special)
    missing = vocab_rows - tokenizer.get_vocab_size()
    _add(tokenizer, tuple(f"<|unused_{i}|>" for i in range(missing)))
    _add(tokenizer, IMAGE_TOKENS)
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Look one token's id up. Raises TokenizerError when the tokenizer does not know it."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise TokenizerError(f"the tokenizer has no token {token!r}; rebuild it")
    return found


def tokenizer_config() -> dict[str, object]:
    """Give the content of tokenizer_config.json: as released, no BOS, turns end with <|im_end|>."""
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": END_OF_TEXT,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def _prompt_sentences() -> list[str]:
    text = resources.files("training.init").joinpath("prompt_sentences.txt").read_text("utf-8")
    return text.splitlines()


def _add(tokenizer: Tokenizer, tokens: tuple[str, ...]) -> None:
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in tokens])

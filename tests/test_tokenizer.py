import json

import pytest
from tokenizers import Tokenizer

from training.errors import TokenizerError
from training.init.tokenizer import (
    CHAT_TOKENS,
    IMAGE_TOKENS,
    ROBOT_TOKENS,
    build_tokenizer,
    token_id,
    tokenizer_config,
)

VOCAB_ROWS = 3072
PROMPT = (
    "Image 1<im_start><im_patch><im_patch><im_end>Image 2<im_start><im_patch><im_end><|im_start|>"
    "user\nThe task is to pick up the red cube. The setup is <setup_start>single so100/so101 "
    "robotic arm in molmoact2<setup_end>. The current state of the robot is <state_start><state_0>"
    "<state_17><state_255><state_end>. The expected control mode is <control_start>absolute joint "
    "pose<control_end>. Given these, first predict the depth map of the main image and then "
    "predict the action the robot should take to complete the task?<|im_end|>\n"
    "<|im_start|>assistant\n<depth_output><action_output>"
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer(VOCAB_ROWS)


def test_every_special_token_is_one_id(tokenizer):
    for token in (*CHAT_TOKENS, *ROBOT_TOKENS, *IMAGE_TOKENS):
        assert tokenizer.encode(f"a{token}b").ids.count(token_id(tokenizer, token)) == 1
        assert tokenizer.encode(token).tokens == [token]


def test_special_tokens_stand_in_the_released_order(tokenizer):
    chat, robot, image = (
        [token_id(tokenizer, token) for token in tokens]
        for tokens in (CHAT_TOKENS, ROBOT_TOKENS, IMAGE_TOKENS)
    )
    assert chat + robot == list(range(chat[0], chat[0] + len(chat) + len(robot)))
    assert image == list(range(VOCAB_ROWS, VOCAB_ROWS + len(image)))

    # Offsets from <|endoftext|> in the released tokenizer, where that is id 151643.
    def offset(token: str) -> int:
        return token_id(tokenizer, token) - chat[0]

    assert offset("<|im_end|>") == 151645 - 151643
    assert offset("<setup_start>") == 151669 - 151643
    assert offset("<state_0>") == 151675 - 151643
    assert offset("<action_output>") == 151931 - 151643
    assert offset("<action_0>") == 151934 - 151643
    assert offset("<depth_output>") == 153982 - 151643
    assert offset("<depth_0>") == 153985 - 151643
    assert offset("<depth_127>") == 154112 - 151643


@pytest.mark.parametrize(("name", "count"), [("state", 256), ("action", 2048), ("depth", 128)])
def test_numbered_tokens_are_contiguous_blocks(tokenizer, name, count):
    first = token_id(tokenizer, f"<{name}_0>")
    ids = [token_id(tokenizer, f"<{name}_{i}>") for i in range(count)]
    assert ids == list(range(first, first + count))
    assert tokenizer.token_to_id(f"<{name}_{count}>") is None


@pytest.mark.parametrize(
    "text",
    [
        "pick up the red cube",
        "  two  spaces,\n\n new lines\tand tabs ",
        "ça coûte 12,5 € – voilà",
        "把红色方块放进盒子里",
        "🤖 + 🧊 = ❤️",
        "it's 3.14 <not a token> <state_999>",
    ],
)
def test_any_text_comes_back_from_its_ids(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_ids_of_text_stay_below_the_image_rows(tokenizer):
    assert max(tokenizer.encode("Ünïcödé and everything else\x00\x7f").ids) < VOCAB_ROWS
    assert tokenizer.get_vocab_size() == VOCAB_ROWS + len(IMAGE_TOKENS)


def test_ids_missing_before_the_image_rows_are_filled_up():
    wide = build_tokenizer(4096)
    assert token_id(wide, IMAGE_TOKENS[0]) == 4096


def test_building_twice_gives_the_same_file(tokenizer):
    assert build_tokenizer(VOCAB_ROWS).to_str() == tokenizer.to_str()


def test_too_few_rows_are_refused_with_the_number_needed():
    with pytest.raises(TokenizerError, match=r"vocab_rows is 100; .* at least 2726"):
        build_tokenizer(100)


def test_missing_token_is_named(tokenizer):
    with pytest.raises(TokenizerError, match="no token '<warp_0>'"):
        token_id(tokenizer, "<warp_0>")


def test_class_that_rebuilds_the_splitter_gives_the_same_ids(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config()))
    rebuilt = transformers.Qwen2Tokenizer.from_pretrained(tmp_path)
    assert rebuilt.bos_token_id is None
    assert rebuilt.eos_token_id == token_id(tokenizer, "<|im_end|>")
    for text in (PROMPT, "ça va? it's 12345 o'clock\n\n  ok", "把红色方块"):
        assert rebuilt(text)["input_ids"] == tokenizer.encode(text).ids

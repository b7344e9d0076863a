"""Attention in bfloat16 gives PyTorch's own results and gradients, to bfloat16's precision."""

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: N812

from training.model.cpu_attention import attention, cpu_attention

pytestmark = pytest.mark.usefixtures("one_thread")

# bfloat16 has 8 bits; sums of products and a softmax are between.
TOLERANCE = 0.03


def inputs(heads, kv_heads, rows, columns):
    torch.manual_seed(0)
    shapes = ((2, heads, rows, 16), (2, kv_heads, columns, 16), (2, kv_heads, columns, 16))
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


def masks(rows, columns):
    allowed = torch.ones(2, 1, rows, columns, dtype=torch.bool)
    allowed[1, :, :, -3:] = False
    added = torch.zeros(2, 1, rows, columns).masked_fill(~allowed, -torch.inf)
    return {"none": {}, "bool": {"attn_mask": allowed}, "added": {"attn_mask": added}}


@pytest.mark.parametrize("mask", ["none", "bool", "added"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2)])
def test_results_and_gradients_are_pytorchs(mask, heads, kv_heads):
    options = {**masks(9, 13)[mask], "enable_gqa": heads != kv_heads}
    found = []
    for function in (F.scaled_dot_product_attention, attention):
        q, k, v = inputs(heads, kv_heads, 9, 13)
        out = function(q, k, v, **options)
        (out * torch.linspace(-1, 1, 16)).sum().backward()
        found.append((out.detach(), q.grad, k.grad, v.grad))
    for theirs, ours in zip(*found, strict=True):
        assert (theirs - ours).abs().max() < TOLERANCE * theirs.abs().max()


def test_causal_attention_does_not_look_ahead():
    q, k, v = inputs(2, 2, 6, 6)
    before = attention(q, k, v, is_causal=True)
    with torch.no_grad():
        v[:, :, 4:] += 100.0
    after = attention(q, k, v, is_causal=True)
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert not torch.allclose(before[:, :, 4:], after[:, :, 4:])


def test_models_use_it_for_as_long_as_is_asked():
    q, k, v = inputs(2, 2, 5, 5)
    theirs = F.scaled_dot_product_attention(q, k, v)
    with cpu_attention():
        inside = F.scaled_dot_product_attention(q, k, v)
    assert torch.equal(inside, attention(q, k, v))
    assert not torch.equal(inside, theirs)
    assert torch.equal(F.scaled_dot_product_attention(q, k, v), theirs)


def test_dropout_is_refused():
    q, k, v = inputs(2, 2, 5, 5)
    with pytest.raises(ValueError, match=r"dropout_p is 0\.1"):
        attention(q, k, v, dropout_p=0.1)

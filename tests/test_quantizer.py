"""Residual quantization against vector-quantize-pytorch, for any shape, in mixed precision, and on
real states.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptrec.core import PromptrecError, rng
from promptrec.sbtrec.quantizer import ResidualQuantizer, kmeans, nearest


def started(n, d, levels, codes, seed=0):
    "A quantizer that started from `n` made-up states, and the states."
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    rq = ResidualQuantizer(d, levels, codes)
    rq.start(x, seed)
    return rq, x


@pytest.mark.parametrize("d, levels, codes", [(64, 3, 128), (8, 1, 16), (16, 4, 32)])
def test_equals_vector_quantize_pytorch_on_the_same_codebooks(d, levels, codes):
    lib = pytest.importorskip(
        "vector_quantize_pytorch",
        reason="vector-quantize-pytorch, the outside reference, is not installed",
    )
    rq, _ = started(1000, d, levels, codes)
    z = 1.2 * torch.randn(2000, d, generator=torch.Generator().manual_seed(9))
    theirs = lib.ResidualVQ(dim=d, num_quantizers=levels, codebook_size=codes).eval()
    for layer, book in zip(theirs.layers, rq.codebooks):
        layer.codebook = book.detach()
    with torch.no_grad():
        e, idx = rq(z)
        their_e, their_idx, _ = theirs(z)
    assert torch.equal(idx, their_idx)
    assert torch.allclose(e, their_e, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(1, 20),
    st.integers(0, 40),
    st.integers(0, 1000),
)
def test_any_shape_equals_the_plain_loop_and_errors_fall(d, levels, codes, more, seed):
    rq, x = started(codes + more, d, levels, codes, seed)
    e, idx = rq(x)
    r = x.double()
    for level, book in enumerate(rq.codebooks.detach().double()):
        away = (r[:, None] - book).pow(2).sum(-1)
        chosen = away.gather(1, idx[:, level : level + 1])
        assert (chosen[:, 0] <= away.min(1).values + 1e-4).all()
        r = r - book[idx[:, level]]
    assert torch.allclose((x - e).double(), r, atol=1e-5)
    report = rq.report(x)
    assert (report["error"].diff().dropna() <= 1e-4).all()
    assert (report["used"] + report["dead"] == codes).all()
    assert (report["perplexity"] <= codes + 1e-3).all()


def test_states_that_repeat_leave_codes_dead_but_nothing_breaks():
    x = torch.randn(3, 4).repeat(50, 1)
    rq = ResidualQuantizer(4, 2, 8)
    rq.start(x)
    assert torch.allclose(rq(x)[0], x, atol=1e-4)
    rq.reseed(x)
    assert torch.isfinite(rq.codebooks).all() and torch.allclose(rq(x)[0], x, atol=1e-4)


def test_a_model_in_bfloat16_gets_the_same_codes_and_gradients_in_float32():
    rq, x = started(500, 32, 3, 64)
    plain, idx = rq(x)
    with torch.autocast("cpu", torch.bfloat16):
        low, same = rq(x)
    assert torch.equal(idx, same) and torch.equal(plain, low)
    low.sum().backward()
    used = torch.stack([torch.bincount(i, minlength=64) for i in idx.T])
    assert torch.equal(rq.codebooks.grad, used[:, :, None].expand_as(rq.codebooks).float())


def test_training_moves_chosen_codes_only_and_weights_travel():
    rq, x = started(500, 8, 3, 64)
    before, used = rq.codebooks.detach().clone(), torch.zeros(3, 64, dtype=torch.bool)
    step = torch.optim.Adam(rq.parameters(), lr=0.01)
    e, idx = rq(x[:5])
    (e - 1).pow(2).sum().backward()
    step.step()
    used[torch.arange(3), idx] = True
    moved = (rq.codebooks.detach() != before).any(-1)
    assert torch.equal(moved, used)
    other = ResidualQuantizer(8, 3, 64)
    other.load_state_dict(rq.state_dict())
    assert torch.equal(other.encode(x), rq.encode(x))


def test_bad_states_are_refused():
    rq, x = started(100, 4, 2, 8)
    x[7] = torch.inf
    for use in (rq, rq.encode, rq.start, rq.report, rq.reseed):
        with pytest.raises(PromptrecError, match="State 7 of 100"):
            use(x)
    with pytest.raises(PromptrecError, match="3 states are too few for 8 codes"):
        rq.start(x[:3])


def test_no_state_is_nearer_to_another_mean_after_lloyd():
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(2))
    means = kmeans(x, 10, rng(0), rounds=200)
    i, away = nearest(x, means)
    assert all(torch.allclose(means[c], x[i == c].mean(0), atol=1e-5) for c in range(10))
    assert away.mean() < nearest(x, x[:10])[1].mean()


def test_three_levels_beat_one_flat_codebook_of_the_same_store_on_sasrec_states(real_data):
    "384 vectors either way, on states of users that neither the encoder nor the codebooks saw."
    from promptrec.baselines.sasrec import SasRec, SasRecSettings
    from promptrec.core import seed_everything
    from promptrec.data.registry import load_dataset
    from promptrec.evaluation.split import by_users, histories_at
    from promptrec.training.batches import padded
    from promptrec.training.loop import Loop, LoopSettings

    ds = load_dataset("llara-movielens", real_data)
    seed_everything(0)
    model = SasRec(ds, SasRecSettings(max_items=50, d=64, blocks=1, heads=1, dropout=0.1))
    model.fit(
        by_users(ds, 10),
        Loop(LoopSettings(epochs=2, batch_size=128, lr=3e-3, weight_decay=0.0, precision="no")),
    )
    rows = rng(0).permutation(np.setdiff1d(np.arange(len(ds)), ds.offsets[:-1]))

    @torch.inference_mode()
    def states(rows):
        h = histories_at(ds, ds.offsets[ds.user[rows]], rows).last(10)
        return model.net.eval().last(padded(h.item, h.lengths), torch.from_numpy(h.lengths)).clone()

    new = ds.parts[ds.user[rows]] > 0
    train, held = states(rows[~new][:4000]), states(rows[new][:2000])
    rq = ResidualQuantizer(64)
    rq.start(train)
    error = rq.report(held)["error"].iloc[-1]
    flat = kmeans(train, 384, rng(0))  # stores as many vectors
    assert error < 0.9 * nearest(held, flat)[1].mean()
    few = ResidualQuantizer(64)
    few.start(train[:400])
    # as many bits a state: every training state a code is the fullest flat codebook there is
    assert few.report(held)["error"].iloc[-1] < nearest(held, train[:400])[1].mean()

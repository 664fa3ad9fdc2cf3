"""The language model from a gguf file and its faults; hybrid prompts of any titles against
tokenizers of two kinds; decoding under peft and for random inputs.
"""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from promptrec.core import PromptrecError
from promptrec.data.dataset import DOMAINS, make_dataset
from promptrec.data.download import SOURCES, Archive, Source
from promptrec.data.registry import load_dataset
from promptrec.evaluation.split import Histories
from promptrec.sbtrec import language_model
from promptrec.sbtrec.decoding import (
    constrained_search,
    generate_tokens,
    plain_scores,
    score_titles,
)
from promptrec.sbtrec.language_model import llm_path, load_llm
from promptrec.sbtrec.prompts import (
    BEHAVIOUR_MARK,
    BEHAVIOURS,
    HybridPrompts,
    batch_prompts,
    distinct_names,
    hybrid_text,
    insert_behaviour,
    shuffled,
)

WORDS = ["<unk>", "<s>", "</s>", *(chr(c) for c in range(97, 123)), "ab"]


def small(vocab=len(WORDS), seed=0):
    "A Llama of two layers with random weights, large enough for sharp predictions."
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
            max_position_embeddings=64,
            tie_word_embeddings=False,
        )
    ).eval()
    for p in model.parameters():
        p.data *= 8 if p.ndim > 1 else 1
    return model


def write_gguf(path, model):
    "The model as llama.cpp writes it: other names, and the rows of q and k in another order."
    gguf = pytest.importorskip("gguf")
    c, w = model.config, gguf.GGUFWriter(path, "llama")
    w.add_block_count(c.num_hidden_layers)
    w.add_context_length(64)
    w.add_embedding_length(32)
    w.add_feed_forward_length(64)
    w.add_head_count(4)
    w.add_head_count_kv(2)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_vocab_size(c.vocab_size)
    w.add_rope_freq_base(10000.0)
    w.add_tokenizer_model("gpt2")
    w.add_token_list(WORDS)
    w.add_token_types([3] * 3 + [1] * 27)
    w.add_token_merges(["a b"])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for name, value in model.state_dict().items():
        a = value.numpy()
        for heads, proj in ((4, "q_proj"), (2, "k_proj")):
            if proj in name:
                a = a.reshape(heads, 2, -1, 32).swapaxes(1, 2).reshape(a.shape)
        name = (
            name.replace("model.layers.", "blk.")
            .replace("model.embed_tokens", "token_embd")
            .replace("model.norm", "output_norm")
            .replace("lm_head", "output")
        )
        for long, short in names.items():
            name = name.replace(long, short)
        w.add_tensor(name, np.ascontiguousarray(a))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    "A model of the registry that comes as gguf, its file in a folder, and an empty cache."
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PROMPTREC_DATA", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    archive = Archive(("tiny.gguf",), "0" * 64, 1, "tiny", wheel="tiny-llm==0")
    source = Source("tiny-llm", "model", (archive,), "none", "none")
    monkeypatch.setitem(SOURCES, "tiny-llm", source)
    (tmp_path / "own" / "tiny_llm-0").mkdir(parents=True)
    model = small()
    write_gguf(tmp_path / "own" / "tiny_llm-0" / "tiny.gguf", model)
    return model, tmp_path / "own", tmp_path / "cache" / "promptrec"


def folders(cache):
    return sorted(p.name for p in cache.iterdir() if p.is_dir()) if cache.is_dir() else []


def test_gguf_is_read_once_and_exactly(tiny, monkeypatch):
    model, own, cache = tiny
    (cache / ".tiny-llm-float32.tmp").mkdir(parents=True)  # left by a killed process
    read, tok = load_llm("tiny-llm", data_dir=own)
    ids = torch.randint(3, 29, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(read(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
    assert {n: p.shape for n, p in read.named_parameters()} == {
        n: p.shape for n, p in model.named_parameters()
    }
    assert folders(cache) == ["tiny-llm-float32"]
    config = json.loads((cache / "tiny-llm-float32" / "config.json").read_text())
    assert "quantization_config" not in config
    assert tok.eos_token_id == 2 and tok.pad_token_id is not None and not read.training
    assert tok("abz")["input_ids"] == [29, 28]
    (own / "tiny_llm-0" / "tiny.gguf").unlink()
    monkeypatch.setattr(language_model, "_read_gguf", None)
    assert len(load_llm("tiny-llm", layers=1, data_dir=own)[0].model.layers) == 1


def test_the_first_reading_draws_what_later_ones_draw(tiny):
    _, own, _ = tiny

    def drawn():
        torch.manual_seed(0)
        load_llm("tiny-llm", data_dir=own)
        return torch.rand(1).item()

    assert drawn() == drawn()


@pytest.mark.parametrize("harm", ["cut", "empty", "text", "nan"])
def test_broken_gguf(tiny, harm):
    model, own, cache = tiny
    file = own / "tiny_llm-0" / "tiny.gguf"
    raw = file.read_bytes()
    if harm == "nan":
        model.model.norm.weight.data[3] = float("nan")
        write_gguf(file, model)
    else:
        broken = {"cut": raw[: len(raw) * 2 // 3], "empty": b"", "text": b"<!doctype html>" * 999}
        file.write_bytes(broken[harm])
    with pytest.raises(PromptrecError, match=r"tiny\.gguf .*fetch it again"):
        load_llm("tiny-llm", data_dir=own)
    assert folders(cache) == []


def test_no_gguf_package_no_file_no_room(tiny, monkeypatch):
    model, own, cache = tiny
    cache.parent.mkdir()
    cache.write_text("a file where the cache should be")
    with pytest.raises(PromptrecError, match="Cannot write"):
        load_llm("tiny-llm", data_dir=own)
    cache.unlink()

    def absent(*a, **kw):
        raise ImportError("Please install gguf")

    with monkeypatch.context() as m:
        m.setattr(transformers.AutoTokenizer, "from_pretrained", absent)
        with pytest.raises(PromptrecError, match="pip install gguf"):
            load_llm("tiny-llm", data_dir=own)
    (own / "tiny_llm-0" / "tiny.gguf").unlink()
    with pytest.raises(PromptrecError, match="tiny-llm"):
        llm_path("tiny-llm", own)
    with pytest.raises(PromptrecError, match="Without a hub: smollm2-135m"):
        load_llm("meta-llama/Llama-2-7b-hf")


def sentencepiece(legacy):
    """A tokenizer like Llama 2's: BPE over bytes and pieces, a space is part of the next piece,
    `<s>` comes first. `legacy`: a space before each text, else before the first alone.
    """
    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    texts = [
        hybrid_text(
            DOMAINS["movies"],
            ["Heat (1995)", "Star Wars (1977)"],
            ["In & Out (1997)", "Alien (1979)"],
        )
    ] * 20
    t.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
        ),
    )
    learned = json.loads(t.to_str())["model"]
    vocab = learned["vocab"] | {f"<0x{b:02X}>": len(learned["vocab"]) + b for b in range(256)}
    t.model = models.BPE(
        vocab,
        [tuple(m) for m in learned["merges"]],
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    if legacy:
        space = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        t.pre_tokenizer = pre_tokenizers.Sequence([])
        t.normalizer = normalizers.Sequence(space)
    else:
        t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    t.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=t, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


TOKENIZERS = {
    "bytes": lambda: load_llm("smollm2-135m", layers=1)[1],
    "sentencepiece": lambda: sentencepiece(False),
    "sentencepiece, legacy": lambda: sentencepiece(True),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizers(request):
    "A tokenizer, and the same with the mark as a special token."
    plain, marked = TOKENIZERS[request.param](), TOKENIZERS[request.param]()
    marked.add_tokens([AddedToken(BEHAVIOUR_MARK, special=True, normalized=False)])
    return request.param, plain, marked


def catalogue(titles):
    rows = pd.DataFrame({"user": 0, "item": range(len(titles)), "timestamp": range(len(titles))})
    return make_dataset(
        "any", DOMAINS["games"], rows, pd.DataFrame({"item": range(len(titles)), "title": titles})
    )


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    titles=st.lists(st.text(min_size=1, max_size=12), min_size=6, max_size=8),
    kind=st.sampled_from(BEHAVIOURS),
)
def test_prompts_of_any_titles(tokenizers, titles, kind):
    name, tok, marked = tokenizers
    ds = catalogue(titles)
    p = HybridPrompts(ds, tok, kind)
    h = Histories(np.array([0, 1, 2, 3]), np.full(4, np.nan), np.array([0, 3, 4, 4]))
    cands, target = np.array([[4, 5, 0], [1, 2, 3], [5, 0, 1]]), np.array([4, 1, 0])
    x, shown = batch_prompts(p, h, cands, target), shuffled(cands)
    mark = marked.convert_tokens_to_ids(BEHAVIOUR_MARK)
    for b in range(3):
        history, names = [p.names[i] for i in h[[b]].item], [p.names[i] for i in shown[b]]
        text = f"{hybrid_text(ds.domain, history, names, kind)} {p.names[target[b]]}"
        ours = torch.where(x["marks"], mark, x["input_ids"])[b][x["attention_mask"][b]].tolist()
        theirs = marked(text)["input_ids"]
        if "legacy" in name:  # it puts a space behind each mark
            space, again = marked.convert_tokens_to_ids("▁"), []
            for segment in text.split(BEHAVIOUR_MARK):
                again += [*([mark] if again else []), *tok(segment)["input_ids"][len(again) > 0 :]]
            assert theirs == again
            theirs = [
                i
                for i, before in zip(theirs, [None, *theirs])
                if not (before == mark and i == space)
            ]
        assert ours == [*theirs, tok.eos_token_id]


def test_tokenizer_that_merges_words_is_refused():
    t = Tokenizer(models.WordLevel({"<u>": 0, "a": 1}, unk_token="<u>"))
    t.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    tok = PreTrainedTokenizerFast(
        tokenizer_object=t, unk_token="<u>", eos_token="<u>", pad_token="<u>"
    )
    with pytest.raises(PromptrecError, match="begins inside a word"):
        HybridPrompts(catalogue(["x", "y"]), tok, "items")


def test_prompts_of_own_data(own):
    ds = load_dataset(str(own), words={"prefix": "reading books", "verb": "reads", "noun": "book"})
    tok = sentencepiece(False)
    p = HybridPrompts(ds, tok, "none")
    x = batch_prompts(
        p, Histories(np.array([0, 1]), np.full(2, np.nan), np.array([0, 2])), np.arange(2, 7)[None]
    )
    text = tok.decode(x["input_ids"][0], skip_special_tokens=True)
    assert (
        "This user has been reading books: Büch, no. 0, Büch, no. 1. "
        "Please predict the next book that this user reads. The candidates are"
    ) in text


@given(st.lists(st.sampled_from(["A", "A (2)", "A (3)", "B", "A (2) (2)"]), max_size=12))
def test_names_are_distinct(titles):
    names = distinct_names(titles)
    assert len(set(names)) == len(titles)
    assert all(
        n.startswith(t) and (n == t or t in titles[:i])
        for i, (n, t) in enumerate(zip(names, titles))
    )


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    B=st.integers(1, 3),
    C=st.integers(1, 6),
    T=st.integers(2, 5),
    alpha=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_decoding_of_anything(seed, B, C, T, alpha):
    model, g = small(seed=seed), torch.Generator().manual_seed(seed)
    n, rows = torch.randint(1, 7, (B,), generator=g), []
    mask = torch.arange(6) >= 6 - n[:, None]
    for _ in range(B):
        row = {}
        while len(row) < C:
            length = int(torch.randint(1, T, (), generator=g))
            row[tuple(torch.randint(3, 12, (length,), generator=g).tolist())] = None
        rows.append([[*t, 2, *[-100] * (T - 1 - len(t))] for t in row])
    titles, embeds = torch.tensor(rows), torch.randn(B, 6, 32, generator=g)
    score = score_titles(model, embeds, mask, titles, alpha)
    torch.testing.assert_close(
        score, plain_scores(model, embeds, mask, titles, alpha), rtol=1e-4, atol=1e-4
    )
    best = score_titles(model, embeds, mask, titles).argmax(1)
    assert torch.equal(constrained_search(model, embeds, mask, titles, beams=C), best)
    named = constrained_search(model, embeds, mask, titles)
    assert ((0 <= named) & (named < C)).all()


def test_decoding_through_lora_and_in_bfloat16():
    model, embeds = small(), torch.randn(2, 5, 32)
    mask = torch.tensor([[False] * 2 + [True] * 3, [True] * 5])
    titles = torch.tensor([[[5, 2, -100], [6, 7, 2]]] * 2)
    lora = LoraConfig(
        r=4,
        target_modules=["q_proj", "down_proj"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
        lora_dropout=0.5,
    )
    tuned = get_peft_model(small(), lora).eval()
    score = score_titles(tuned, embeds, mask, titles)
    torch.testing.assert_close(
        score, plain_scores(tuned, embeds, mask, titles), rtol=1e-4, atol=1e-4
    )
    assert (score - score_titles(model, embeds, mask, titles)).abs().max() > 0.1
    assert constrained_search(tuned, embeds, mask, titles, 2).tolist() == score.argmax(1).tolist()
    assert generate_tokens(tuned, embeds, mask, [2], 3, longest=4).shape[0] == 2
    half = score_titles(small().bfloat16(), embeds.bfloat16(), mask, titles)
    assert half.dtype == torch.float32
    assert (half - score_titles(model, embeds, mask, titles)).abs().max() < 2


def test_a_loss_reaches_the_behaviour_vectors_alone():
    tok = sentencepiece(False)
    p = HybridPrompts(catalogue(["Heat (1995)", "Alien (1979)", "Brazil (1985)"]), tok)
    model = small(len(tok)).requires_grad_(False)
    words = model.get_input_embeddings()
    h, cands = Histories(np.array([0, 1]), np.full(2, np.nan), np.arange(3)), [[1, 2], [0, 2]]
    x = batch_prompts(p, h, np.array(cands), np.array([1, 2]))
    vectors = torch.randn(2, 32, requires_grad=True)
    loss = model(
        inputs_embeds=insert_behaviour(words(x["input_ids"]), x["marks"], vectors),
        attention_mask=x["attention_mask"].long(),
        labels=x["labels"],
    ).loss
    loss.backward()
    left = batch_prompts(p, h, np.array(cands))
    embeds = insert_behaviour(words(left["input_ids"]), left["marks"], vectors.detach())
    titles = p.titles(np.array([[1], [2]]))
    total = -score_titles(model, embeds, left["attention_mask"], titles).sum() / (titles >= 0).sum()
    # training and scoring are one likelihood, whatever the side of the padding
    torch.testing.assert_close(loss.detach(), total, rtol=1e-4, atol=1e-4)
    assert (vectors.grad.abs().sum(1) > 0).all()

"""State dicts of encoders and decoders without attention: the same numbers, texts and tensors, or a reason."""

import json

import pytest
import torch
from strangers import told_by_a_stranger
from torch import nn
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

from rnn_hf.conversion import convert, convert_back
from rnn_hf.errors import InputError
from rnn_hf.translation import translate


CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
READ = ["<unk>", "<pad>", "<sos>", "<eos>", "zwei", "hunde", "der", "in"]
WRITTEN = ["<unk>", "<pad>", "<sos>", "<eos>", "two", "dogs", "in", "the", "a"]


class Half(nn.Module):
    """What tutorials write of an encoder or, with `fc_out`, of a decoder."""

    def __init__(self, cell, tokens, layers, width, has_head, embedding_size=3, **options):
        super().__init__()
        self.embedding = nn.Embedding(tokens, embedding_size)
        self.rnn = CELLS[cell](embedding_size, width, layers, dropout=0.2 if layers > 1 else 0, **options)
        if has_head:
            self.fc_out = nn.Linear(width, tokens)


class Net(nn.Module):
    """The whole of it: the last state of the encoder is the first one of the decoder."""

    def __init__(self, cell="lstm", read=8, written=9, layers=2, width=5, **options):
        super().__init__()
        self.encoder = Half(cell, read, layers, width, False, **options)
        self.decoder = Half(cell, written, layers, width, True, **options)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1, 1)
        for half in (self.encoder, self.decoder):  # so that what is written depends on what was read
            half.embedding.weight *= 4
        self.decoder.fc_out.bias *= 0.1
        self.is_batch_first = options.get("batch_first", False)

    def forward(self, sources, targets):
        turn = (lambda ids: ids) if self.is_batch_first else torch.t
        _, state = self.encoder.rnn(self.encoder.embedding(turn(sources)))
        outputs = self.decoder.fc_out(self.decoder.rnn(self.decoder.embedding(turn(targets)), state)[0])
        return outputs if self.is_batch_first else outputs.transpose(0, 1)

    def write(self, source, start, end, most):
        """What it says step by step, its likeliest token each time."""
        ids = [start]
        while len(ids) < most and (ids[-1] != end or len(ids) == 1):
            ids.append(int(self(torch.tensor([source]), torch.tensor([ids]))[0, -1].argmax()))
        return ids[1:]


def make(seed=0, **options):
    torch.manual_seed(seed)
    with torch.no_grad():
        return Net(**options).eval().requires_grad_(False)


def save(tmp_path, content, name="weights"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def state_of(module):
    return dict(module.state_dict())


def some_ids(tokens, seed):
    return torch.randint(tokens, (3, 7), generator=torch.Generator().manual_seed(seed))


def pairs():
    return some_ids(len(READ), 1), some_ids(len(WRITTEN), 2)


def logits_of(model, sources, targets):
    with torch.no_grad():
        return model(sources, attention_mask=torch.ones_like(sources), decoder_input_ids=targets).logits


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("is_batch_first", [False, True])
@pytest.mark.parametrize("kind", CELLS)
def test_logits_are_those_of_the_network_and_the_tensors_come_back(tmp_path, kind, layers, is_batch_first):
    net = make(cell=kind, layers=layers, batch_first=is_batch_first)
    done = convert(save(tmp_path, net.state_dict()), tmp_path / "out", hidden_act="tanh" if kind == "rnn" else None)
    assert (done.format, done.architecture) == ("seq2seq", "RNNForConditionalGeneration")
    assert done.difference < 1e-12 and done.difference_float32 < 1e-5
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits_of(model, *pairs()), net(*pairs()), rtol=0, atol=1e-6)
    # Nobody said what an id means: none is taken for padding.
    torch.testing.assert_close(
        model(pairs()[0], decoder_input_ids=pairs()[1]).logits, net(*pairs()), rtol=0, atol=1e-6
    )
    written = model.generate(pairs()[0][:1], decoder_start_token_id=2, eos_token_id=3, max_length=9)[0, 1:].tolist()
    assert written == net.write(pairs()[0][0].tolist(), 2, 3, 9)
    back = torch.load(*convert_back(str(tmp_path / "out"), tmp_path / "back", "state-dict"), weights_only=True)
    assert back.keys() == net.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in net.state_dict().items())


def test_other_names_whole_modules_and_a_state_dict_for_each_side_are_the_same_network(tmp_path, monkeypatch):
    net = make(cell="gru", layers=1)
    state = net.state_dict()
    monkeypatch.setattr(Net, "__module__", "__main__")
    monkeypatch.setattr(Half, "__module__", "__main__")
    for own in (Net, Half):
        monkeypatch.setattr(__import__("__main__"), own.__name__, own, raising=False)
    renamed = {
        f"module.{name.replace('coder.', 'c.').replace('dec.fc_out', 'out').replace('.rnn.', '.gru.')}": tensor
        for name, tensor in state.items()
    }
    assert "module.enc.gru.weight_ih_l0" in renamed and "module.out.weight" in renamed
    flat = {name.replace("coder.rnn.", "coder."): tensor for name, tensor in state.items()}
    flat["src_embedding.weight"] = flat.pop("encoder.embedding.weight")
    flat["tgt_embedding.weight"] = flat.pop("decoder.embedding.weight")
    sides = {side: state_of(getattr(net, side)) for side in ("encoder", "decoder")}
    modules = {"encoder": state_of(net.encoder), "decoder": state_of(net.decoder), "epoch": 3}
    modules["fc"] = {name: modules["decoder"].pop(f"fc_out.{name}") for name in ("weight", "bias")}
    contents = {
        "modules": modules,
        "renamed": renamed,
        "flat": flat,
        "module": net,
        "sides": sides | {"optimizer": {"state": {0: torch.ones(3)}}, "epoch": 3},
        "wrapped": {"epoch": 3, "model_state_dict": state},
    }
    for name, content in contents.items():
        done = convert(save(tmp_path, content, name), tmp_path / f"{name}.out")
        model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / f"{name}.out")
        torch.testing.assert_close(logits_of(model, *pairs()), net(*pairs()), rtol=0, atol=1e-6)
        assert any("epoch" in line for line in done.dropped) == (name in ("sides", "modules", "wrapped"))


@pytest.mark.parametrize("is_shared", [False, True])
def test_one_matrix_stays_one(tmp_path, is_shared):
    net = make(cell="gru", read=9, embedding_size=5)
    net.decoder.fc_out.weight = net.decoder.embedding.weight
    if is_shared:
        net.encoder.embedding.weight = net.decoder.embedding.weight
    convert(save(tmp_path, net.state_dict()), tmp_path / "out")
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits_of(model, *pairs()), net(*pairs()), rtol=0, atol=1e-6)
    matrices = [model.model.encoder.embed_tokens, model.model.decoder.embed_tokens, model.lm_head]
    assert len({each.weight.data_ptr() for each in matrices}) == (1 if is_shared else 2)
    back = torch.load(*convert_back(str(tmp_path / "out"), tmp_path / "back", "state-dict"), weights_only=True)
    assert all(torch.equal(back[name], tensor) for name, tensor in net.state_dict().items())


# Vocabularies


def lists(tmp_path, read=READ, written=WRITTEN):
    for name, tokens in (("read", read), ("written", written)):
        (tmp_path / name).write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return {"vocab": tmp_path / "read", "target_vocab": tmp_path / "written"}


@pytest.mark.parametrize("seed", [11, 28, 43])  # whose networks write a few words and an end
def test_texts_of_two_vocabularies_are_read_and_written_as_by_the_network(tmp_path, seed):
    net = make(seed)
    text = "zwei hunde in der two unheard"
    done = convert(save(tmp_path, net.state_dict()), tmp_path / "out", check=text, **lists(tmp_path))
    model, tokenizer = (
        kind.from_pretrained(tmp_path / "out") for kind in (AutoModelForSeq2SeqLM, AutoTokenizer)
    )  # fmt: skip
    # A word that is written only is as unknown to the reader as any other.
    source = [2, 4, 5, 7, 6, 0, 0, 3]
    ids = torch.tensor([tokenizer(text).input_ids])
    assert done.source_ids == [0, 1, 2, 3, 9, 10, 11, 6] and done.vocabulary == 12 == len(tokenizer)
    torch.testing.assert_close(
        logits_of(model, ids, pairs()[1][:1]), net(torch.tensor([source]), pairs()[1][:1]), rtol=0, atol=1e-6
    )
    expected = [WRITTEN[token] for token in net.write(source, 2, 3, 128) if token not in (1, 2, 3)]
    assert translate(model, tokenizer, [text], num_beams=1) == [" ".join(expected)] == [done.written]
    assert tokenizer("zwei<eos> in").input_ids == [2, 0, 6, 3]  # names of tokens within words are part of them
    # Alone as in a batch, whose padding is not read.
    texts = [text, "der hunde", "in"]
    one_by_one = [translate(model, tokenizer, [each], num_beams=1)[0] for each in texts]
    assert translate(model, tokenizer, texts, num_beams=1) == one_by_one
    pipe = pipeline("rnn-translation", model=model, tokenizer=tokenizer)
    assert [answer["translation_text"] for answer in pipe(texts, batch_size=3)] == one_by_one
    back = torch.load(*convert_back(str(tmp_path / "out"), tmp_path / "back", "state-dict"), weights_only=True)
    assert all(torch.equal(back[name], tensor) for name, tensor in net.state_dict().items())
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"Of “{text}” it writes “{done.written}”." in card and "`<sos> text <eos>`" in card
    assert "AutoModelForSeq2SeqLM" in card and done.sha256 in card


def test_one_list_serves_both_sides(tmp_path):
    net = make(read=len(READ), written=len(READ), cell="gru")
    done = convert(save(tmp_path, net.state_dict()), tmp_path / "out", vocab=lists(tmp_path)["vocab"])
    assert done.vocabulary == len(READ) and done.source_ids == list(range(len(READ)))
    with pytest.raises(InputError, match="`check` must be a text"):
        convert(tmp_path / "weights", tmp_path / "a.out", vocab=tmp_path / "read", check=" ")
    with pytest.raises(InputError, match=r"`target_vocab` has 8 tokens, and the network writes 9"):
        convert(save(tmp_path, make().state_dict(), "b"), tmp_path / "b.out", vocab=tmp_path / "read")


LETTERS = ["<pad>", "<s>", "</s>", "<unk>", *"abc"]
SOUNDS = ["<pad>", "<s>", "</s>", *"abʃː"]


@pytest.mark.parametrize("seed", [18, 78])
def test_padding_that_the_source_reads_is_read_here(tmp_path, seed):
    """Characters, in both vocabularies some, and 10 tokens a text whatever its length."""
    net = make(seed, read=len(LETTERS), written=len(SOUNDS))
    options = lists(tmp_path, LETTERS, SOUNDS) | {"source_length": 10}
    done = convert(save(tmp_path, net.state_dict()), tmp_path / "out", **options)
    model, tokenizer = (
        kind.from_pretrained(tmp_path / "out") for kind in (AutoModelForSeq2SeqLM, AutoTokenizer)
    )  # fmt: skip
    texts = {
        "abc": [4, 5, 6],
        "a": [4],
        "cʃa b": [6, 3, 4, 3, 5],
        "a\ue000\ue001b": [4, 3, 3, 5],
        "abcabcab": [4, 5, 6] * 2 + [4, 5],
    }
    for text, letters in texts.items():
        source = [1, *letters, 2] + [0] * (8 - len(letters))
        batch = tokenizer(text, return_tensors="pt")
        targets = some_ids(len(SOUNDS), 2)[:1]
        with torch.no_grad():
            logits = model(**batch, decoder_input_ids=targets).logits
            bare = model(batch.input_ids, decoder_input_ids=targets).logits  # padding here is another token
        torch.testing.assert_close(logits, net(torch.tensor([source]), targets), rtol=0, atol=1e-6)
        torch.testing.assert_close(bare, logits)
        expected = "".join(SOUNDS[token] for token in net.write(source, 1, 2, 12) if token > 2)
        assert translate(model, tokenizer, [text, "b"], num_beams=1, max_length=12)[0] == expected
    assert tokenizer("abcabcabc").input_ids == tokenizer("abcabcab").input_ids  # the longest that has room
    assert any("10 tokens in all" in line for line in done.notes)


@pytest.mark.slow
def test_a_stranger_reads_and_writes_with_what_is_in_the_folder(tmp_path):
    options = lists(tmp_path, LETTERS, SOUNDS) | {"source_length": 10, "check": "abc"}
    done = convert(save(tmp_path, make(78, read=7, written=7).state_dict()), tmp_path / "out", **options)
    program = """
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

tokenizer, model = (
    kind.from_pretrained("out", trust_remote_code=True) for kind in (AutoTokenizer, AutoModelForSeq2SeqLM)
)
ids = model.generate(**tokenizer("abc", return_tensors="pt"))
pipe = pipeline("rnn-translation", model="out", trust_remote_code=True)
print(json.dumps([tokenizer.decode(ids[0], skip_special_tokens=True), pipe("abc")["translation_text"]]))
"""
    assert told_by_a_stranger(program, tmp_path) == [done.written] * 2


def without(name, **options):
    return {key: tensor for key, tensor in make(**options).state_dict().items() if name not in key}


def halves(**options):
    """A state dict of an encoder with these options, and of a decoder as ever."""
    return make(**options).encoder.state_dict(prefix="encoder."), make().decoder.state_dict(prefix="decoder.")


def joined(**options):
    encoder, decoder = halves(**options)
    return {**encoder, **decoder}


REFUSALS = {
    "attention": (
        lambda: make().state_dict() | {"decoder.attn.weight": torch.ones(5, 10)}, {}, r"attention \(decoder\.attn",
    ),
    "attention apart": (
        lambda: {side: state_of(getattr(make(), side)) for side in ("encoder", "decoder")}
        | {"attn": {"weight": torch.ones(5, 10)}}, {}, r"attention \(attn\.weight",
    ),
    "activations": (
        lambda: nn.ModuleDict({"encoder": nn.RNN(3, 5), "decoder": nn.RNN(3, 5, nonlinearity="relu")}), {},
        "the activations relu and tanh",
    ),
    "fed": (
        lambda: make().state_dict()
        | {f"decoder.rnn.{name}": tensor for name, tensor in nn.LSTM(8, 5, 2).state_dict().items()},
        {}, "its decoder reads 8 numbers a step",
    ),
    "two directions": (lambda: joined(bidirectional=True), {}, "its encoder has two directions"),
    "depths": (lambda: joined(layers=1), {}, "its encoder has 1 layers and its decoder 2"),
    "widths": (lambda: joined(width=4), {}, r"widths \[4, 5\]"),
    "cells": (lambda: joined(cell="gru"), {}, "of different cells"),
    "embeddings": (lambda: joined(embedding_size=4), {}, "4 and 3 wide"),
    "projections": (
        lambda: {
            f"{side}.rnn.{name}": tensor
            for side in ("encoder", "decoder") for name, tensor in nn.LSTM(3, 5, proj_size=4).state_dict().items()
        }
        | {"encoder.e.weight": torch.ones(6, 3), "decoder.e.weight": torch.ones(7, 3), "fc.weight": torch.ones(7, 4)},
        {}, "have projections",
    ),
    "no head": (lambda: without("fc_out"), {}, "no linear layer from 5 numbers to 9 tokens"),
    "no embedding": (lambda: without("encoder.embedding"), {}, "its encoder reads 3 numbers"),
    "leftover": (
        lambda: make().state_dict() | {"encoder.fc.weight": torch.ones(5, 5)}, {}, r"encoder\.fc\.weight \[5, 5\]",
    ),
    "activation": (lambda: make(cell="rnn").state_dict(), {}, "`hidden_act` tanh or relu"),
    "backbone": (lambda: make().state_dict(), {"backbone": True}, "`backbone` is not for"),
    "reversed": (lambda: make().state_dict(), {"reads_backward": True}, "`reads_backward` is not for"),
    "corpus": (lambda: make().state_dict(), {"corpus": "a"}, "`corpus` is for language models"),
    "check": (lambda: make().state_dict(), {"check": "a"}, "`check` needs"),
    "target alone": (lambda: make().state_dict(), {"target_vocab": "a"}, "`target_vocab` goes with `vocab`"),
    "length alone": (lambda: make().state_dict(), {"source_length": 3}, "`source_length` goes with `vocab`"),
    "language model": (
        lambda: {"e.weight": torch.ones(4, 3)} | nn.LSTM(3, 5).state_dict(), {"source_length": 3},
        "`source_length` is for an encoder and a decoder",
    ),
    "not numbers": (
        lambda: make().state_dict() | {"decoder.fc_out.bias": torch.full((9,), torch.nan)}, {}, "differs",
    ),
    "no rows": (
        lambda: make().state_dict() | {"encoder.embedding.weight": torch.ones(0, 3)}, {}, "make no network",
    ),
    "two heads": (lambda: make().state_dict() | {"g.weight": torch.ones(9, 5)}, {}, "name it by `head`"),
    "a third": (
        lambda: make().state_dict() | {f"c.{name}": tensor for name, tensor in nn.GRU(3, 5).state_dict().items()},
        {}, "several recurrent networks",
    ),
}  # fmt: skip


@pytest.mark.parametrize("content, options, words", REFUSALS.values(), ids=REFUSALS)
def test_what_is_not_converted_is_said_in_a_sentence_and_nothing_is_written(tmp_path, content, options, words):
    with pytest.raises(InputError, match=words):
        convert(save(tmp_path, content()), tmp_path / "out", **options)
    assert not (tmp_path / "out" / "config.json").exists()


WRONG_LISTS = {
    "short": ({"read": READ[:-1]}, {}, "`vocab` has 7 tokens, and the network reads 8"),
    "twice": ({"read": [*READ[:-1], "der"]}, {}, "'der' twice"),
    "empty": ({"written": [*WRITTEN[:-1], ""]}, {}, "an empty token, 8 from 0"),
    "no padding": ({"written": ["x", *WRITTEN[2:], "y"]}, {}, "a token to pad"),
    "words": ({}, {"source_length": 9}, "`source_length` needs tokens of single characters"),
    "too much room": ({"read": ["<pad>", "<s>", "</s>", *"abcde"]}, {"source_length": 10**9}, "is more than 10000"),
    "no such word": ({"read": ["<pad>", "<s>", "</s>", *"abcde"]}, {"check": "ax"}, "`check` is not read by"),
    "no room": ({"read": ["<pad>", "<s>", "</s>", *"abcde"]}, {"source_length": 2}, "no room"),
}


@pytest.mark.parametrize("given, options, words", WRONG_LISTS.values(), ids=WRONG_LISTS)
def test_lists_that_are_not_those_of_the_network_are_refused(tmp_path, given, options, words):
    with pytest.raises(InputError, match=words):
        convert(save(tmp_path, make().state_dict()), tmp_path / "out", **lists(tmp_path, **given), **options)
    assert not (tmp_path / "out").exists()


def test_a_name_decides_between_two_candidates(tmp_path):
    net = make(embedding_size=5)  # embedding and an output matrix without bias are of one shape
    state = {name: tensor for name, tensor in net.state_dict().items() if name != "decoder.fc_out.bias"}
    with pytest.raises(InputError, match="name it by `embedding`"):
        convert(save(tmp_path, state), tmp_path / "out")
    convert(tmp_path / "weights", tmp_path / "out", embedding="decoder.embedding")
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    assert torch.equal(model.lm_head.weight, net.decoder.fc_out.weight) and not model.lm_head.bias.any()


def test_what_has_no_such_file_does_not_go_back(tmp_path):
    convert(save(tmp_path, make().state_dict()), tmp_path / "out", **lists(tmp_path))
    with pytest.raises(InputError, match="an encoder-decoder becomes a state-dict"):
        convert_back(str(tmp_path / "out"), tmp_path / "back", "word-language-model")
    report = json.loads((tmp_path / "out" / "conversion.json").read_text(encoding="utf-8"))
    (tmp_path / "out" / "conversion.json").write_text(json.dumps(report | {"source_ids": [99]}), encoding="utf-8")
    with pytest.raises(InputError, match="`source_ids` that are none of the model"):
        convert_back(str(tmp_path / "out"), tmp_path / "back", "state-dict")
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    for field, change in {
        "attention=dot": {"attention": "dot", "readout_size": 3},
        "bridge=linear": {"bridge": "linear"},
        "residual_from=1": {"residual_from": 1},
    }.items():
        (tmp_path / "out" / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
        with pytest.raises(InputError, match=f"`{field}` has no form"):
            convert_back(str(tmp_path / "out"), tmp_path / "back", "state-dict")

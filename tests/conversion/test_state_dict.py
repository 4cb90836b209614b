"""State dicts of any names become models with the same numbers, and go back to the same tensors."""

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import Network, make_cell
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from rnn_hf.conversion import convert, convert_back
from rnn_hf.errors import InputError
from rnn_hf.hub.repository import build_repository


CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class Net(nn.Module):
    """What people write: an embedding, stacked layers, a linear layer."""

    def __init__(self, cell="lstm", is_tied=False, width=5, layers=2, **options):
        super().__init__()
        self.embed = nn.Embedding(11, width if is_tied else 3)
        self.rnn = CELLS[cell](self.embed.embedding_dim, width, layers, batch_first=True, **options)
        self.fc = nn.Linear(width, 11)
        if is_tied:
            self.fc.weight = self.embed.weight
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.8, 0.8)

    def forward(self, ids):
        return self.fc(self.rnn(self.embed(ids))[0])


def save(tmp_path, content, name="weights.bin"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def some_ids():
    return torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("kind", CELLS)
def test_a_home_made_module_gives_the_same_logits(tmp_path, kind, is_tied):
    torch.manual_seed(0)
    net = Net(kind, is_tied).eval()
    done = convert(save(tmp_path, net.state_dict()), tmp_path / "out", hidden_act="tanh" if kind == "rnn" else None)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        logits, expected = model(some_ids()).logits, net(some_ids())
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
    assert done.format == "state-dict" and done.difference < 1e-12 and done.difference_float32 < 1e-5
    assert model.config.tie_word_embeddings == is_tied and model.config.cell_type == kind
    for index in range(2):
        for name, tensor in model.model.layers[index].rnn.named_parameters():
            assert torch.equal(tensor, getattr(net.rnn, name.replace("l0", f"l{index}")))
    assert torch.equal(model.lm_head.weight, net.fc.weight) and torch.equal(model.lm_head.bias, net.fc.bias)
    assert (model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()) == is_tied


@pytest.mark.parametrize("kind", CELLS)
def test_the_arithmetic_of_the_comparison_is_that_of_the_equations(kind):
    """The converter's arithmetic against that of tests/reference.py."""
    from rnn_hf.conversion.arithmetic import outputs_of
    from rnn_hf.conversion.formats import Choices
    from rnn_hf.conversion.state_dict import source_of

    torch.manual_seed(0)
    net = Net(kind).double()
    source = source_of(dict(net.state_dict()), Choices(hidden_act="tanh"))
    arrays = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    layers = [{name: arrays[f"rnn.{name}_l{index}"] for name in names} for index in range(2)]
    network = Network(make_cell(kind, "tanh"), arrays["embed.weight"], layers, arrays["fc.bias"], arrays["fc.weight"])
    expected, _ = network.forward(some_ids().numpy())
    for row, logits in zip(some_ids().numpy(), expected, strict=True):
        np.testing.assert_allclose(outputs_of(source, row), logits, rtol=0, atol=1e-12)


def test_layers_one_module_each_whatever_their_names(tmp_path):
    torch.manual_seed(0)
    first, second = nn.LSTM(3, 5), nn.LSTM(5, 4)
    net = nn.ModuleDict(
        {"emb": nn.Embedding(11, 3), "lstm1": first, "lstm2": second, "out": nn.Linear(4, 11, bias=False)}
    )
    state = OrderedDict((f"module.{name}", tensor) for name, tensor in net.state_dict().items())
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.layer_sizes == [(3, 5), (5, 4)] and not model.lm_head.bias.any()
    with torch.no_grad():
        expected = net["out"](second(first(net["emb"](some_ids().t()))[0])[0]).transpose(0, 1)
        torch.testing.assert_close(model(some_ids()).logits, expected, rtol=0, atol=1e-6)


def test_layers_without_biases_cells_and_projections(tmp_path):
    torch.manual_seed(0)
    nets = {
        "bias": (nn.LSTM(3, 5, 2, bias=False, batch_first=True), None),
        "cell": (nn.GRUCell(3, 5), None),
        "projection": (nn.LSTM(3, 5, 2, proj_size=4, batch_first=True), None),
        "both": (nn.GRU(3, 5, 2, bidirectional=True, batch_first=True), None),
    }
    for name, (rnn, _) in nets.items():
        state = {f"rnn.{key}": tensor for key, tensor in rnn.state_dict().items()} | {"e.weight": torch.randn(11, 3)}
        convert(save(tmp_path, state, name), tmp_path / f"{name}.out")
        model = AutoModel.from_pretrained(tmp_path / f"{name}.out").eval()
        with torch.no_grad():
            embeds = state["e.weight"][some_ids()]
            if name == "cell":
                hidden, steps = None, []
                for step in embeds.unbind(1):
                    hidden = rnn(step, hidden)
                    steps.append(hidden)
                expected = torch.stack(steps, 1)
            else:
                expected = rnn(embeds)[0]
            torch.testing.assert_close(model(some_ids()).last_hidden_state, expected, rtol=0, atol=1e-6)


def test_a_network_over_features_gives_its_outputs(tmp_path):
    torch.manual_seed(0)
    net = nn.LSTM(4, 5, 3, batch_first=True)
    state = {f"lstm.{name}": tensor for name, tensor in net.state_dict().items()}
    checkpoint = {"step": 3, "model_state": state, "optimizer_state": {"lr": 0.1}}
    done = convert(save(tmp_path, checkpoint), tmp_path / "out")
    assert done.architecture == "RNNModel" and any("step" in line for line in done.dropped)
    inputs = torch.randn(2, 6, 4)
    with torch.no_grad():
        got = AutoModel.from_pretrained(tmp_path / "out")(inputs_embeds=inputs).last_hidden_state
        torch.testing.assert_close(got, net(inputs)[0], rtol=0, atol=1e-6)


def test_types_of_the_source_are_kept_or_widened(tmp_path):
    for dtype, expected in ((torch.float64, "float64"), (torch.bfloat16, "float32")):
        net = Net().to(dtype)
        convert(save(tmp_path, net.state_dict(), str(dtype)), tmp_path / f"out{dtype}")
        weights = load_file(tmp_path / f"out{dtype}" / "model.safetensors")
        assert {str(tensor.dtype) for tensor in weights.values()} == {f"torch.{expected}"}
        assert torch.equal(weights["lm_head.weight"].to(dtype), net.fc.weight)


def test_a_vocabulary_becomes_a_tokenizer_and_a_text_is_checked(tmp_path):
    words = ["the", "cat", "<unk>", "sat", "<eos>", *"abcdef"]
    (tmp_path / "words.txt").write_text("".join(f"{word}\n" for word in words))
    done = convert(
        save(tmp_path, Net().state_dict()), tmp_path / "out", vocab=tmp_path / "words.txt", check="the cat ran"
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("the cat ran")["input_ids"] == [0, 1, 2] and tokenizer.eos_token_id == 4
    assert (
        tokenizer.decode([0, 1, 2]) == " the cat <unk>"
        and tokenizer.decode([0, 4], skip_special_tokens=True) == " the"
    )
    assert tokenizer.decode([0, 2], skip_special_tokens=True) == " the <unk>"  # a word of texts
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        loss = model(torch.tensor([[4, 0, 1, 2]]), shift_labels=torch.tensor([[0, 1, 2, 4]])).loss
    assert done.perplexity == pytest.approx(float(loss.exp()), rel=1e-5)
    assert model.config.eos_token_id == 4 and model.generate(torch.tensor([[0]]), max_new_tokens=3).shape[1] <= 4


def test_the_card_has_what_a_stranger_asks(tmp_path):
    path = save(tmp_path, Net().state_dict())
    done = convert(path, tmp_path / "out", license="cc-by-nc-4.0", backbone=True)
    card = (tmp_path / "out" / "README.md").read_text()
    for part in (
        "license: cc-by-nc-4.0",
        done.sha256,
        "weights.bin",
        "`state-dict`",
        "`fc.weight` [11, 5]",
        "AutoModel",
    ):
        assert part in card, part
    assert json.loads((tmp_path / "out" / "conversion.json").read_text()) == done.to_dict()
    assert done.dropped == ["`fc.weight` [11, 5]", "`fc.bias` [11]"]


def test_a_converted_folder_goes_to_the_hub_with_its_card(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    convert(save(tmp_path, Net().state_dict()), "me/net", license="mit")
    build_repository(Path("me/net"), tmp_path / "repository", "me/net", "mit")
    card = (tmp_path / "repository" / "README.md").read_text()
    assert card == Path("me/net/README.md").read_text() and 'from_pretrained("me/net"' in card
    assert (tmp_path / "repository" / "modeling_rnn.py").is_file()
    written, pushed = (tmp_path / folder / "conversion.json" for folder in ("me/net", "repository"))
    assert pushed.read_bytes() == written.read_bytes()


REFUSALS = {
    "leftover": (lambda: Net().state_dict() | {"norm.weight": torch.ones(5)}, {}, r"norm\.weight \[5\].*backbone"),
    "activation": (lambda: Net("rnn").state_dict(), {}, "`hidden_act` tanh or relu"),
    "two networks": (
        lambda: {f"{side}.{name}": value for side in "ab" for name, value in nn.LSTM(3, 5).state_dict().items()},
        {}, "several recurrent networks",
    ),
    "chain": (
        lambda: {f"r{n}.{name}": value for n in "12" for name, value in nn.LSTM(3, 5).state_dict().items()},
        {}, "something between them",
    ),
    "widths": (
        lambda: {
            f"r{n}.{name}": value for n in range(3) for name, value in nn.LSTM(3 + n, 4 + n).state_dict().items()
        },
        {}, r"widths \[4, 5, 6\]",
    ),
    "no cell": (lambda: {"weight_ih_l0": torch.ones(10, 3), "weight_hh_l0": torch.ones(10, 5)}, {}, "no LSTM, GRU"),
    "no matrix": (lambda: {"weight_ih_l0": torch.ones(20, 3)}, {}, "lacks a matrix"),
    "no layers": (lambda: {"a": torch.ones(3)}, {}, "no recurrent layers"),
    "not numbers": (lambda: Net().state_dict() | {"fc.bias": torch.full((11,), torch.nan)}, {}, "differs"),
    "wrong format": (lambda: Net().state_dict(), {"format": "no"}, "`format` must be one of"),
    "two embeddings": (lambda: Net().state_dict() | {"e.weight": torch.ones(7, 3)}, {}, "name it by `embedding`"),
    "named": (lambda: Net().state_dict(), {"embedding": "fc"}, r"the first layer reads 3"),
    "named and missing": (lambda: Net().state_dict(), {"head": "no"}, "there is no no"),
    "two heads": (lambda: Net().state_dict() | {"g.weight": torch.ones(11, 5)}, {}, "name it by `head`"),
    "check": (lambda: Net().state_dict(), {"check": "a"}, "`check` needs"),
    "both": (lambda: Net().state_dict(), {"vocab": "a", "corpus": "b"}, "not both"),
}  # fmt: skip


@pytest.mark.parametrize("make, options, words", REFUSALS.values(), ids=REFUSALS)
def test_what_is_not_converted_is_said_in_a_sentence_and_nothing_is_written(tmp_path, make, options, words):
    with pytest.raises(InputError, match=words):
        convert(save(tmp_path, make()), tmp_path / "out", **options)
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_name_decides_between_two_candidates(tmp_path):
    net = Net(width=3)  # embedding and an output matrix without bias are of one shape
    state = net.state_dict()
    del state["fc.bias"]
    path = save(tmp_path, state)
    with pytest.raises(InputError, match="name it by `embedding`"):
        convert(path, tmp_path / "out")
    convert(path, tmp_path / "out", embedding="embed")
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "out").lm_head.weight, net.fc.weight)


def test_a_folder_that_is_there_stays(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(InputError, match="`out` .* is there already"):
        convert(save(tmp_path, Net().state_dict()), tmp_path / "out")


@pytest.mark.parametrize("options", [{}, {"is_tied": True}, {"cell": "gru"}, {"bidirectional": True}])
def test_there_and_back_gives_equal_tensors(tmp_path, options):
    state = Net(**options).state_dict()
    if "bidirectional" in options:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("fc")}
    convert(save(tmp_path, state), tmp_path / "out")
    written = convert_back(str(tmp_path / "out"), tmp_path / "back.pt", "state-dict")
    back = torch.load(*written, weights_only=True)
    assert back.keys() == dict(state).keys() and all(torch.equal(back[name], state[name]) for name in back)


def test_layers_of_two_widths_go_back_as_modules(tmp_path):
    layers = {"0": nn.LSTM(3, 5), "1": nn.LSTM(5, 4)}
    state = dict(nn.ModuleDict({"embed": nn.Embedding(11, 3), "rnns": nn.ModuleDict(layers)}).state_dict())
    convert(save(tmp_path, state), tmp_path / "out")
    back = torch.load(*convert_back(str(tmp_path / "out"), tmp_path / "back.pt", "state-dict"), weights_only=True)
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in back)

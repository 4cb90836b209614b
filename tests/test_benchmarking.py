"""The benchmark compares like with like: its hand-written model computes what the package computes."""

import inspect

import pytest
import torch

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.benchmarking import loops as benchmarking_loops
from rnn_hf.benchmarking.deployment import deployed_runs
from rnn_hf.benchmarking.generation import DecodingSize, benchmark_context, decoding_runs, plot_context
from rnn_hf.benchmarking.loops import OURS, PARTS, TRAINER, benchmark_shares, loop_of
from rnn_hf.benchmarking.timing import BareLanguageModel, alone, in_turn, ratio, rise_of_peak
from rnn_hf.benchmarking.training import TrainingSize, training_steps
from rnn_hf.benchmarking.vocabulary import OUTPUT_LAYERS, output_step


@pytest.mark.parametrize("cell_type", ["lstm", "gru", "rnn"])
def test_the_hand_written_model_has_the_same_loss(cell_type):
    config = RNNConfig(vocab_size=9, hidden_size=4, cell_type=cell_type, tie_word_embeddings=False)
    ours, bare = RNNForCausalLM(config), BareLanguageModel(config)
    bare.embedding.load_state_dict(ours.model.embed_tokens.state_dict())
    bare.output.load_state_dict(ours.lm_head.state_dict())
    for index, layer in enumerate(ours.model.layers):
        for name, parameter in layer.rnn.named_parameters():
            getattr(bare.rnn, name.replace("_l0", f"_l{index}")).data.copy_(parameter)
    tokens = torch.randint(9, (3, 6))
    expected = ours(tokens[:, :-1], shift_labels=tokens[:, 1:]).loss
    for kind in ("plain", "fused"):
        loss, _ = bare(tokens[:, :-1], tokens[:, 1:].contiguous(), None, kind)
        torch.testing.assert_close(loss, expected)


def test_every_candidate_takes_a_step_of_the_same_size(monkeypatch):
    """A candidate that skipped its optimizer step, or its backward pass, would win the comparison."""
    taken = []
    original = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self: (taken.append(gradients(self)), original(self))
    )  # fmt: skip

    def gradients(optimizer):
        parameters = optimizer.param_groups[0]["params"]
        assert all(parameter.grad is not None for parameter in parameters)
        return sum(parameter.numel() for parameter in parameters)

    candidates = training_steps(TrainingSize("gru", 8, 2, 2, 3, vocab_size=20), torch.device("cpu"))
    for candidate in candidates.values():
        candidate()
        candidate()
    assert {"ours", "by hand, cross_entropy"} <= set(candidates)
    assert len(taken) == 2 * len(candidates) and len(set(taken)) == 1


def test_both_loops_take_so_many_steps(tmp_path, monkeypatch):
    taken = []
    original = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, *rest: (taken.append(1), original(self, *rest))[1])
    for name in (TRAINER, OURS):
        candidate = loop_of(name, TrainingSize("gru", 8, 2, 2, 5, vocab_size=20), 4, tmp_path)
        taken.clear()
        candidate()
        assert len(taken) == 4


def test_ratios_are_taken_within_rounds():
    times = {"a": [1.0, 4.0, 9.0], "b": [2.0, 4.0, 3.0]}
    assert ratio(times, "a", "b") == 1.0
    calls = []
    in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "a", "b", "b"] * 2


@pytest.mark.parametrize("cell_type", ["lstm", "gru", "rnn"])
def test_every_loop_finds_the_same_tokens(cell_type):
    runs = decoding_runs(DecodingSize(cell_type, 8, 2, 3, vocab_size=20), count=7)
    greedy = {name: run() for name, run in runs.items() if "sampling" not in name}
    assert {"ours", "by hand", "stock generate()"} <= set(greedy)
    assert all(torch.equal(tokens, greedy["ours"]) for tokens in greedy.values())
    assert all(run().shape == (3, 8) for run in runs.values())


def test_the_state_of_the_recurrent_network_alone_does_not_grow(tmp_path):
    rows = benchmark_context(rounds=1, contexts=(1, 64))
    sizes = {(row["model"], row["context"]): row["kilobytes"] for row in rows}
    assert sizes["LSTM", 1] == sizes["LSTM", 64] and sizes["GPT-2", 64] > sizes["GPT-2", 1]
    parameters = [row["parameters"] for row in rows]
    assert max(parameters) / min(parameters) < 1.15
    plot_context({"context": rows}, tmp_path / "context.png")
    assert (tmp_path / "context.png").read_bytes().startswith(b"\x89PNG")


def test_the_loss_in_parts_and_over_all_logits_are_the_same_work():
    """Same weights, same targets: same gradients; adaptive softmax has as many words and tokens."""
    gradients = []
    for name in OUTPUT_LAYERS:
        run = output_step(name, 50, tokens=7, width=4)
        run()
        names = inspect.getclosurevars(run).nonlocals
        layer, hidden = names["layer"], names["hidden"]
        assert all(parameter.grad is not None for parameter in layer.parameters())
        gradients.append([hidden.grad, *(parameter.grad for parameter in layer.parameters())])
    for one, other in zip(gradients[0], gradients[1], strict=True):
        torch.testing.assert_close(one, other)


def test_the_shares_of_a_step_are_the_whole_of_it(monkeypatch):
    monkeypatch.setattr(benchmarking_loops, "TRAINING_SIZES", [TrainingSize("lstm", 8, 2, 2, 5, vocab_size=20)])
    (row,) = benchmark_shares(steps=6)
    assert set(row["percent"]) == {*PARTS, "other arithmetic", "Python", "Python of the loss"}
    assert sum(row["percent"].values()) == pytest.approx(100, abs=0.5)
    assert all(share > 0 for share in row["percent"].values())


def _hold(*megabytes):
    return [rise_of_peak(lambda size=size: b"x" * (size * 1_000_000)) for size in megabytes]


def test_the_peak_of_a_process_rises_by_what_it_holds():
    large, small = alone(_hold, 210, 10)
    assert large - small == pytest.approx(200, abs=20)


@pytest.mark.parametrize("cell_type", ["lstm", "gru"])
def test_every_loop_over_an_exported_file_finds_the_tokens_of_pytorch(cell_type, tmp_path):
    runs = deployed_runs(DecodingSize(cell_type, 8, 2, 3, vocab_size=20), 7, tmp_path)
    found = {name: run() for name, run in runs.items()}
    assert all(torch.equal(found[name], found["PyTorch, generate()"]) for name in found if "int8" not in name)
    assert torch.equal(found["int8, generate()"], found["int8, bare loop"])  # 8 bits may choose other tokens
    assert all(tokens.shape == (3, 8) for tokens in found.values())

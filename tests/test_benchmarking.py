"""The benchmark compares like with like: its hand-written model computes what the package computes."""

import ctypes
import inspect
import json
import logging
import multiprocessing
import os
import platform
import runpy
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from rnn_hf import RNNConfig, RNNForCausalLM, RNNModel, machine
from rnn_hf.benchmarking import forecasting as benchmarking_forecasting
from rnn_hf.benchmarking import generation as benchmarking_generation
from rnn_hf.benchmarking import loops as benchmarking_loops
from rnn_hf.benchmarking import padding as benchmarking_padding
from rnn_hf.benchmarking import speech as benchmarking_speech
from rnn_hf.benchmarking import training as benchmarking_training
from rnn_hf.benchmarking import translation as benchmarking_translation
from rnn_hf.benchmarking.by_hand import BareLanguageModel
from rnn_hf.benchmarking.classification import benchmark_tagging, bidirectional_passes
from rnn_hf.benchmarking.deployment import deployed_runs
from rnn_hf.benchmarking.generation import DecodingSize, benchmark_context, decoding_runs, plot_context
from rnn_hf.benchmarking.loops import OURS, PARTS, TRAINER, benchmark_shares, loop_of
from rnn_hf.benchmarking.padding import PASSES, SIDES, benchmark_padding, padded_passes, padding_mask
from rnn_hf.benchmarking.record import Record, collect, run_benchmark
from rnn_hf.benchmarking.training import TrainingSize, benchmark_bf16, benchmark_sampled, our_step, training_steps
from rnn_hf.benchmarking.vocabulary import OUTPUT_LAYERS, output_step
from rnn_hf.machine import cpu_model, describe_machine, keeps_freed_memory, physical_cores
from rnn_hf.models import modeling_rnn, paths_rnn
from rnn_hf.tasks.automatic_speech_recognition import load_recognizer
from rnn_hf.timing import alone, announced, in_turn, ratio, rise_of_peak
from rnn_hf.training import objective
from rnn_hf.training.setup import keep_freed_memory


ROOT = Path(__file__).parents[1]


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


@pytest.mark.parametrize("side, where", [("left", 0), ("right", -1), ("anywhere", None)])
def test_a_quarter_of_a_padded_batch_is_padding_on_its_side(side, where):
    mask = padding_mask(side, 32, 64)
    lengths = mask.sum(dim=1)
    assert mask.float().mean() == pytest.approx(0.75, abs=0.01) and lengths.max() == 64 and lengths.min() == 32
    edges = (mask[:, 1:] != mask[:, :-1]).sum(dim=1)
    if where is None:
        assert (edges > 2).any()
    else:
        assert (edges == (lengths < 64)).all() and (mask[:, where] == (lengths == 64)).all()


def test_padded_and_unpadded_passes_are_the_same_work_but_for_the_mask(monkeypatch):
    seen, gradients = [], []
    original = RNNModel.forward

    def forward(self, *arguments, **options):
        seen.append((options["attention_mask"], torch.is_grad_enabled(), self.training))
        outputs = original(self, *arguments, **options)
        if torch.is_grad_enabled():
            outputs.last_hidden_state.register_hook(gradients.append)
        return outputs

    monkeypatch.setattr(RNNModel, "forward", forward)
    size = TrainingSize("gru", 8, 2, 4, 6, vocab_size=20)
    runs = padded_passes(size, torch.device("cpu"))
    assert list(runs) == [f"{side}, {name}" for side in ("unpadded", *SIDES) for name in PASSES]
    for name, run in runs.items():
        run()
        mask, has_gradients, is_training = seen.pop()
        assert (mask is None) == name.startswith("unpadded")
        assert mask is None or torch.equal(mask, padding_mask(name.split(",")[0], 4, 6))
        assert has_gradients == is_training == name.endswith("backward") == bool(gradients)
        if gradients:
            real = torch.ones(4, 6, dtype=torch.bool) if mask is None else mask
            assert torch.equal(gradients.pop().any(dim=2), real)


def test_a_row_of_padding_compares_each_side_and_pass(monkeypatch):
    monkeypatch.setattr(benchmarking_padding, "PADDED_SIZES", [TrainingSize("rnn", 8, 1, 2, 6, vocab_size=20)])
    (row,) = benchmark_padding(rounds=1)
    assert list(row["ratio"]) == [f"{side}, {name}" for side in SIDES for name in PASSES]
    assert set(row["milliseconds"]) == set(PASSES)


@pytest.mark.parametrize("cell_type", ["lstm", "gru", "rnn"])
def test_both_directions_by_hand_are_the_same_work(cell_type):
    ours, by_hand = (run() for run in bidirectional_passes(cell_type, 16).values())
    torch.testing.assert_close(ours, by_hand, rtol=1e-4, atol=1e-5)


def test_a_tagger_is_timed_from_ids_and_from_words():
    tagger = Path(__file__).parents[1] / "model_cards" / "ewt_pos_bilstm"
    (row,) = benchmark_tagging(str(tagger), [["The", "dog", "sleeps"], ["Yes"]], rounds=1)
    assert row["model"] == "ewt_pos_bilstm"
    assert set(row["words_per_second"]) == {"from ids", "from words"} and min(row["words_per_second"].values()) > 0


@pytest.mark.parametrize("steps", [1, 7])
def test_speech_by_hand_is_heard_alike(steps):
    parts = load_recognizer(str(Path(__file__).parents[1] / "model_cards" / "fsdd_gru_ctc"))
    parts[0].lm_head.bias.data[parts[0].config.pad_token_id] -= 10  # in noise it hears nothing
    samples = steps * parts[0].config.inputs_to_logits_ratio
    by_stream, by_hand = (run() for run in benchmarking_speech.streams(parts, samples).values())
    assert by_stream == by_hand and len(by_stream.split()) > 3


def test_a_training_step_of_a_forecast_by_hand_is_that_of_the_package(monkeypatch):
    without_dropout = benchmarking_forecasting.DIRECT | {"classifier_dropout": 0}
    monkeypatch.setattr(benchmarking_forecasting, "DIRECT", without_dropout)
    ways = benchmarking_forecasting.training_steps()
    for _ in range(3):
        ours, by_hand = (run() for run in ways.values())
        torch.testing.assert_close(ours, by_hand, rtol=1e-4, atol=1e-5)


def test_paths_by_hand_are_those_of_the_package():
    """With a draw that chance has no part in: the center of each distribution."""
    model, given, _ = benchmarking_forecasting.drawn_paths()
    by_hand = benchmarking_forecasting.paths_by_hand(model, given["state"], given["known"], 3, lambda said: said[:, 1])
    drawn = []

    def center(kind, parameters, loc, scale, generator):
        drawn.append(parameters[1] * scale + loc)
        return drawn[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths_rnn, "draw", center)
        later = {name: given[name] for name in ("future_time_features", "static_categorical_features")}
        ours = model.generate(state=given["state"], num_parallel_samples=3, **later).sequences
    assert len(drawn) == 96
    torch.testing.assert_close(ours, by_hand, rtol=1e-4, atol=1e-4)


def test_a_step_under_autocast_is_compared_with_one_without(monkeypatch):
    dtypes = []
    original = RNNForCausalLM.compute_loss

    def compute_loss(self, *arguments, **options):
        is_on = torch.is_autocast_enabled("cpu")
        dtypes.append(torch.get_autocast_dtype("cpu") if is_on else torch.float32)
        return original(self, *arguments, **options)

    monkeypatch.setattr(RNNForCausalLM, "compute_loss", compute_loss)
    size = TrainingSize("lstm", 8, 2, 2, 3, vocab_size=20)
    our_step(size, torch.device("cpu"))()
    our_step(size, torch.device("cpu"), torch.bfloat16)()
    assert dtypes == [torch.float32, torch.bfloat16]
    monkeypatch.setattr(benchmarking_training, "BF16_SIZES", [size])
    (row,) = benchmark_bf16(rounds=1)
    assert list(row["ratio"]) == ["float32"] and set(dtypes[2:]) == {torch.float32, torch.bfloat16}


def test_a_step_over_sampled_words_is_measured_against_one_over_all(monkeypatch):
    seen = {"sampled": [], "all": []}
    for module, key in ((objective, "sampled"), (modeling_rnn, "all")):
        original = module.linear_cross_entropy
        monkeypatch.setattr(
            module, "linear_cross_entropy",
            lambda inputs, weight, *rest, original=original, key=key: (
                seen[key].append(len(weight)) or original(inputs, weight, *rest)
            ),
        )  # fmt: skip
    monkeypatch.setattr(benchmarking_training, "SAMPLED_SIZES", [TrainingSize("gru", 8, 1, 2, 3, vocab_size=200)])
    monkeypatch.setattr(benchmarking_training, "SAMPLED_WORDS", 20)
    ((table, row),) = benchmark_sampled(rounds=2)
    assert table == "rows" and list(row["ratio"]) == ["all words"]
    assert set(seen["all"]) == {200} and len(seen["all"]) == len(seen["sampled"]) > 1
    assert max(seen["sampled"]) < 60


@pytest.mark.parametrize("module", [benchmarking_loops, benchmarking_generation])
def test_freed_memory_is_kept_for_all_before_anything_is_timed(module, monkeypatch):
    calls = []
    for name in vars(module):
        if name.startswith("benchmark_") and name not in ("benchmark_training", "benchmark_generation"):
            monkeypatch.setattr(module, name, lambda *rest, name=name, **options: calls.append(name) or [])
    monkeypatch.setattr(module, "resident_memory", list, raising=False)
    monkeypatch.setattr(module, "keep_freed_memory", lambda: calls.append("keep_freed_memory"))
    assert not list(getattr(module, "benchmark_training", getattr(module, "benchmark_generation", None))(rounds=1))
    assert calls[0] == "keep_freed_memory" and len(calls) > 2


def test_ratios_are_taken_within_rounds():
    times = {"a": [1.0, 4.0, 9.0], "b": [2.0, 4.0, 3.0]}
    assert ratio(times, "a", "b") == 1.0
    calls = []
    in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "a", "b", "b"] * 2


def test_a_benchmark_says_what_it_is_at(caplog):
    caplog.set_level(logging.INFO, logger="rnn_hf.timing")
    items = announced("step", [1, 2])
    assert next(items) == 1 and caplog.messages == ["step: 1"]
    assert list(items) == [2] and caplog.messages == ["step: 1", "step: 2"]


ROWS = [("rows", {"size": "small", "ratio": {"by hand": 0.5}}), ("memory", {"size": "small"}), ("rows", {"size": "2"})]


def stopped_after(count, number):
    """The first so many of `ROWS`, and then a signal in the middle of the next one."""
    yield from ROWS[:count]
    os.kill(os.getpid(), number)
    time.sleep(60)
    raise AssertionError("the signal did not end the row")


def test_a_benchmark_writes_each_row_when_it_is_measured(tmp_path):
    partial = tmp_path / "b.partial.json"
    said = []

    def rows():
        for count, row in enumerate(ROWS):
            content = json.loads(partial.read_text())
            assert sum(len(content.get(name, [])) for name in ("rows", "memory")) == len(said) == count
            assert content["complete"] is False and not (tmp_path / "b.json").exists()
            yield row

    assert run_benchmark(rows(), Record(tmp_path / "b.json"), 3, "cpu", said.append) is None
    content = json.loads((tmp_path / "b.json").read_text())
    assert content["complete"] is True and not partial.exists()
    assert content["rows"] == [ROWS[0][1], ROWS[2][1]] and content["memory"] == [ROWS[1][1]]
    assert content["rounds"] == 3 and content["machine"] == describe_machine()
    assert said[0] == 'rows: {"size": "small", "ratio": {"by hand": 0.5}}' and "| small | 0.50 |" in "\n".join(said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_benchmark_that_is_stopped_keeps_its_rows_and_leaves_the_last_complete_results(tmp_path, number):
    (tmp_path / "b.json").write_text("the last complete results")
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    said = []
    record = Record(tmp_path / "b.json")
    assert run_benchmark(stopped_after(1, number), record, 3, "cpu", said.append) == number
    content = json.loads((tmp_path / "b.partial.json").read_text())
    assert content["rows"] == [ROWS[0][1]] and "memory" not in content and content["complete"] is False
    assert (tmp_path / "b.json").read_text() == "the last complete results"
    assert said[-1].startswith(f"NOT complete: stopped by {number.name}") and str(record.partial_path) in said[-1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_the_script_says_by_its_exit_code_that_it_was_stopped_and_draws_no_figure(tmp_path, monkeypatch, capsys):
    main = runpy.run_path(str(ROOT / "scripts" / "benchmark.py"))["main"]
    monkeypatch.setitem(main.__globals__, "benchmark_generation", lambda rounds: stopped_after(2, signal.SIGTERM))
    paths = {"--json": tmp_path / "b.json", "--plot": tmp_path / "b.png"}
    words = [str(word) for pair in paths.items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "generate", *words])
    assert main() == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["b.partial.json"]
    assert "| small | 0.50 |" in capsys.readouterr().out


def _leave_a_file(path, seconds):
    time.sleep(seconds)
    path.touch()


def test_a_signal_ends_the_processes_of_a_row_too(tmp_path):
    def rows():
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        yield "rows", {"nothing": alone(_leave_a_file, tmp_path / "file", 10)}

    assert collect(rows(), Record(None), lambda line: None) == signal.SIGTERM
    assert not multiprocessing.active_children() and not (tmp_path / "file").exists()


@pytest.mark.parametrize("cell_type", ["lstm", "gru", "rnn"])
def test_every_loop_finds_the_same_tokens(cell_type):
    runs = decoding_runs(DecodingSize(cell_type, 8, 2, 3, vocab_size=20), count=7)
    greedy = {name: run() for name, run in runs.items() if "sampling" not in name}
    assert {"ours", "by hand", "stock generate()"} <= set(greedy)
    assert all(torch.equal(tokens, greedy["ours"]) for tokens in greedy.values())
    assert all(run().shape == (3, 8) for run in runs.values())


def test_the_state_of_the_recurrent_network_alone_does_not_grow(tmp_path):
    rows = list(benchmark_context(rounds=1, contexts=(1, 64)))
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


@pytest.mark.slow
def test_the_peak_of_a_process_rises_by_what_it_holds():
    large, small = alone(_hold, 210, 10)
    assert large - small == pytest.approx(200, abs=20)


def _hold_after_freeing(megabytes):
    keep_freed_memory()
    torch.ones(2 * megabytes * 250_000)
    return _hold(megabytes)[0]


@pytest.mark.slow
def test_memory_that_was_freed_before_does_not_hide_what_a_run_needs():
    assert alone(_hold_after_freeing, 100) == pytest.approx(100, abs=20)


@pytest.mark.parametrize("cell_type", ["lstm", "gru"])
def test_every_loop_over_an_exported_file_finds_the_tokens_of_pytorch(cell_type, tmp_path):
    runs = deployed_runs(DecodingSize(cell_type, 8, 2, 3, vocab_size=20), 7, tmp_path)
    written = {name: run() for name, run in runs.items()}
    assert all(torch.equal(written[name], written["PyTorch, generate()"]) for name in written if "int8" not in name)
    assert torch.equal(written["int8, generate()"], written["int8, bare loop"])  # 8 bits may choose other tokens
    assert all(tokens.shape == (3, 8) for tokens in written.values())


def test_a_machine_is_described_in_what_a_json_file_holds():
    machine = describe_machine()
    assert json.loads(json.dumps(machine)) == machine
    assert machine["cpu"] and machine["blas"] and machine["instructions"][0]
    assert 1 <= machine["cores"] <= os.cpu_count() and machine["threads"] == torch.get_num_threads()


def _keeps_freed_memory(is_asked_for):
    if is_asked_for:
        keep_freed_memory()
    return keeps_freed_memory()


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc's own"
)
@pytest.mark.slow
def test_a_machine_says_whether_its_process_keeps_freed_memory():
    assert alone(_keeps_freed_memory, True) and not alone(_keeps_freed_memory, False)


def test_settings_in_the_environment_are_recorded_without_directories(monkeypatch):
    for name in list(os.environ):
        if name.startswith("MALLOC_") or name in machine.SETTINGS:
            monkeypatch.delenv(name)
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2:/opt/lib/libiomp5.so")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("HOME", "/home/somebody")
    expected = {"LD_PRELOAD": "libjemalloc.so.2 libiomp5.so", "MALLOC_ARENA_MAX": "1", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    assert describe_machine()["environment"] == expected


PROCESSOR = """processor\t: {processor}
model name\t: Some(R) CPU(TM)  E5 @ 2.00GHz
physical id\t: 0
core id\t\t: {core}
flags\t\t: fpu: vme

"""


def test_two_hardware_threads_of_a_core_count_once(tmp_path, monkeypatch):
    text = "".join(PROCESSOR.format(processor=index, core=index % 2) for index in range(4))
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    for allowed, cores in (({0, 1, 2, 3}, 2), ({0, 2}, 1), ({1, 2}, 2)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process, allowed=allowed: allowed, raising=False)
        assert physical_cores() == cores
    assert cpu_model() == "Some CPU E5 @ 2.00GHz"


def test_a_system_that_lists_no_processors_still_has_a_name_and_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cpu_model() and physical_cores() == os.cpu_count()
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert cpu_model() == platform.machine()


@pytest.mark.parametrize("cell_type", ["gru", "lstm"])
def test_a_translator_by_hand_is_that_of_the_package(monkeypatch, cell_type):
    small = {"vocab_size": 40, "embedding_size": 6, "hidden_size": 8, "initializer_range": 1.0}
    shape = benchmarking_translation.SHAPE | small | {"input_dropout": 0.0, "output_dropout": 0.0}
    monkeypatch.setattr(benchmarking_translation, "SHAPE", shape)
    ways = benchmarking_translation.training_steps(cell_type)
    losses = [[way() for _ in range(2)] for way in ways.values()]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    for beams in (1, benchmarking_translation.BEAMS):
        written = [way() for way in benchmarking_translation.searches(cell_type, 3, beams).values()]
        assert torch.equal(written[0], written[1]) and torch.equal(written[0], written[2])

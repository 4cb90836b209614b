"""Validation shared out: what processes score together is what one scores, and none of them parts from the others."""

import copy
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.evaluation import evaluate
from rnn_hf.training.validation import share_of, validate


TOKENS = np.random.default_rng(0).integers(0, 11, 203)
PATIENCE = 300  # seconds, of which only processes that wait for each other for ever need all


def model_of():
    torch.manual_seed(0)
    return RNNForCausalLM(RNNConfig(vocab_size=11, hidden_size=6, initializer_range=1.0)).double()


def in_processes(ranks, *arguments):
    """What `validate` gives on each of so many processes, played by threads."""
    parts, barrier, model = [None] * ranks, threading.Barrier(ranks, timeout=PATIENCE), model_of()

    def on(rank):
        def gather(tensor):
            parts[rank] = tensor
            barrier.wait()
            return torch.cat(parts)

        accelerator = SimpleNamespace(
            num_processes=ranks, process_index=rank, gather=gather, device=torch.device("cpu")
        )
        return validate(accelerator, copy.deepcopy(model), TOKENS, 0, *arguments)

    with ThreadPoolExecutor(ranks) as threads:
        return list(threads.map(on, range(ranks)))


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("columns", [1, 2, 5, 10, 203, 1000])
def test_processes_score_together_what_one_scores_in_the_same_columns(ranks, columns):
    alone = evaluate(model_of(), TOKENS, 0, min(columns, len(TOKENS)), 64)
    (one,) = in_processes(1, columns)
    scores = in_processes(ranks, columns)
    assert one == alone  # to the last bit
    assert set(scores) == {scores[0]} and scores[0].num_tokens == alone.num_tokens
    assert scores[0].loss == pytest.approx(alone.loss, rel=1e-12)


def test_only_the_first_steps_of_each_column_are_scored_where_asked():
    assert in_processes(2, 5, 4)[0].num_tokens == in_processes(1, 5, 4)[0].num_tokens == 20


def test_the_shares_are_the_text_in_order_and_each_goes_on_from_the_token_before():
    for ranks, columns in ((3, 7), (5, 2), (1, 4)):
        shares = [share_of(TOKENS, 9, columns, rank, ranks) for rank in range(ranks)]
        steps = len(TOKENS) // columns
        assert np.concatenate([part for part, _, _ in shares]).tolist() == TOKENS[: steps * columns].tolist()
        assert sum(columns for _, _, columns in shares) == columns
        assert [len(part) for part, _, _ in shares] == [steps * own for _, _, own in shares]
        place = 0
        for part, before, _ in shares:
            assert before == (TOKENS[place - 1] if place else 9)
            place += len(part)


PARTED = """
import os, sys
from rnn_hf.evaluation import Score
from rnn_hf.training import validation
from rnn_hf.training.parsing import parse_arguments
from rnn_hf.training.loop import train
calls, sign = [], (-1) ** int(os.environ["RANK"])
def differs(model, tokens, *rest):
    calls.append(1)
    return Score(2 + 1e-7 * sign * len(calls), len(tokens))
validation.evaluate = differs
result = train(parse_arguments())["result"]
print(result["steps"], repr(result["best_validation_loss"]))
"""


@pytest.mark.slow
def test_processes_whose_validation_differs_stay_together(text, tmp_path):
    """One sees it fall, the other one rise, each by one unit in the seventh digit."""
    values = {
        "train_file": text / "train.txt", "validation_file": text / "validation.txt", "output_dir": tmp_path / "out",
        "hidden_size": 4, "per_device_train_batch_size": 4, "use_cpu": True, "max_steps": 8, "eval_steps": 1,
        "early_stopping_patience": 2, "lr_scheduler_type": "reduce_lr_on_plateau", "nonmonotone_interval": 1,
    }  # fmt: skip
    argv = [str(part) for name, value in values.items() for part in (f"--{name}", value)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PARTED, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        told = [run.communicate(timeout=PATIENCE) for run in runs]
    finally:
        for run in runs:
            run.kill()
    assert [run.returncode for run in runs] == [0, 0], told
    assert told[0][0].splitlines()[-1] == told[1][0].splitlines()[-1]

"""Data parallel training: two processes with batches of their own have the mean of the gradients of the two alone."""

import subprocess
import sys

import pytest
import torch


PATIENCE = 300  # seconds, of which only processes that wait for each other for ever need all

RANK = """
import sys
from datetime import timedelta
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from rnn_hf import RNNConfig, RNNForCausalLM
folder, rank = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
meeting = f"file://{folder}/meeting"
distributed.init_process_group("gloo", meeting, rank=rank, world_size=2, timeout=timedelta(seconds=60))
gradients = []
for config, weights, batches in torch.load(f"{folder}/cases.pt"):
    model = RNNForCausalLM(RNNConfig(**config)).double().train()
    model.load_state_dict(weights)
    wrapped = DistributedDataParallel(model)
    for _ in range(2):  # the second time it fails where a parameter had no gradient in the first
        model.zero_grad()
        torch.manual_seed(rank)
        wrapped(**batches[rank]).loss.backward()
    gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
torch.save(gradients, f"{folder}/rank-{rank}.pt")
distributed.destroy_process_group()
"""
KINDS = {
    "lstm": {"cell_type": "lstm"},
    "sigmoid": {"cell_type": "rnn", "hidden_act": "sigmoid"},
    "mixture": {"cell_type": "gru", "num_softmaxes": 2},
}
DROPOUTS = dict.fromkeys(("embedding_dropout", "hidden_dropout", "output_dropout", "recurrent_dropout"), 0.3)
PADDED = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
MASKS = {"and no mask": (PADDED, None), "and a full mask": (torch.ones_like(PADDED), PADDED),
         "and another": (PADDED, PADDED.flip(1))}  # fmt: skip


def batch_of(mask, seed):
    ids = torch.randint(1, 11, PADDED.shape, generator=torch.Generator().manual_seed(seed))
    real = torch.ones_like(ids) if mask is None else mask
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.where(real.bool(), -100)}


@pytest.fixture(scope="module")
def cases(make_model, tmp_path_factory):
    """By name: a model, the batch of each of two processes, and the gradients that each has when both have worked.

    All are computed in one start of the processes, which takes longest.
    """
    folder = tmp_path_factory.mktemp("ranks")
    cases = {
        (kind, mask, skips): (
            make_model(fields, tie_word_embeddings=False, **DROPOUTS).train(),
            [{**batch_of(mask, rank), "skip_logits": skips} for rank, mask in enumerate(MASKS[mask])],
        )
        for kind, fields in KINDS.items() for mask in MASKS for skips in (False, True)
    }  # fmt: skip
    given = [(model.config.to_dict(), model.state_dict(), batches) for model, batches in cases.values()]
    torch.save(given, folder / "cases.pt")
    runs = [
        subprocess.Popen([sys.executable, "-c", RANK, str(folder), str(rank)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        told = [run.communicate(timeout=PATIENCE)[1] for run in runs]
    finally:
        for run in runs:
            run.kill()
    assert [run.returncode for run in runs] == [0, 0], told
    ranks = zip(*(torch.load(folder / f"rank-{rank}.pt") for rank in range(2)), strict=True)
    return {name: (*case, gradients) for (name, case), gradients in zip(cases.items(), ranks, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_both_have_the_mean_of_the_gradients_of_the_two_alone(cases, kind, mask, skips):
    model, batches, ranks = cases[kind, mask, skips]
    model.zero_grad()
    for rank, batch in enumerate(batches):
        torch.manual_seed(rank)
        (model(**batch).loss / 2).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.any(), name
        for gradients in ranks:
            torch.testing.assert_close(gradients[name], parameter.grad)

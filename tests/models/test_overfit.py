"""Each cell learns a tiny batch by heart, as transformers' own TrainingTesterMixin.test_training_overfit asks."""

import torch

from rnn_hf import RNNConfig, RNNForCausalLM


def test_a_cell_learns_a_tiny_batch_by_heart(cell):
    """In 300 steps of Adam, as there, loss and norm of the gradient fall by 90 %, and greedy search says the text."""
    fields = {"vocab_size": 99, "hidden_size": 32, "pad_token_id": 0, **cell}
    if fields.get("projection_size"):
        fields |= {"projection_size": 16, "embedding_size": 16}
    torch.manual_seed(42)
    model = RNNForCausalLM(RNNConfig(**fields)).train()
    text = torch.arange(64).remainder(19)[None] + 1
    optimizer, losses, norms = torch.optim.Adam(model.parameters(), lr=0.01), [], []
    for _ in range(300):
        loss = model(input_ids=text.expand(2, -1), labels=text.expand(2, -1)).loss
        loss.backward()
        losses.append(loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.1 * losses[0] and norms[-1] < 0.1 * norms[0]
    assert torch.equal(model.eval().generate(text[:, :1], max_new_tokens=63, do_sample=False), text)

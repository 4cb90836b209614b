"""A mixture of softmaxes is the weighted mean of softmaxes, and all that holds for the plain head holds for it."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from rnn_hf import RNNConfig, RNNForCausalLM


def model_of(**values) -> RNNForCausalLM:
    torch.manual_seed(0)
    shape = {"vocab_size": 23, "embedding_size": 5, "hidden_size": 8, "last_hidden_size": 7, "num_softmaxes": 3}
    return RNNForCausalLM(RNNConfig(**(shape | values))).eval()


IDS = torch.randint(23, (2, 6), generator=torch.Generator().manual_seed(1))


def test_probabilities_are_the_weighted_mean_of_softmaxes():
    """Equation 3 of Yang et al., 2018, position by position."""
    model = model_of().double()
    outputs = model(IDS, output_hidden_states=True)
    mixture, head = model.mixture, model.lm_head
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for row in range(2):
        for t in range(6):
            hidden = outputs.hidden_states[-1][row, t]
            weights = (mixture.prior.weight @ hidden).softmax(0)
            expected = torch.zeros(23, dtype=torch.float64)
            for k, weight in enumerate(weights):
                part = slice(5 * k, 5 * (k + 1))
                latent = torch.tanh(mixture.latent.weight[part] @ hidden + mixture.latent.bias[part])
                expected += weight * (head.weight @ latent + head.bias).softmax(0)
            torch.testing.assert_close(outputs.logits[row, t].exp(), expected)


def test_the_rank_is_not_bound_by_the_embedding():
    """Log-probabilities of the plain head have rank of at most the embedding's width and two; a mixture's do not."""
    ids = torch.arange(23)[None]
    rank = {}
    for k in (1, 3):
        model = model_of(last_hidden_size=None, embedding_size=2, num_softmaxes=k, initializer_range=1.0).double()
        rank[k] = int(torch.linalg.matrix_rank(model(ids).logits[0].log_softmax(-1), rtol=1e-9))
    assert rank[1] <= 4 < rank[3]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_loop_decodes_as_the_modules_do(tied, rows):
    model = model_of(tie_word_embeddings=tied)
    ids = IDS[:1].repeat(rows, 1)
    fast = model.generate(ids, max_new_tokens=24, do_sample=False)
    model.decodes_directly = False
    assert torch.equal(fast, model.generate(ids, max_new_tokens=24, do_sample=False))


def test_saved_is_loaded_resized_and_trained(tmp_path):
    model = model_of()
    model.save_pretrained(tmp_path)
    again = RNNForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    again.resize_token_embeddings(30)
    assert again(IDS).logits.shape == (2, 6, 30) and again.lm_head.weight is again.model.embed_tokens.weight
    again.train()(IDS, labels=IDS, skip_logits=True).loss.backward()
    assert all(parameter.grad is not None for parameter in again.parameters())


def test_losses_with_and_without_logits_and_padding_agree():
    model = model_of().double()
    labels = IDS.clone()
    torch.testing.assert_close(model(IDS, labels=labels).loss, model(IDS, labels=labels, skip_logits=True).loss)
    padded = torch.cat([torch.zeros(2, 2, dtype=torch.long), IDS], dim=1)
    mask = torch.cat([torch.zeros(2, 2), torch.ones(2, 6)], dim=1)
    torch.testing.assert_close(model(padded, attention_mask=mask).logits[:, 2:], model(IDS).logits)


def test_under_autocast_probabilities_still_sum_to_one():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model_of(vocab_size=5000)(IDS).logits
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(2, 6), rtol=0, atol=1e-5)


def test_dropout_of_a_mixture_holds_for_all_steps():
    model = model_of(softmax_dropout=0.5).train()
    seen = []
    model.lm_head.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    model(IDS)
    masks = seen[0].view(2, 6, 3, 5) == 0
    assert masks.any() and not masks.all() and (masks == masks[:, :1]).all()


@pytest.mark.parametrize("values, words", [
    ({"num_softmaxes": 0}, "`num_softmaxes` must be at least 1"),
    ({"num_softmaxes": 1}, "as wide as the embedding"),
    ({"num_softmaxes": 1, "last_hidden_size": None, "softmax_dropout": 0.1}, "`softmax_dropout` is for"),
    ({"projection_size": 4}, "`last_hidden_size` does not go with `projection_size`"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(values, words):
    with pytest.raises((StrictDataclassError, ValueError)) as error:
        model_of(**values)
    assert words in str(error.value.__cause__ or error.value)

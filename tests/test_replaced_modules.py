"""Whatever stands in a module's place, or changes what it does, counts everywhere: all ways to use the model agree."""

import copy

import numpy as np
import peft
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.data.tokenization import build_tokenizer, start_id
from rnn_hf.evaluation import evaluate
from rnn_hf.scoring import score


# torch's for the old ways, and of peft, which reads a name that transformers will drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")

TOKENIZER = build_tokenizer(["a b c d e f g h i j"])
TEXT = "a b c d e f g h i j c a d e b"
IDS = torch.tensor([[2, 3, 4], [5, 6, 7]])


class Flipped(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs).flip(-1)


class FlippedEmbedding(nn.Embedding):
    def forward(self, ids):
        return super().forward(self.num_embeddings - 1 - ids)


class OwnLogits(RNNForCausalLM):
    def compute_logits(self, hidden_states):
        return super().compute_logits(hidden_states).flip(-1)


class OwnForward(RNNForCausalLM):
    def forward(self, input_ids=None, **kwargs):
        return super().forward(self.config.vocab_size - 1 - input_ids, **kwargs)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def of_class(kind):
    def way(model):
        other = kind(model.config).eval()
        other.load_state_dict(model.state_dict())
        return other

    return way


def replaced_head(make):
    def way(model):
        old = model.lm_head
        model.lm_head = make(old)
        return model

    return way


def flipped_head(old):
    head = Flipped(old.in_features, old.out_features)
    head.load_state_dict(old.state_dict())
    return head


def head_without_bias(old):
    head = nn.Linear(old.in_features, old.out_features, bias=False)
    head.weight.data.copy_(old.weight.data.flip(0))
    return head


def flipped_embedding(model):
    old = model.model.embed_tokens
    model.model.embed_tokens = FlippedEmbedding(old.num_embeddings, old.embedding_dim, _weight=old.weight.detach())
    return model


def own_compute_logits(model):
    logits = model.compute_logits
    model.compute_logits = lambda hidden: logits(hidden).flip(-1)
    return model


def hooked_head(model):
    model.lm_head.register_forward_hook(lambda module, inputs, outputs: outputs.flip(-1))
    return model


def parametrized_head(model):
    parametrize.register_parametrization(model.lm_head, "weight", Doubled())
    return model


def parametrized_embedding(model):
    parametrize.register_parametrization(model.model.embed_tokens, "weight", Doubled())
    return model


def weight_normed_head(model):
    nn.utils.weight_norm(model.lm_head)
    model.lm_head.weight_g.data.mul_(2)
    return model


def pruned(model):
    torch.manual_seed(0)
    prune.random_unstructured(model.lm_head, "weight", amount=0.5)
    prune.random_unstructured(model.model.embed_tokens, "weight", amount=0.5)
    prune.random_unstructured(model.model.layers[0].rnn, "weight_hh_l0", amount=0.5)
    return model


def quantized(kind):
    def way(model):
        settings = torch.ao.quantization
        layers = {kind: settings.float_qparams_weight_only_qconfig} if kind is nn.Embedding else {kind}
        return settings.quantize_dynamic(model, layers)

    return way


def adapted(**targets):
    def way(model):
        torch.manual_seed(0)
        # Not B = 0, with which an adapter starts: what passes it by would not show.
        return peft.get_peft_model(model, peft.LoraConfig(r=2, init_lora_weights=False, **targets)).eval()

    return way


WAYS = {
    "subclass of the head": replaced_head(flipped_head),
    "head without bias": replaced_head(head_without_bias),
    "head in a sequence": replaced_head(lambda old: nn.Sequential(flipped_head(old), nn.Tanh())),
    "subclass of the embedding": flipped_embedding,
    "class with its own compute_logits": of_class(OwnLogits),
    "class with its own forward": of_class(OwnForward),
    "object with its own compute_logits": own_compute_logits,
    "hook on the head": hooked_head,
    "parametrized head": parametrized_head,
    "parametrized embedding": parametrized_embedding,
    "weight norm on the head": weight_normed_head,
    "pruned": pruned,
    "quantized head": quantized(nn.Linear),
    "quantized layers": quantized(nn.LSTM),
    "quantized embedding": quantized(nn.Embedding),
    "LoRA on the head": adapted(target_modules=["lm_head"]),
    "LoRA on the embedding": adapted(target_modules=["embed_tokens"]),
    "LoRA on recurrent matrices": adapted(target_parameters=["rnn.weight_hh_l0", "rnn.weight_ih_l0"]),
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = RNNConfig(
        vocab_size=12, hidden_size=8, num_hidden_layers=2, initializer_range=2.0, tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return RNNForCausalLM(config).eval()


def by_every_way(model):
    """Tokens of `generate()`, and the loss in nats, after seeing that all ways to them agree."""
    inner = model.base_model.model if isinstance(model, peft.PeftModel) else model
    texts = []
    for directly in (True, False):
        inner.decodes_directly = directly
        for rows in (IDS, IDS[:1]):
            texts.append(model.generate(input_ids=rows, max_new_tokens=12, do_sample=False))
    assert torch.equal(texts[0], texts[2]) and torch.equal(texts[1], texts[3])
    with torch.no_grad():
        losses = [model(input_ids=IDS, labels=IDS, skip_logits=skips).loss.item() for skips in (True, False)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    tokens, start = np.array(TOKENIZER(TEXT)["input_ids"]), start_id(TOKENIZER)
    whole = evaluate(model, tokens, start, window=7)
    (text,) = score(model, TOKENIZER, TEXT, "nats", window=7)
    assert whole.loss * whole.num_tokens == pytest.approx(text.total, rel=1e-5)
    return texts[0], whole.loss


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_what_stands_in_the_place_of_a_module_counts_in_generate_loss_evaluate_and_score(model, way):
    plain = by_every_way(copy.deepcopy(model))
    changed = by_every_way(way(model))
    assert changed[1] != pytest.approx(plain[1], rel=1e-6)  # else it would not show what passes by the change


@pytest.mark.parametrize("place", ["head", "embedding"])
def test_an_adapter_gives_the_numbers_of_the_model_that_it_is_merged_into(model, place):
    name = {"head": "lm_head", "embedding": "embed_tokens"}[place]
    adapter = adapted(target_modules=[name])(model)
    tokens, loss = by_every_way(adapter)
    merged = by_every_way(adapter.merge_and_unload())
    assert loss == pytest.approx(merged[1], rel=1e-5) and torch.equal(tokens, merged[0])


def test_a_hook_on_all_modules_counts_too(model):
    plain = by_every_way(model)

    def flip(module, inputs, outputs):
        return outputs.flip(-1) if isinstance(module, nn.Linear) else None

    handle = nn.modules.module.register_module_forward_hook(flip)
    try:
        assert by_every_way(model)[1] != pytest.approx(plain[1], rel=1e-4)
    finally:
        handle.remove()

"""What tests of networks that write a text from another one run: every kind, and a small batch."""

import pytest
import torch

from rnn_hf import RNNForConditionalGeneration, RNNSeq2SeqConfig


CLOSE = {"atol": 1e-10, "rtol": 1e-8}
# All cells; there is none with a projection here.
UNITS = {
    "lstm": {"cell_type": "lstm"},
    "gru": {"cell_type": "gru"},
    "elman-tanh": {"cell_type": "rnn", "hidden_act": "tanh"},
    "elman-relu": {"cell_type": "rnn", "hidden_act": "relu"},
    "elman-sigmoid": {"cell_type": "rnn", "hidden_act": "sigmoid"},
}
# Those that differ in their state and in how padding is passed over.
SOME_UNITS = ["lstm", "gru", "elman-sigmoid"]


def units(*usual: str, names=tuple(UNITS)):
    """Runs a test on an argument `unit`, a dictionary of fields, once for each of `names`; those that are not `usual`
    in the slow suite only."""
    slow = pytest.mark.slow
    params = [pytest.param(UNITS[name], id=name, marks=() if name in usual else slow) for name in names]
    return pytest.mark.parametrize("unit", params)


# Each attention, bridge, depth and way to share vocabularies and embeddings.
KINDS = {
    "general": {},
    "dot": {"attention": "dot", "bridge": "mean", "num_encoder_layers": 2, "residual_from": 1},
    "additive": {"attention": "additive", "attention_size": 5, "bridge": "zero", "tie_word_embeddings": False},
    "multihead": {"attention": "multihead", "attention_size": 6, "attention_heads": 3, "share_embeddings": False},
    "fed": {"input_feeding": True, "num_decoder_layers": 2, "readout_size": 7, "tie_word_embeddings": False},
    "fed-additive": {"attention": "additive", "input_feeding": True, "decoder_vocab_size": 9},
    "deep": {"deep_fusion": True, "num_decoder_layers": 3, "residual_from": 1, "bidirectional_encoder": False},
    "deep-fed": {
        "attention": "multihead", "attention_size": 12, "attention_heads": 2, "num_decoder_layers": 2,
        "deep_fusion": True, "input_feeding": True,
    },
    "none": {"attention": None, "embedding_size": 8, "num_encoder_layers": 2},
    "identity": {
        "attention": None, "bridge": "identity", "bidirectional_encoder": False, "tie_word_embeddings": False,
        "num_encoder_layers": 2, "num_decoder_layers": 2, "decoder_vocab_size": 9,
    },
}  # fmt: skip


def make_translator(seed: int = 0, **fields) -> RNNForConditionalGeneration:
    """A small network in float64, of one of `KINDS` by its fields, that differs from word to word."""
    torch.manual_seed(seed)
    fields = {"vocab_size": 12, "embedding_size": 6, "hidden_size": 8, "initializer_range": 1.0} | fields
    model = RNNForConditionalGeneration(RNNSeq2SeqConfig(**fields)).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name:
                parameter.uniform_(-0.5, 0.5)
    return model


def make_writer(**fields) -> RNNForConditionalGeneration:
    """The same, whose next token depends on source and target alike, and is never padding."""
    model = make_translator(**{**fields, "tie_word_embeddings": False})
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(3, model.config.vocab_size, (32, 6), generator=generator)
        written = torch.randint(1, model.config.output_vocab_size, (32, 8), generator=generator)
        logits = model(ids, decoder_input_ids=written).logits
        scale = 2.5 / (logits - logits.mean((0, 1))).std()
        model.lm_head.weight.mul_(scale)
        model.lm_head.bias.copy_((model.lm_head.bias - logits.mean((0, 1))) * scale)
        model.lm_head.bias[0] = -1e4
    return model


def some_pairs() -> dict[str, torch.Tensor]:
    """Sources with padding on each side and within, and targets of different lengths."""
    ids = torch.tensor([[3, 4, 5, 6, 2], [7, 5, 2, 0, 0], [0, 0, 4, 3, 2], [8, 0, 3, 0, 2]])
    labels = torch.tensor([[4, 5, 6, 2], [3, 2, -100, -100], [5, 4, 2, -100], [8, 7, 6, 2]])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def rows_of(pairs: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Each pair alone, without padding."""
    return [
        {"input_ids": ids[mask.bool()][None], "labels": labels[labels != -100][None]}
        for ids, mask, labels in zip(*pairs.values(), strict=True)
    ]


def sources() -> torch.Tensor:
    """Ids with padding on each side and within, for `generate`."""
    return some_pairs()["input_ids"]


def greedy_by_hand(model, source: torch.Tensor, length: int) -> list[int]:
    """The tokens of one source `(1, S)` with the start token, each from the whole target so far."""
    tokens = [model.config.decoder_start_token_id]
    while len(tokens) < length and tokens[-1] != model.config.eos_token_id:
        logits = model(source, decoder_input_ids=torch.tensor([tokens]), use_cache=False).logits
        tokens.append(logits[0, -1].argmax().item())
    return tokens


def beams_by_hand(
    model, source: torch.Tensor, beams: int, length: int, penalty: float
) -> list[tuple[float, list[int]]]:
    """Beam search for one source, as transformers defines it, each step from whole targets: scores and tokens, best
    first. Of several networks by the mean of their log-probabilities."""
    models = model if isinstance(model, list) else [model]
    config = models[0].config
    end, live, done = config.eos_token_id, [(0.0, [config.decoder_start_token_id])], []
    for count in range(1, length):
        written = torch.tensor([tokens for _, tokens in live])
        sources = source.expand(len(live), -1)
        logits = [each(sources, decoder_input_ids=written, use_cache=False).logits[:, -1] for each in models]
        log_probs = torch.stack([each.log_softmax(1) for each in logits]).mean(0)
        scores = log_probs + torch.tensor([score for score, _ in live], dtype=log_probs.dtype)[:, None]
        values, places = scores.flatten().topk(2 * beams)
        candidates = [
            (value, live[place // log_probs.shape[1]][1] + [place % log_probs.shape[1]])
            for value, place in zip(values.tolist(), places.tolist(), strict=True)
        ]
        done += [(value / count**penalty, tokens) for value, tokens in candidates[:beams] if tokens[-1] == end]
        done = sorted(done, reverse=True)[:beams]
        live = [each for each in candidates if each[1][-1] != end][:beams]
        if len(done) == beams and live[0][0] / count**penalty <= done[-1][0]:
            return done
    done += [(score / (length - 1) ** penalty, tokens) for score, tokens in live]
    return sorted(done, reverse=True)[:beams]

"""What tests of networks that write a text from another one run: every kind, and a small batch."""

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

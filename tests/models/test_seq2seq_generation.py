"""`generate()` of networks that write a text from another one: against loops by hand that recompute everything."""

import pytest
import torch
from seq2seq_models import KINDS, SOME_UNITS, beams_by_hand, greedy_by_hand, make_writer, sources, units
from transformers import GenerationConfig, LogitsProcessorList, TextStreamer
from transformers.modeling_outputs import BaseModelOutput

from rnn_hf import RNNCache


LENGTH = 9
WAYS = {
    "greedy": {},
    "sampled": {"do_sample": True, "top_k": 0},
    "beams": {"num_beams": 3},
    "several beams": {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 2.0},
    "sampled beams": {"num_beams": 3, "do_sample": True},
}

every_kind = pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
some_units = units("lstm", names=SOME_UNITS)
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
SLOW_KINDS = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("fed-additive", "identity")]
some_kinds = pytest.mark.parametrize("kind", ["general", "deep-fed", *SLOW_KINDS])


def generate(model, ids: torch.Tensor | None = None, seed: int = 0, **options):
    torch.manual_seed(seed)
    return model.generate(ids, **{"max_length": LENGTH} | options)


def without_padding(row: torch.Tensor) -> list[int]:
    """Tokens up to the end token."""
    tokens = row.tolist()
    return tokens[: tokens.index(2) + 1] if 2 in tokens else tokens


def rows() -> list[torch.Tensor]:
    return [row[row != 0][None] for row in sources()]


# Against loops by hand


@some_units
@every_kind
def test_greedy_is_a_loop_by_hand_over_rows_alone(unit, fields):
    model = make_writer(**unit, **fields)
    found = generate(model, sources())
    for row, padded, source in zip(found, sources(), rows(), strict=True):
        expected = greedy_by_hand(model, source, LENGTH)
        assert without_padding(row) == expected
        assert generate(model, padded[None])[0].tolist() == expected  # a row alone is run in its own way


@every_kind
@pytest.mark.parametrize("penalty", [1.0, *(pytest.param(value, marks=pytest.mark.slow) for value in (0.0, 2.0))])
def test_beams_are_a_search_by_hand_over_rows_alone(fields, penalty):
    model = make_writer(cell_type="lstm" if penalty else "gru", **fields)
    options = {"num_beams": 3, "num_return_sequences": 3, "length_penalty": penalty}
    options |= {"return_dict_in_generate": True, "output_scores": True}
    output = generate(model, sources(), **options)
    del options["return_dict_in_generate"], options["output_scores"]
    assert torch.equal(generate(model, sources(), **options), output.sequences)  # by the light search
    sequences, scores = output.sequences.unflatten(0, (4, 3)), output.sequences_scores.unflatten(0, (4, 3))
    for row, score, source in zip(sequences, scores, rows(), strict=True):
        expected = beams_by_hand(model, source, 3, LENGTH, penalty)
        assert [without_padding(each) for each in row] == [tokens for _, tokens in expected]
        torch.testing.assert_close(score, torch.tensor([value for value, _ in expected]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["general", "fed"])
def test_enough_beams_find_the_likeliest_sequence_of_all(kind):
    model = make_writer(**KINDS[kind], vocab_size=5)
    source, targets = torch.tensor([[3, 4, 2]]), torch.cartesian_prod(*[torch.arange(5)] * 3)
    targets[1:] = torch.where((targets[1:] == 2).cumsum(1) > (targets[1:] == 2), 0, targets[1:])
    labels = torch.unique(targets, dim=0)
    is_real = (labels == 2).cumsum(1) - (labels == 2).long() == 0
    logits = model(source.expand(len(labels), -1), labels=labels).logits.log_softmax(-1)
    likelihood = (logits.gather(2, labels[..., None])[..., 0] * is_real).sum(1)
    best = labels[likelihood.argmax()]
    found = generate(model, source, num_beams=25, length_penalty=0.0, max_length=4)
    assert without_padding(found[0, 1:]) == without_padding(best)


# With a state and without, padding, prompts


@pytest.mark.parametrize(
    "way", [WAYS["sampled"], WAYS["several beams"],
            *(pytest.param(WAYS[name], marks=pytest.mark.slow) for name in ("greedy", "beams", "sampled beams"))],
)  # fmt: skip
@every_kind
def test_without_a_state_the_tokens_are_the_same(fields, way):
    model = make_writer(cell_type="lstm", **fields)
    expected = generate(model, sources(), **way, use_cache=False)
    assert torch.equal(generate(model, sources(), **way), expected)
    if not way.get("do_sample"):
        model.decodes_directly = False
        assert torch.equal(generate(model, sources(), **way), expected)


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 1.0, 3.0])
@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_the_light_search_ends_where_that_of_transformers_does(early_stopping, penalty):
    for seed in range(3):
        model = make_writer(seed=seed, cell_type="lstm")
        with torch.no_grad():
            model.lm_head.bias[2] += 2  # sequences of many lengths
        options = {"num_beams": 3, "num_return_sequences": 3, "early_stopping": early_stopping, "max_length": 20}
        found = generate(model, sources(), length_penalty=penalty, **options)
        model.decodes_directly = False
        assert torch.equal(generate(model, sources(), length_penalty=penalty, **options), found)


@every_way
@some_kinds
def test_what_the_encoder_said_may_be_given_and_used_twice(kind, way):
    model = make_writer(**KINDS[kind])
    expected, mask = generate(model, sources(), **way), sources() != 0
    read, shapes = model.encode(sources()), {}
    for name, part in read.items():
        shapes[name] = part.shape
    plain = model.get_encoder()(sources())
    given = [(read, None), (read, None), (plain, None), (plain, mask)]
    if kind != "identity":
        given += [(BaseModelOutput(plain.last_hidden_state), mask), ((plain.last_hidden_state,), mask)]
    for outputs, attention_mask in given:
        found = generate(model, encoder_outputs=outputs, attention_mask=attention_mask, **way)
        assert torch.equal(found, expected)
    assert {name: part.shape for name, part in read.items()} == shapes


@every_way
def test_embeddings_of_the_source_may_be_given(way):
    model = make_writer()
    embeds, mask = model.get_input_embeddings()(sources()), sources() != 0
    found = generate(model, inputs_embeds=embeds, attention_mask=mask, **way)
    assert torch.equal(found, generate(model, sources(), **way))


@some_units
@some_kinds
@pytest.mark.parametrize("beams", [1, 3])
def test_prompts_of_the_decoder_are_gone_on_from_as_alone(unit, kind, beams):
    model = make_writer(**unit, **KINDS[kind])
    prompts = torch.tensor([[1, 4, 5, 6], [0, 0, 1, 3], [0, 0, 0, 1], [0, 1, 7, 8]])
    options = {"num_beams": beams, "max_new_tokens": 5, "max_length": None}
    mask = (prompts != 0).long()
    found = generate(model, sources(), decoder_input_ids=prompts, decoder_attention_mask=mask, **options)
    for row, source, prompt in zip(found, rows(), prompts, strict=True):
        alone = generate(model, source, decoder_input_ids=prompt[prompt != 0][None], **options)
        assert without_padding(row[4:]) == without_padding(alone[0, (prompt != 0).sum() :])
    assert torch.equal(found[:, :4], prompts)


def test_a_prompt_without_a_start_token_gets_one():
    model = make_writer()
    prompts = torch.tensor([[4, 5]] * 4)
    whole = torch.tensor([[1, 4, 5]] * 4)
    found = [generate(model, sources(), decoder_input_ids=ids) for ids in (prompts, whole)]
    assert torch.equal(*found)


@some_kinds
def test_a_generation_goes_on_from_its_state(kind):
    model = make_writer(**KINDS[kind])
    model.generation_config.eos_token_id = None
    options = {"return_dict_in_generate": True, "max_new_tokens": 4, "max_length": None}
    first = generate(model, sources(), **options)
    again = generate(model, sources(), decoder_input_ids=first.sequences, cache=first.cache, **options)
    assert torch.equal(again.sequences, generate(model, sources(), max_length=LENGTH))


# What comes out


@some_kinds
@pytest.mark.parametrize("beams", [1, 3])
def test_a_dictionary_has_weights_of_attention_and_the_state_by_both_names(kind, beams):
    model = make_writer(**KINDS[kind])
    options = {"output_attentions": True, "output_hidden_states": True, "output_scores": True}
    output = generate(model, sources(), return_dict_in_generate=True, num_beams=beams, **options)
    assert output.cache is output.past_key_values is output["cache"]
    assert isinstance(output.cache, RNNCache) and output.cache.layers[0].keys.shape == (4 * beams, 8)
    assert len(output.encoder_hidden_states) == 1 + model.config.num_encoder_layers
    assert output.encoder_hidden_states[0].shape == (4, 5, 6)
    heads = model.config.attention_heads
    if model.config.attention is not None:
        assert output.cross_attentions[0][0].shape == (4 * beams, heads, 1, 5)
        weights = output.cross_attentions[0][0][::beams]
        assert (weights[:, 0, 0][sources() == 0] == 0).all() and torch.allclose(
            weights.sum(-1), torch.ones(()).double()
        )


@some_kinds
@pytest.mark.parametrize("beams", [1, 3])
def test_scores_of_transitions_add_up(kind, beams):
    model = make_writer(**KINDS[kind])
    options = {"return_dict_in_generate": True, "output_scores": True, "length_penalty": 0.0}
    output = generate(model, sources(), num_beams=beams, **options)
    indices = output.beam_indices if beams > 1 else None
    transitions = model.compute_transition_scores(output.sequences, output.scores, indices, normalize_logits=True)
    written = output.sequences
    is_new = (written[:, 1:] == 2).cumsum(1) - (written[:, 1:] == 2).long() == 0
    logits = model(sources(), decoder_input_ids=written[:, :-1]).logits.log_softmax(-1)
    expected = (logits.gather(2, written[:, 1:, None])[..., 0] * is_new).sum(1)
    torch.testing.assert_close((transitions * is_new).sum(1).double(), expected, rtol=1e-4, atol=1e-4)


@some_kinds
def test_sampling_is_of_the_distribution_of_the_model(kind):
    model = make_writer(**KINDS[kind])
    source = sources()[:1]
    drawn = generate(model, source, do_sample=True, top_k=0, num_return_sequences=4000, max_length=3)
    first = model(source, decoder_input_ids=torch.tensor([[1]])).logits[0, 0].softmax(0)
    counts = torch.bincount(drawn[:, 1], minlength=len(first)) / len(drawn)
    assert (counts - first).abs().max() < 0.03
    token = counts.argmax().item()
    chosen = drawn[drawn[:, 1] == token][:, 2]
    second = model(source, decoder_input_ids=torch.tensor([[1, token]])).logits[0, 1].softmax(0)
    if token != 2:
        assert (torch.bincount(chosen, minlength=len(first)) / len(chosen) - second).abs().max() < 0.08


def test_processors_criteria_and_streamers_are_those_of_transformers(capsys):
    model = make_writer()

    class Tokenizer:
        def decode(self, ids, **_):
            return " ".join(map(str, torch.as_tensor(ids).tolist()))

    source = sources()[:1]
    first = generate(model, source)[0, 1].item()
    assert generate(model, source, suppress_tokens=[first])[0, 1] != first
    assert generate(model, source, min_length=LENGTH).shape == (1, LENGTH)
    stops = [lambda ids, scores: torch.tensor([ids.shape[1] > 2] * len(ids))]
    assert generate(model, source, stopping_criteria=stops, min_length=LENGTH).shape[1] == 3
    seen = []

    def processor(ids, scores):
        seen.append(ids.shape)
        return scores

    generate(model, sources(), logits_processor=LogitsProcessorList([processor]), num_beams=2)
    assert seen[0] == (8, 1)
    streamed = generate(model, source, streamer=TextStreamer(Tokenizer()))
    assert capsys.readouterr().out.split() == [str(token) for token in streamed[0].tolist()]


def test_what_cannot_be_is_refused_by_name():
    model = make_writer()
    for options in (
        {"assistant_model": model},
        {"prompt_lookup_num_tokens": 3},
        {"generation_config": GenerationConfig(prompt_lookup_num_tokens=3)},
    ):
        with pytest.raises(ValueError, match="assisted generation"):
            generate(model, sources(), **options)
    with pytest.raises(ValueError, match="cache_implementation='quantized'"):
        generate(model, sources(), cache_implementation="quantized")
    with pytest.raises(ValueError, match="`input_ids`"):
        generate(model)


def test_training_mode_generates_with_dropout():
    model = make_writer(output_dropout=0.5).train()
    assert not torch.equal(generate(model, sources(), seed=1), generate(model, sources(), seed=2))

"""The runner of exported models: what RNNForCausalLM gives, in every call, and what it cannot do said in words."""

import copy
import logging
import pickle
import sys
from functools import cache
from itertools import product

import numpy as np
import onnxruntime
import pytest
import torch
from networks import make_words_depend_on_the_past
from onnxruntime.quantization import quantize_dynamic
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, TextStreamer, pipeline

from rnn_hf import RNNCache, RNNConfig
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.evaluation import evaluate
from rnn_hf.models.cache_rnn import identity_of
from rnn_hf.onnx import model as onnx_model
from rnn_hf.onnx.export import ROUNDING, TOLERANCE, difference
from rnn_hf.onnx.graph import build_graph, untie
from rnn_hf.onnx.model import RNNONNXForCausalLM
from rnn_hf.scoring import score


PAD = 0
IDS = torch.randint(1, 11, (4, 6), generator=torch.Generator().manual_seed(0))
MASKS = {
    "none": None,
    "left": torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]]),
    "right": torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]),
    "between": torch.tensor([[1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 0]]),
    "one-row-empty": torch.tensor([[0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]]),
    "longer": torch.cat([torch.ones(4, 3, dtype=torch.long), (IDS > 4).long()], dim=1),
}
CLOSE = {"atol": TOLERANCE, "rtol": TOLERANCE}


def write_folder(folder, model, last_logits_only=False):
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(build_graph(model, last_logits_only).SerializeToString())
    model.config.to_json_file(folder / "config.json")
    model.generation_config.save_pretrained(folder)


@pytest.fixture(scope="module")
def make_pair(make_model, tmp_path_factory):
    """A model whose words hang on what came before, and the runner of its graph; each made once, and copied."""

    @cache
    def make(cell, last_logits_only):
        sizes = {"embedding_size": 6, "hidden_size": 8, "tie_word_embeddings": False}
        model = make_model(dict(cell), seed=3, dtype=torch.float32, **sizes)
        model.generation_config.pad_token_id = PAD
        make_words_depend_on_the_past(model)
        folder = tmp_path_factory.mktemp("onnx")
        write_folder(folder, model, last_logits_only)
        return model, RNNONNXForCausalLM.from_pretrained(folder)

    def make_copy(cell, last_logits_only):
        model, runner = make(tuple(cell.items()), last_logits_only)
        return model, copy.copy(runner)

    return make_copy


@pytest.fixture
def pair(make_pair, cell):
    """With all logits."""
    return make_pair(cell, False)


@pytest.fixture(params=["all", "last"])
def either(make_pair, cell, request):
    """With all logits, and with those of the last position."""
    return make_pair(cell, request.param == "last")


@pytest.fixture
def folder(make_model, tmp_path):
    """An exported LSTM, with all logits."""
    write_folder(tmp_path / "onnx", make_model({"cell_type": "lstm"}, dtype=torch.float32))
    return tmp_path / "onnx"


@pytest.fixture
def close(pair):
    """What the exporter allows: so many times what the model itself is off in float32, measured on long rows."""
    model, _ = pair
    ids = torch.randint(1, 11, (8, 64), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        single, exact = (network(ids).logits.log_softmax(-1) for network in (model, copy.deepcopy(model).double()))
    allowed = max(TOLERANCE, ROUNDING * difference(single.numpy(), exact.numpy()))
    return {"atol": allowed, "rtol": allowed}


@pytest.fixture
def assert_same(close, assert_same_state):
    """`assert_same(theirs, ours)`: logits and state."""

    def compare(theirs, ours):
        torch.testing.assert_close(ours.logits, theirs.logits, **close)
        assert_same_state(ours.cache, theirs.cache)

    return compare


@pytest.fixture
def assert_same_state(close):
    """`assert_same_state(ours, theirs)`: their lengths too."""

    def compare(ours, theirs):
        assert ours.get_seq_length() == theirs.get_seq_length()
        for layer, expected in zip(ours.layers, theirs.layers, strict=True):
            torch.testing.assert_close(layer.keys, expected.keys, **close)
            assert (layer.values is None) == (expected.values is None)
            if layer.values is not None:
                torch.testing.assert_close(layer.values, expected.values, **close)

    return compare


# Copies


def test_a_pickle_and_a_copy_are_the_same_runner(pair, tmp_path, monkeypatch):
    _, runner = pair
    runner.generation_config.max_new_tokens = 8
    expected = runner.generate(IDS)
    runner.decodes_directly = False
    pickled = pickle.dumps(runner)
    monkeypatch.chdir(tmp_path)
    for other in (pickle.loads(pickled), copy.deepcopy(runner), copy.copy(runner)):
        assert other.identity == runner.identity and not other.decodes_directly
        assert torch.equal(other.generate(IDS), expected)
        assert torch.equal(other(IDS, MASKS["left"]).logits, runner(IDS, MASKS["left"]).logits)
    assert copy.copy(runner)._session is runner._session


def test_a_pickle_does_not_open_another_file_than_it_was_made_of(folder, make_model):
    pickled = pickle.dumps(RNNONNXForCausalLM.from_pretrained(folder))
    write_folder(folder, make_model({"cell_type": "lstm"}, seed=1, dtype=torch.float32))
    with pytest.raises(ValueError, match=r"model\.onnx is no longer the file of the runner that was pickled"):
        pickle.loads(pickled)
    (folder / "model.onnx").unlink()
    with pytest.raises(OSError, match=r"model\.onnx does not load"):
        pickle.loads(pickled)


# One call


@torch.no_grad()
def test_logits_and_state_are_those_of_the_model_whatever_the_padding_and_the_state_before(either, assert_same):
    for mask, is_carried in product(MASKS.values(), (False, True)):
        results = []
        for network in either:
            state = RNNCache(network.config)
            if is_carried:
                network(IDS.flip(0), cache=state)
            outputs = network(IDS, mask, cache=state)
            assert outputs.cache is state and outputs.loss is None
            results.append(outputs)
        assert_same(*results)


@torch.no_grad()
def test_the_positions_asked_for_are_those_of_the_model(either, assert_same):
    for mask in MASKS.values():
        for keep in (1, 2, 9, torch.tensor([0, 3]), torch.tensor([[1, 2]] * 4), IDS > 5):
            assert_same(*(network(IDS, mask, logits_to_keep=keep) for network in either))


@torch.no_grad()
def test_the_loss_is_that_of_the_model_at_once_and_in_pieces(either, monkeypatch, close, assert_same):
    for mask in MASKS.values():
        labels = IDS if mask is None else IDS.masked_fill(mask[:, -6:] == 0, -100)
        for options in ({"labels": labels}, {"shift_labels": labels}, {"labels": labels, "num_items_in_batch": 7}):
            theirs, ours = (network(IDS, mask, **options) for network in either)
            assert_same(theirs, ours)
            with monkeypatch.context() as patch:
                patch.setattr(onnx_model, "LARGEST_LOGITS", 2 * 4 * 11)  # two positions at a time
                alone = either[1](IDS, mask, skip_logits=True, use_cache=False, **options)
            assert alone.logits is None and alone.cache is None
            for outputs in (ours, alone):
                torch.testing.assert_close(outputs.loss, theirs.loss, **close)


@pytest.mark.parametrize(
    "head",
    [{"num_softmaxes": 3}, {"num_softmaxes": 2, "last_hidden_size": 7}, {"output_projection_size": 3}, {}],
)
@pytest.mark.parametrize("last", [False, True])
@torch.no_grad()
def test_every_head_shows_the_state_before_the_first_token_as_the_model_does(make_model, tmp_path, head, last):
    model = make_model({"cell_type": "gru"}, dtype=torch.float32, **head)
    write_folder(tmp_path / "onnx", model, last)
    runner = RNNONNXForCausalLM.from_pretrained(tmp_path / "onnx")
    for mask in (MASKS["left"], MASKS["one-row-empty"], torch.zeros_like(IDS)):
        torch.testing.assert_close(runner(IDS, mask).logits, model(IDS, mask).logits, **CLOSE)


@pytest.mark.parametrize("pieces", [1, 3, 64])
@torch.no_grad()
def test_windows_run_in_pieces_give_what_they_give_at_once(either, pieces, monkeypatch, assert_same):
    monkeypatch.setattr(onnx_model, "LARGEST_LOGITS", pieces * 4 * 11)
    for mask, keep in product(MASKS.values(), (0, 1, 4)):
        assert_same(*(network(IDS, mask, logits_to_keep=keep) for network in either))


class Counting:
    """A session that notes how many tokens it is given."""

    def __init__(self, session):
        self.session, self.shapes = session, []

    def run(self, names, feed):
        self.shapes.append(feed["input_ids"].shape)
        return self.session.run(names, feed)


def test_a_padded_batch_costs_its_real_tokens_and_rows_run_together(either):
    _, runner = either
    session = runner._session
    for mask in list(MASKS.values())[1:]:
        runner._session = counting = Counting(session)
        mask = mask[:, -6:]
        runner(IDS, mask, logits_to_keep=1)
        assert sum(rows * steps for rows, steps in counting.shapes) == mask.sum()
        assert len(counting.shapes) <= len(set((mask.sum(1) - 1).tolist())) + 1
        assert counting.shapes[-1] == ((mask.sum(1) > 0).sum(), 1)


def test_what_the_model_refuses_is_refused_alike(pair):
    model, runner = pair
    other = RNNCache(RNNConfig(num_hidden_layers=2))
    for layer in other.layers:
        layer.lazy_initialization(torch.zeros(4, 1), torch.zeros(4, 1))
    short = RNNCache(model.config)
    model(IDS[:2], cache=short)
    for arguments in (
        {"input_ids": IDS[0]},
        {"input_ids": IDS[:, :0]},
        {"input_ids": IDS, "attention_mask": torch.ones(4, 5)},
        {"input_ids": IDS, "cache": RNNCache(RNNConfig(num_hidden_layers=3))},
        {"input_ids": IDS, "cache": DynamicCache()},
        {"input_ids": IDS, "cache": other},
        {"input_ids": IDS, "cache": short},
        {"input_ids": IDS, "labels": IDS, "logits_to_keep": 1},
        {"input_ids": IDS, "skip_logits": True},
        {"input_ids": IDS, "head_mask": torch.ones(1)},
        {"input_ids": IDS, "position_ids": torch.arange(6)[None] % 3},
        {"input_ids": IDS, "seq_idx": torch.zeros(1)},
        {"input_ids": IDS + 5},
        {"input_ids": IDS - 5},
    ):
        with pytest.raises((ValueError, IndexError)) as theirs:
            model(**arguments)
        with pytest.raises(theirs.type) as ours:
            runner(**arguments)
        words = str(theirs.value).split(":")[0]
        assert theirs.type is IndexError or words == str(ours.value).split(":")[0]


def test_what_a_graph_has_not_is_refused_with_words(pair):
    model, runner = pair
    embeds = model.get_input_embeddings()(IDS)
    options = {"max_new_tokens": 2, "do_sample": False}
    for call in (
        lambda: runner(inputs_embeds=embeds),
        lambda: runner.generate(inputs_embeds=embeds, **options),
    ):
        with pytest.raises(ValueError, match="`inputs_embeds` is not supported: the graph begins with token ids"):
            call()
    for call in (
        lambda: runner(IDS, output_hidden_states=True),
        lambda: runner.generate(IDS, output_hidden_states=True, return_dict_in_generate=True, **options),
    ):
        with pytest.raises(ValueError, match="`output_hidden_states` is not supported: the graph gives logits and"):
            call()
    with pytest.raises(ValueError, match="not trained"):
        runner.train()
    with pytest.raises(ValueError, match="pass device='cpu', not cuda:0"):
        runner.to("cuda:0")
    with pytest.raises(ValueError, match="pass `input_ids`"):
        runner()
    assert runner.train(False) is runner.eval() is runner.to("cpu") and not runner.training


# The state


@torch.no_grad()
def test_a_state_goes_from_the_model_to_the_runner_and_back_in_memory_and_by_file(
    pair, tmp_path, close, assert_same_state
):
    model, runner = pair
    assert identity_of(runner) == identity_of(model)
    expected = model(IDS).cache.restart()
    for first, second in (pair, pair[::-1]):
        state = first(IDS[:, :2]).cache
        state.save(tmp_path / "state", first)
        copied = state.copy()
        second(IDS[:, 2:], cache=state)
        assert_same_state(state.restart(), expected)
        loaded = RNNCache.load(tmp_path / "state", second)
        second(IDS[:, 2:], cache=loaded)
        assert_same_state(loaded.restart(), expected)
        joined = RNNCache.cat([copied.rows([2]), copied.fork(2).rows([3])])
        outputs = first(IDS[[2, 1], 2:], cache=joined)
        torch.testing.assert_close(outputs.logits, second(IDS[[2, 1]]).logits[:, 2:], **close)
    for other in copy.deepcopy(pair[0]), copy.copy(runner):
        if other.__class__ is model.__class__:
            other.lm_head.bias.add_(1)
        else:
            other.identity = "0" * 64
        with pytest.raises(ValueError, match="another model"):
            RNNCache.load(tmp_path / "state", other)


@torch.no_grad()
def test_a_state_by_file_goes_over_between_types(make_model, cell, tmp_path):
    model = make_model(cell)  # in float64, of which the graph is float32
    write_folder(tmp_path / "onnx", model)
    runner = RNNONNXForCausalLM.from_pretrained(tmp_path / "onnx")
    expected = model(IDS).logits[:, 2:]
    for first, second in ((model, runner), (runner, model)):
        first(IDS[:, :2]).cache.save(tmp_path / "state", first)
        logits = second(IDS[:, 2:], cache=RNNCache.load(tmp_path / "state", second)).logits
        assert logits.dtype == second.dtype
        torch.testing.assert_close(logits.double(), expected, **CLOSE)


def test_a_state_that_was_given_is_never_written_to(pair):
    _, runner = pair
    state = runner(IDS).cache
    before, kept = state.copy(), [layer.keys for layer in state.layers]
    runner(IDS, MASKS["between"], cache=state)
    for tensor, layer, new in zip(kept, before.layers, state.layers, strict=True):
        assert torch.equal(tensor, layer.keys) and not torch.equal(new.keys, layer.keys)


# generate()


LEFT = MASKS["left"]
OPTIONS = {
    "greedy": {},
    "without-state": {"use_cache": False},
    "end-tokens": {"eos_token_id": [3, 7]},
    "processors": {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "bad_words_ids": [[4], [5, 6]]},
    "function": {"prefix_allowed_tokens_fn": lambda row, ids: [1 + (len(ids) + row) % 10, 2]},
    "criterion": {"stopping_criteria": [lambda ids, scores: ids[:, -1] == 4], "eos_token_id": 3},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "beams-end-tokens": {"num_beams": 4, "eos_token_id": [3], "length_penalty": 2.0},
    "beams-without-state": {"num_beams": 2, "use_cache": False},
    "sampling": {"do_sample": True, "top_k": 0},
    "sampling-top-k": {"do_sample": True, "top_k": 5, "top_p": 0.9, "temperature": 0.8, "num_return_sequences": 3},
    "beam-sampling": {"do_sample": True, "num_beams": 3, "num_return_sequences": 2},
    "chunks": {"prefill_chunk_size": 2},
    "chunks-of-one": {"prefill_chunk_size": 1, "num_beams": 2},
    "static": {"cache_implementation": "static"},
}


def generated(network, ids=IDS, mask=LEFT, **options):
    torch.manual_seed(0)
    options = {"max_new_tokens": 12, "do_sample": False, **options}
    return network.generate(ids * mask, attention_mask=mask, **options)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.usual_cells("lstm")
def test_generate_gives_the_tokens_of_the_model_on_rows_of_many_lengths(pair, options):
    model, runner = pair
    expected = generated(model, **options)
    assert len(set(expected[:, 6:].flatten().tolist())) > 3
    assert torch.equal(generated(runner, **options), expected)
    assert torch.equal(generated(runner, mask=LEFT.flip(1), **options), generated(model, mask=LEFT.flip(1), **options))


def test_greedy_search_and_sampling_take_the_light_loop_with_one_run_a_token(either):
    _, runner = either
    runner._session = counting = Counting(runner._session)
    light = generated(runner)
    assert counting.shapes[-11:] == [(4, 1)] * 11
    assert len(counting.shapes) == len(set((LEFT.sum(1) - 1).tolist()) - {0}) + 1 + 11
    runner.decodes_directly = False
    assert torch.equal(light, generated(runner))


@pytest.mark.parametrize("num_beams", [1, 2])
def test_the_dictionary_is_that_of_the_model(pair, num_beams, close):
    theirs, ours = (
        generated(
            network, num_beams=num_beams, return_dict_in_generate=True, output_scores=True, output_logits=True,
            eos_token_id=3,
        )
        for network in pair
    )  # fmt: skip
    assert torch.equal(ours.sequences, theirs.sequences)
    for name in ("scores", "logits"):
        for actual, expected in zip(ours[name], theirs[name], strict=True):
            torch.testing.assert_close(actual, expected, **close)
    for layer, expected in zip(ours.cache.layers, theirs.cache.layers, strict=True):
        torch.testing.assert_close(layer.keys, expected.keys, **close)


@pytest.mark.parametrize("cache_class", [RNNCache, DynamicCache])
def test_a_continuation_by_either_goes_on_from_a_state_of_either(pair, cache_class):
    expected = generated(pair[0])
    for first, second in (pair, pair[::-1]):
        cache = RNNCache(first.config) if cache_class is RNNCache else DynamicCache(config=first.config)
        before = generated(first, max_new_tokens=4, cache=cache)
        mask = torch.cat([LEFT, torch.ones(4, 4, dtype=torch.long)], dim=1)
        after = second.generate(before, attention_mask=mask, cache=cache, max_new_tokens=8, do_sample=False)
        assert torch.equal(after, expected)


def test_streamers_and_stop_strings_see_what_they_see_of_the_model(pair):
    class Recorder(TextStreamer):
        def __init__(self):
            self.tokens = []

        def put(self, value):
            self.tokens += value.flatten().tolist()

        def end(self):
            self.tokens.append("end")

    tokenizer, seen = build_tokenizer(["a b c d e f g h i"], kind="char"), []
    for network in pair:
        recorder = Recorder()
        options = {"ids": IDS[2:3], "mask": LEFT[2:3]}
        tokens = generated(network, streamer=recorder, **options)
        assert recorder.tokens == [*tokens[0].tolist(), "end"]
        word = tokenizer.decode(tokens[0, 9:10])
        seen += [tokens[0].tolist(), generated(network, stop_strings=[word], tokenizer=tokenizer, **options).tolist()]
    assert seen[:2] == seen[2:] and len(seen[1][0]) <= 10


@pytest.mark.usual_cells("lstm")
def test_speculative_decoding_gives_the_greedy_continuation_with_any_draft(either, make_model, assert_same_state):
    model, runner = either
    draft = make_model({"cell_type": "gru"}, seed=9, embedding_size=4, hidden_size=4, dtype=torch.float32)
    draft.generation_config.pad_token_id = PAD
    ids = IDS[2:3].repeat(1, 4)
    options = {"ids": ids, "mask": torch.ones_like(ids), "max_new_tokens": 30}
    expected = generated(model, **options)
    assert torch.equal(generated(runner, assistant_model=draft, **options), expected)
    assert torch.equal(generated(runner, assistant_model=model, **options), expected)
    assert torch.equal(generated(model, assistant_model=runner, **options), expected)
    outputs = generated(runner, prompt_lookup_num_tokens=3, return_dict_in_generate=True, **options)
    assert torch.equal(outputs.sequences, expected)
    seen = outputs.cache.get_seq_length()
    with torch.no_grad():
        assert_same_state(outputs.cache, model(expected[:, :seen]).cache)


def test_a_runner_drafts_for_a_transformer(pair):
    _, runner = pair
    config = GPT2Config(vocab_size=11, n_positions=64, n_embd=8, n_layer=1, n_head=2, initializer_range=1.0,
                        bos_token_id=None, eos_token_id=None)  # fmt: skip
    torch.manual_seed(0)
    transformer = GPT2LMHeadModel(config).eval()
    transformer.generation_config.pad_token_id = PAD
    options = {"ids": IDS[2:3], "mask": LEFT[2:3], "max_new_tokens": 20}
    assert torch.equal(generated(transformer, assistant_model=runner, **options), generated(transformer, **options))


# What is built on a model


def test_scores_and_perplexity_are_those_of_the_model(pair, close):
    tokenizer = build_tokenizer(["a b c d e f g h i"])
    texts = ["a b c", "", "d", "e f g h i a b c", "i h"]
    for options in ({"batch_size": 3, "window": 2}, {"carry_state": True, "window": 3}):
        theirs, ours = ([text.surprisals for text in score(net, tokenizer, texts, **options)] for net in pair)
        for actual, expected in zip(ours, theirs, strict=True):
            assert actual == pytest.approx(expected, abs=close["atol"], rel=close["rtol"])
    tokens = np.random.default_rng(0).integers(0, 11, 43)
    for columns in (1, 4):
        theirs, ours = (evaluate(network, tokens, 0, columns, 8) for network in pair)
        assert ours.loss == pytest.approx(theirs.loss, abs=close["atol"]) and ours.num_tokens == theirs.num_tokens


def test_the_pipeline_generates_what_it_generates_with_the_model_and_says_nothing(pair, monkeypatch):
    tokenizer = build_tokenizer(["a b c d e f g h i"])
    prompts, texts, said = ["a b", "c d e f", "i"], [], []
    monkeypatch.setattr(logging.getLogger("transformers.pipelines.base"), "error", said.append)
    for network in pair:
        generator = pipeline("text-generation", model=network, tokenizer=tokenizer, device="cpu")
        texts.append(generator(prompts, batch_size=3, max_new_tokens=6, do_sample=False))
    assert texts[0] == texts[1] and not said


# Loading


def test_a_repository_of_the_hub_is_loaded_from_the_cache_offline(folder, tmp_path, make_model):
    commit = "a" * 40
    repository = tmp_path / "cache" / "models--me--words"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "v1").write_text(commit)
    (repository / "snapshots").mkdir()
    folder.rename(repository / "snapshots" / commit)
    options = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    runner = RNNONNXForCausalLM.from_pretrained("me/words", revision="v1", **options)
    assert identity_of(runner) == identity_of(make_model({"cell_type": "lstm"}, dtype=torch.float32))
    with pytest.raises(OSError, match="find them in the cached files"):
        RNNONNXForCausalLM.from_pretrained("me/words", revision="v2", **options)


def test_the_generation_config_of_the_folder_counts_and_may_be_missing(folder, make_model):
    model = make_model({"cell_type": "lstm"}, dtype=torch.float32)
    model.generation_config.max_new_tokens = 5
    write_folder(folder, model)
    assert RNNONNXForCausalLM.from_pretrained(folder).generation_config.max_new_tokens == 5
    (folder / "generation_config.json").unlink()
    assert RNNONNXForCausalLM.from_pretrained(folder).generation_config.max_new_tokens is None


def test_what_does_not_load_is_refused_with_words(folder, make_model, tmp_path):
    load = RNNONNXForCausalLM.from_pretrained
    with pytest.raises(OSError, match="model_int8.onnx"):
        load(folder, file_name="model_int8.onnx")
    with pytest.raises(OSError, match="nowhere"):
        load(tmp_path / "nowhere", local_files_only=True)
    make_model({"cell_type": "lstm"}, hidden_size=6, tie_word_embeddings=False).config.to_json_file(
        folder / "config.json"
    )
    with pytest.raises(ValueError, match=r"not the graph of its config.json.*'past.0.hidden': \['batch', 6\]"):
        load(folder)
    GPT2Config().to_json_file(folder / "config.json")
    with pytest.raises(ValueError, match="holds a gpt2, which is no model of this package"):
        load(folder)
    model = make_model({"cell_type": "gru"}, dtype=torch.float32)
    write_folder(folder, model)
    graph = build_graph(model)
    graph.metadata_props.clear()
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(ValueError, match="not written by rnn_hf's exporter"):
        load(folder)
    content = build_graph(model).SerializeToString()
    for damaged in (b"", content[:-100], b"no graph"):
        (folder / "model.onnx").write_bytes(damaged)
        with pytest.raises(OSError, match="model.onnx does not load"):
            load(folder)


def test_providers_go_by_name_and_one_that_is_not_there_is_refused_with_what_to_install(folder, monkeypatch):
    load = RNNONNXForCausalLM.from_pretrained
    with pytest.raises(ValueError, match="`provider` must be one of cpu, cuda, tensorrt, got 'gpu'"):
        load(folder, provider="gpu")
    for provider, package in (("cuda", "onnxruntime-gpu"), ("tensorrt", "onnxruntime-gpu, and TensorRT")):
        with pytest.raises(ValueError, match=f"'{provider}' .*CPUExecutionProvider.*Install {package} in place"):
            load(folder, provider=provider)
    # As where a library of CUDA is missing: ONNX Runtime goes on without the provider.
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    with pytest.raises(ValueError, match="`provider` 'cuda' did not start"):
        load(folder, provider="cuda")
    with pytest.raises(ValueError, match="`threads` must be at least 1"):
        load(folder, threads=0)


def test_the_provider_is_said_once(folder, caplog):
    logging.Logger.warning_once.cache_clear()
    for _ in range(3):
        RNNONNXForCausalLM.from_pretrained(folder, threads=2)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["ONNX Runtime runs on CPUExecutionProvider, threads of the CPU: 2"]


def test_without_onnxruntime_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'rnn_hf\[onnx\]'"):
        RNNONNXForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("cell_type", ["lstm", "gru"])
@torch.no_grad()
def test_a_quantised_graph_is_run_as_the_same_model(make_model, folder, cell_type):
    model = make_model({"cell_type": cell_type}, dtype=torch.float32)
    write_folder(folder, model)
    graph = build_graph(model)
    untie(graph)
    quantize_dynamic(graph, folder / "model_int8.onnx", per_channel=True, reduce_range=True)
    runner = RNNONNXForCausalLM.from_pretrained(folder, file_name="model_int8.onnx")
    assert runner.identity == identity_of(model)
    for mask in (None, MASKS["left"]):
        expected, quantized = (network(IDS, mask).logits for network in (model, runner))
        torch.testing.assert_close(quantized, expected, atol=0.25, rtol=0)  # weights have 7 bits
        assert not torch.equal(quantized, expected)

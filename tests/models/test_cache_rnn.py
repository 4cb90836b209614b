"""The recurrent state as a transformers cache: what generation does to it, what it refuses, that it never writes."""

import copy
import pickle
import re

import pytest
import torch
from transformers import DynamicCache, StaticCache

from rnn_hf import RecurrentStateLayer, RNNCache


def some_ids(batch: int = 2, time: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randint(11, (batch, time), generator=torch.Generator().manual_seed(seed))


def states_of(cache) -> list[torch.Tensor]:
    return [part for layer in cache.layers for part in (layer.keys, layer.values) if part is not None]


def filled(model, batch: int = 2, **kwargs) -> RNNCache:
    return model(some_ids(batch), **kwargs).cache


@pytest.fixture(params=[RNNCache, DynamicCache, StaticCache], ids=lambda cache_class: cache_class.__name__)
def new_cache(request):
    """`new_cache(config)`: an empty state, made by this package and by the two classes that generate() makes."""

    def make(config):
        if request.param is RNNCache:
            return RNNCache(config)
        return request.param(config=config, **({"max_cache_len": 8} if request.param is StaticCache else {}))

    return make


# Going on from a state


def test_continuation_equals_the_whole_sequence(make_model, cell, new_cache):
    model, ids = make_model(cell), some_ids(2, 9)
    whole = model(ids)
    cache = new_cache(model.config)
    first = model(ids[:, :4], cache=cache)
    assert first.cache is cache
    # A step more than StaticCache's max_cache_len: the state has one size at every length.
    second = model(ids[:, 4:], cache=cache)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole.logits)
    for got, expected in zip(states_of(cache), states_of(whole.cache), strict=True):
        torch.testing.assert_close(got, expected)


def test_state_made_by_transformers_has_our_layers(make_model, cell, new_cache):
    cache = new_cache(make_model(cell, num_hidden_layers=3).config)
    assert [type(layer) for layer in cache.layers] == [RecurrentStateLayer] * 3


def test_state_has_the_width_of_each_layer_and_a_memory_for_lstm_only(make_model, cell):
    model = make_model(cell)
    for layer, (_, hidden_size) in zip(filled(model, 3).layers, model.config.layer_sizes, strict=True):
        assert layer.keys.shape == (3, model.config.projection_size or hidden_size)
        if cell["cell_type"] == "lstm":
            assert layer.values.shape == (3, hidden_size)
        else:
            assert layer.values is None


def test_state_is_that_of_the_last_output(make_model, cell):
    model = make_model(cell)
    output = model(some_ids(), output_hidden_states=True)
    for layer, hidden in zip(output.cache.layers, output.hidden_states[1:], strict=True):
        torch.testing.assert_close(layer.keys, hidden[:, -1])


def test_use_cache_decides_whether_a_state_is_returned(make_model, cell):
    model = make_model(cell)
    assert model(some_ids(), use_cache=False).cache is None
    assert isinstance(model(some_ids()).cache, RNNCache)
    model = make_model(cell, use_cache=False)
    assert model(some_ids()).cache is None
    assert isinstance(model(some_ids(), use_cache=True).cache, RNNCache)


def test_without_use_cache_a_given_state_is_read_and_left_alone(make_model, cell):
    model, ids = make_model(cell), some_ids(2, 6)
    cache = model(ids[:, :3]).cache
    before = [part.clone() for part in states_of(cache)]
    logits = model(ids[:, 3:], cache=cache, use_cache=False).logits
    torch.testing.assert_close(logits, model(ids).logits[:, 3:])
    assert cache.get_seq_length() == 3
    assert all(torch.equal(a, b) for a, b in zip(before, states_of(cache), strict=True))


# Rows


def test_reorder_selects_and_repeats_rows(make_model, cell, new_cache):
    model = make_model(cell)
    cache = new_cache(model.config)
    model(some_ids(3), cache=cache)
    before = [part.clone() for part in states_of(cache)]
    cache.reorder_cache(torch.tensor([2, 2, 0]))
    for got, old in zip(states_of(cache), before, strict=True):
        assert torch.equal(got, torch.stack([old[2], old[2], old[0]]))
    assert cache.get_seq_length() == 5


def test_repeat_interleave_puts_copies_side_by_side(make_model, cell, new_cache):
    model = make_model(cell)
    cache = new_cache(model.config)
    model(some_ids(2), cache=cache)
    before = [part.clone() for part in states_of(cache)]
    cache.batch_repeat_interleave(3)
    for got, old in zip(states_of(cache), before, strict=True):
        assert torch.equal(got, torch.stack([old[0]] * 3 + [old[1]] * 3))


@pytest.mark.parametrize(
    "indices", [torch.tensor([2, 0]), torch.tensor([True, False, True]), [2, 0], torch.tensor([1])], ids=str
)
def test_select_indices_takes_positions_and_masks(make_model, cell, indices):
    cache = filled(make_model(cell), 3)
    before = [part.clone() for part in states_of(cache)]
    cache.batch_select_indices(indices)
    for got, old in zip(states_of(cache), before, strict=True):
        assert torch.equal(got, old[indices])
        assert got.is_contiguous()
    assert cache.layers[0].batch_size == len(before[0][indices])


def test_selected_rows_go_on_as_those_rows_alone(make_model, cell):
    model, ids = make_model(cell), some_ids(3, 7)
    cache = model(ids[:, :4]).cache
    cache.batch_select_indices(torch.tensor([2, 0]))
    continued = model(ids[[2, 0], 4:], cache=cache).logits
    torch.testing.assert_close(continued, model(ids[[2, 0]]).logits[:, 4:])


def test_row_operations_on_an_empty_state_do_nothing(make_model, cell, new_cache):
    model = make_model(cell)
    cache = new_cache(model.config)
    cache.reorder_cache(torch.tensor([1, 0]))
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([0]))
    torch.testing.assert_close(model(some_ids(), cache=cache).logits, model(some_ids()).logits)


def test_row_operations_keep_the_graph(make_model, cell):
    cache = filled(make_model(cell))
    cache.reorder_cache(torch.tensor([1, 0]))
    cache.batch_repeat_interleave(2)
    assert all(part.requires_grad for part in states_of(cache))


# Lengths


def test_sequence_length_counts_positions_with_padding(make_model, cell, new_cache):
    model = make_model(cell)
    cache = new_cache(model.config)
    assert cache.get_seq_length() == 0
    model(some_ids(2, 4), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]), cache)
    assert cache.get_seq_length() == 4
    model(some_ids(2, 1), cache=cache)
    assert cache.get_seq_length() == 5
    assert cache.get_mask_sizes(3, 0) == (8, 0)


def test_batch_size_is_that_of_the_state_and_none_is_refused(make_model, cell):
    model = make_model(cell)
    assert filled(model, 3).layers[0].batch_size == 3
    with pytest.raises(AttributeError, match="batch size"):
        RNNCache(model.config).layers[0].batch_size  # noqa: B018


def test_reset_makes_the_next_token_the_first(make_model, cell, new_cache):
    model, ids = make_model(cell), some_ids()
    cache = new_cache(model.config)
    model(ids, cache=cache)
    cache.reset()
    assert cache.get_seq_length() == 0 and not states_of(cache)
    torch.testing.assert_close(model(ids, cache=cache).logits, model(ids).logits)


def test_crop_is_refused_with_a_way_out(make_model, cell):
    with pytest.raises(ValueError, match="copy"):
        filled(make_model(cell)).crop(2)


# Types and copies


def test_to_casts_every_part_and_the_model_goes_on(make_model, cell):
    cache = filled(make_model(cell))
    assert cache.to(torch.float32) is cache
    assert {part.dtype for part in states_of(cache)} == {torch.float32}
    single = make_model(cell, dtype=torch.float32)
    assert single(some_ids(), cache=cache).logits.dtype == torch.float32
    assert RNNCache(single.config).to(torch.float16).get_seq_length() == 0


@pytest.mark.parametrize("time", [1, 3])
@pytest.mark.parametrize("padded", [False, True])
def test_a_state_of_another_type_is_cast_and_one_that_fits_is_taken_as_it_is(make_model, cell, time, padded):
    single, ids = make_model(cell, dtype=torch.float32), some_ids()[:, :time]
    mask = torch.ones_like(ids)
    mask[0, 0] = 0 if padded else 1
    cache = filled(make_model(cell))
    expected = single(ids, mask, cache=cache.copy().to(torch.float32))
    output = single(ids, mask, cache=cache)
    torch.testing.assert_close(output.logits, expected.logits)
    assert {part.dtype for part in states_of(output.cache)} == {torch.float32}
    if not padded:
        given, before = [], states_of(cache)
        for layer in single.model.layers:
            layer.register_forward_pre_hook(lambda module, inputs: given.extend(inputs[1:]))
        single(ids, cache=cache)
        assert all(one is other for one, other in zip([p for p in given if p is not None], before, strict=True))


def test_a_state_elsewhere_is_moved_to_the_model(make_model, cell):
    model = make_model(cell).to("meta")
    output = model(some_ids().to("meta"), cache=filled(make_model(cell)))
    assert all(part.is_meta for part in [output.logits, *states_of(output.cache)])


@pytest.mark.parametrize("no_grad", [True, False], ids=["no graph", "inside a graph"])
def test_deepcopy_is_equal_and_independent(make_model, cell, new_cache, no_grad):
    model, ids = make_model(cell), some_ids(2, 8)
    cache = new_cache(model.config)
    with torch.set_grad_enabled(not no_grad):
        model(ids[:, :5], cache=cache)
    kept = copy.deepcopy(cache)
    assert type(kept) is type(cache)
    for copied, original in zip(states_of(kept), states_of(cache), strict=True):
        assert torch.equal(copied, original) and copied.data_ptr() != original.data_ptr()
        assert not copied.requires_grad
    model(ids[:, 5:], cache=cache)  # moves on without the copy
    assert kept.get_seq_length() == 5
    torch.testing.assert_close(model(ids[:, 5:], cache=kept).logits, model(ids).logits[:, 5:])


def test_a_copy_is_a_plain_way_to_go_back(make_model, cell):
    model, ids = make_model(cell), some_ids(1, 6)
    cache = model(ids[:, :3]).cache
    before = copy.deepcopy(cache)
    first = model(ids[:, 3:], cache=cache).logits
    torch.testing.assert_close(model(ids[:, 3:], cache=before).logits, first, rtol=0, atol=0)


def test_a_shallow_copy_goes_on_by_itself_too(make_model, cell):
    model = make_model(cell)
    state = filled(model)
    expected, other = state.copy(), copy.copy(state)
    model(some_ids(), cache=other)
    assert other.get_seq_length() == 10 and state.get_seq_length() == 5
    assert all(map(torch.equal, states_of(state), states_of(expected)))


def test_detached_state_survives_pickle(make_model, cell):
    cache = filled(make_model(cell)).detach()
    loaded = pickle.loads(pickle.dumps(cache))
    assert loaded.get_seq_length() == 5
    assert all(torch.equal(a, b) for a, b in zip(states_of(loaded), states_of(cache), strict=True))


def test_offload_and_prefetch_keep_the_numbers(make_model, cell):
    cache = filled(make_model(cell))
    before = [part.clone() for part in states_of(cache)]
    for layer in cache.layers:
        layer.offload()
        layer.prefetch()
    assert all(torch.equal(a, b) for a, b in zip(states_of(cache), before, strict=True))
    empty = RecurrentStateLayer()
    empty.offload()
    empty.prefetch()
    assert not empty.is_initialized


# What is refused


def test_a_foreign_cache_is_refused_by_name(make_model, cell):
    with pytest.raises(ValueError, match=r"`cache`.*DynamicCache"):
        make_model(cell)(some_ids(), cache=DynamicCache())


def test_a_foreign_cache_of_as_many_layers_is_refused_by_name(make_model, cell):
    foreign = DynamicCache()
    for index in range(2):
        foreign.update(torch.zeros(2, 1, 4, 3), torch.zeros(2, 1, 4, 3), index)
    with pytest.raises(ValueError, match=r"`cache`.*DynamicCache"):
        make_model(cell, num_hidden_layers=2)(some_ids(), cache=foreign)


def test_tuples_of_tensors_are_refused_by_name(make_model, cell):
    with pytest.raises(ValueError, match=r"`cache`.*tuple"):
        make_model(cell)(some_ids(), cache=((torch.zeros(2, 3), torch.zeros(2, 3)),))


@pytest.mark.parametrize("depth", [1, 3])
def test_a_state_of_another_depth_is_refused_by_name(make_model, cell, depth):
    other = filled(make_model(cell, num_hidden_layers=depth))
    with pytest.raises(ValueError, match=rf"`cache`.*{depth}"):
        make_model(cell, num_hidden_layers=2)(some_ids(), cache=other)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_state_of_another_batch_size_is_refused_by_name(make_model, cell, batch):
    model = make_model(cell)
    with pytest.raises(ValueError, match=rf"`cache`.*{batch}.*2"):
        model(some_ids(2), cache=filled(model, batch))


def test_a_refused_state_is_left_as_it_was(make_model, cell):
    model = make_model(cell)
    cache = filled(model, 3)
    before = [part.clone() for part in states_of(cache)]
    with pytest.raises(ValueError):
        model(some_ids(2), cache=cache)
    assert cache.get_seq_length() == 5
    assert all(torch.equal(a, b) for a, b in zip(before, states_of(cache), strict=True))


# Never in place


@pytest.mark.parametrize("grad", [False, True], ids=["no graph", "inside a graph"])
def test_no_tensor_that_was_handed_out_is_ever_written_to(make_model, cell, new_cache, grad):
    model = make_model(cell)
    mask = torch.tensor([[0, 1, 1], [0, 0, 0], [1, 1, 1]])
    cache, handed_out = new_cache(model.config), []

    def remember():
        tensors = states_of(cache)
        handed_out.extend((tensor, tensor.clone(), tensor._version) for tensor in tensors)

    operations = [
        lambda: model(some_ids(3), cache=cache),
        lambda: model(some_ids(3, 1), cache=cache),
        lambda: model(some_ids(3, 3), mask, cache),
        lambda: cache.reorder_cache(torch.tensor([1, 0, 2])),
        lambda: cache.batch_repeat_interleave(2),
        lambda: cache.batch_select_indices(torch.tensor([0, 2, 4])),
        lambda: copy.deepcopy(cache),
        # generate() takes all ids so far and runs those that the state has not seen.
        lambda: model.generate(some_ids(3, cache.get_seq_length() + 2), cache=cache, max_new_tokens=2),
        lambda: [layer.apply(torch.Tensor.detach) for layer in cache.layers],
        lambda: model(some_ids(3), cache=cache),
        lambda: cache.reset(),
    ]
    with torch.set_grad_enabled(grad):
        for operation in operations:
            operation()
            remember()
    assert len(handed_out) > 10
    for tensor, before, version in handed_out:
        assert torch.equal(tensor, before)
        assert tensor._version == version


def test_inputs_are_not_written_to(make_model, cell):
    model, ids = make_model(cell), some_ids(2, 4)
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]])
    embeds = model.get_input_embeddings()(ids).detach()
    tensors = [ids, mask, embeds]
    before = [tensor.clone() for tensor in tensors]
    model(ids, mask, labels=ids).loss.backward()
    model(inputs_embeds=embeds, attention_mask=mask)
    for tensor, old in zip(tensors, before, strict=True):
        assert torch.equal(tensor, old) and tensor._version == 0


@pytest.mark.parametrize(
    ("other", "widths"),
    [
        ({"cell_type": "gru"}, (3, None)),
        ({"cell_type": "lstm", "projection_size": 3}, (3, 5)),
        ({"cell_type": "lstm", "tie_word_embeddings": False}, (5, 5)),
    ],
)
def test_the_state_of_another_network_is_refused(make_model, other, widths):
    ids = torch.tensor([[1, 2]])
    state = make_model(other, num_hidden_layers=1)(ids).cache
    model = make_model({"cell_type": "lstm"}, num_hidden_layers=1)
    with pytest.raises(ValueError, match=re.escape(f"should be (3, 3), are {widths}")):
        model(ids, cache=state)


# A state of a user's own: copied, forked, joined, cut, saved.


def run(model, ids):
    return model(torch.tensor(ids)).cache


def logits_after(model, state, tokens):
    return model(torch.tensor(tokens)[:, None], cache=state.copy()).logits[:, 0]


def test_forked_cut_and_joined_states_go_on_as_the_conversations_they_come_from(make_model, cell):
    model = make_model(cell)
    first, second = run(model, [[1, 2, 3]]), run(model, [[4, 5]])
    alone = [logits_after(model, state, [6]) for state in (first, second)]
    torch.testing.assert_close(logits_after(model, first.fork(3), [6] * 3), alone[0].expand(3, -1))
    joined = RNNCache.cat([first, second, first])
    torch.testing.assert_close(logits_after(model, joined, [6] * 3), torch.cat([*alone, alone[0]]))
    torch.testing.assert_close(logits_after(model, joined.rows([1]), [6]), alone[1])
    torch.testing.assert_close(logits_after(model, joined.rows(torch.tensor([True, False, True])), [6] * 2),
                               alone[0].expand(2, -1))  # fmt: skip
    assert first.get_seq_length() == 3 and first.layers[0].batch_size == 1  # what they were made from stays


def test_a_joined_state_takes_all_that_generate_is_given_as_new(make_model, cell):
    model = make_model(cell)
    texts = [[1, 2, 3], [4, 5, 6]]
    whole = model.generate(torch.tensor([[*text, 7, 8] for text in texts]), max_new_tokens=4, do_sample=False,
                           pad_token_id=0, attention_mask=torch.ones(2, 5, dtype=torch.long))  # fmt: skip
    joined = RNNCache.cat([run(model, [text]) for text in texts])
    found = model.generate(torch.tensor([[7, 8]] * 2), cache=joined, max_new_tokens=4, do_sample=False,
                           pad_token_id=0, attention_mask=torch.ones(2, 2, dtype=torch.long))  # fmt: skip
    assert torch.equal(found, whole[:, 3:])


def test_beams_go_on_from_a_forked_state(make_model, cell):
    model = make_model(cell)
    options = {"num_beams": 3, "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    whole = model.generate(torch.tensor([[1, 2, 3, 7]]), **options)
    found = model.generate(torch.tensor([[7]]), cache=run(model, [[1, 2, 3]]).restart().fork(3), **options)
    assert torch.equal(found, whole[:, 3:])


def test_a_saved_state_is_loaded_by_its_model_and_by_no_other(make_model, cell, tmp_path):
    model, state = make_model(cell), None
    state = run(model, [[1, 2, 3], [4, 5, 6]])
    state.save(tmp_path / "state.safetensors", model)
    loaded = RNNCache.load(tmp_path / "state.safetensors", make_model(cell))
    assert torch.equal(logits_after(model, loaded, [7, 8]), logits_after(model, state, [7, 8]))
    assert loaded.get_seq_length() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
    with pytest.raises(ValueError, match="state of another model"):
        RNNCache.load(tmp_path / "state.safetensors", make_model(cell, seed=1))


def test_an_empty_state_is_neither_saved_nor_joined_and_different_networks_are_not_joined(make_model, tmp_path):
    model, other = make_model({"cell_type": "lstm"}), make_model({"cell_type": "gru"})
    empty = RNNCache(model.config)
    with pytest.raises(ValueError, match="the state is empty"):
        empty.save(tmp_path / "state", model)
    with pytest.raises(ValueError, match="at least one state, each after at least one token"):
        RNNCache.cat([empty])
    with pytest.raises(ValueError, match="different networks"):
        RNNCache.cat([run(model, [[1]]), run(other, [[1]])])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"no tensors", None], ids=["empty", "text", "cut"])
def test_a_file_that_is_no_whole_state_is_refused_by_its_name(make_model, tmp_path, content):
    model, path = make_model({}), tmp_path / "state.safetensors"
    filled(model).save(path, model)
    path.write_bytes(path.read_bytes()[:-8] if content is None else content)
    with pytest.raises(ValueError, match=r"state\.safetensors is not a whole file"):
        RNNCache.load(path, model)

"""Both names of the state work with any transformers, and where a private name is missing the public way is taken."""

import copy
import os
import pickle
import subprocess
import sys
import textwrap
from functools import cache

import pytest
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from rnn_hf import RNNCache, RNNConfig, RNNForCausalLM
from rnn_hf.models import versions_rnn
from rnn_hf.models.generation_rnn import RNNGenerationMixin, check_contract
from rnn_hf.models.versions_rnn import CACHE_NAME, CACHE_NAMES, NEWEST_TRANSFORMERS, warn_if_untested


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_either_name_goes_in_and_either_comes_out(model, name):
    expected = model(torch.cat([IDS, IDS], dim=1)).logits[:, 3:]
    for net in (model, model.model):
        first = net(IDS)
        assert first.cache is first["cache"] is first[name] is getattr(first, name) is first[CACHE_NAME]
    output = model(IDS, **{name: model(IDS)[name]})
    torch.testing.assert_close(output.logits, expected)
    as_tuple = model(IDS, return_dict=False)
    assert isinstance(as_tuple[1], RNNCache)


@pytest.mark.parametrize("name", CACHE_NAMES)
@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.filterwarnings("ignore:.*past_key_values.*:FutureWarning")
def test_generation_takes_either_name_and_answers_to_either(model, name, num_beams):
    options = {"max_new_tokens": 5, "num_beams": num_beams, "do_sample": False, "return_dict_in_generate": True}
    expected = model.generate(IDS, **options)
    assert expected.cache is expected["cache"] is expected[name] is getattr(expected, name)
    state = model(IDS[:, :2])[name]
    if num_beams > 1:
        state = state.fork(num_beams)
    got = model.generate(IDS, **{name: state}, **options)
    assert torch.equal(got.sequences, expected.sequences)


def test_both_names_at_once_are_refused(model):
    both = dict.fromkeys(CACHE_NAMES, RNNCache(model.config))
    for net in (model, model.model):
        with pytest.raises(ValueError, match="`cache` or as `past_key_values`"):
            net(IDS, **both)
    with pytest.raises(ValueError, match="`cache` or as `past_key_values`"):
        model.generate(IDS, **both)


@torch.no_grad()
def test_an_output_is_pickled_copied_and_gathered_as_transformers_own(model):
    output = model(IDS)
    for other in (pickle.loads(pickle.dumps(output)), copy.deepcopy(output), type(output)(output.items())):
        assert type(other) is type(output) and list(other) == list(output)
        assert other.cache.get_seq_length() == 3 and torch.equal(other.logits, output.logits)


# The contract


@pytest.fixture
def unchecked(monkeypatch):
    monkeypatch.setattr(check_contract, "is_kept", False)


def test_the_contract_is_checked_once_and_leaves_no_trace(model, unchecked):
    torch.manual_seed(0)
    model.generate(IDS, max_new_tokens=2, do_sample=False)
    drawn = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(3), drawn) and check_contract.is_kept


def test_a_transformers_that_loses_the_state_is_refused(model, unchecked, monkeypatch):
    prepare = RNNForCausalLM.prepare_inputs_for_generation

    def without_state(self, *args, **kwargs):
        inputs = prepare(self, *args, **kwargs)
        inputs.pop(CACHE_NAME, None)
        return inputs

    monkeypatch.setattr(RNNForCausalLM, "prepare_inputs_for_generation", without_state)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"does not carry a recurrent state.*Install a release from 5\.17"):
            model.generate(IDS, max_new_tokens=2)


def test_a_transformers_that_does_not_reorder_beams_is_refused(model, unchecked, monkeypatch):
    monkeypatch.setattr(RNNCache, "reorder_cache", lambda self, beam_idx: None)
    with pytest.raises(RuntimeError, match="beam search with the state differs"):
        model.generate(IDS, max_new_tokens=2)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_the_contract_holds_under_any_default_device(unchecked, device):
    with torch.device(device):
        check_contract()


def test_other_models_do_not_pay(unchecked):
    config = GPT2Config(vocab_size=7, n_embd=4, n_layer=1, n_head=1, bos_token_id=1, eos_token_id=None)
    GPT2LMHeadModel(config).generate(IDS, max_new_tokens=1)
    assert not check_contract.is_kept


def test_the_network_of_the_check_is_not_drawn_at_random():
    one, other = RNNGenerationMixin.tiny_network(), RNNGenerationMixin.tiny_network()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("version, is_warned", [(NEWEST_TRANSFORMERS, False), ("5.17.0", False), ("99.0.dev0", True)])
def test_a_release_that_was_not_tested_gives_one_warning(version, is_warned, monkeypatch):
    said = []
    monkeypatch.setattr(versions_rnn.logger, "warning_once", said.append)
    warn_if_untested(version)
    assert [NEWEST_TRANSFORMERS in text and version in text for text in said] == [True] * is_warned


# Private names

PROGRAM = """
import sys, torch
from transformers import PreTrainedConfig, cache_utils
from transformers.generation import GenerationMixin

{before}
from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.models.generation_rnn import RNNGenerationMixin
{after}
torch.manual_seed(0)
ids, mask = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]]), torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
for cell in ({{}}, {{"cell_type": "gru"}}, {{"cell_type": "rnn", "hidden_act": "sigmoid"}}):
    RNNForCausalLM(RNNConfig(vocab_size=9, hidden_size=8, **cell)).save_pretrained(sys.argv[1])
    model = RNNForCausalLM.from_pretrained(sys.argv[1])
    model(ids, mask, labels=ids, skip_logits=True).loss.backward()
    options = {{"attention_mask": mask, "max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}}
    print(model.generate(ids, **options).tolist(), model.generate(ids, num_beams=2, **options).tolist())
    print(model.generate(ids[1:], max_new_tokens=20, do_sample=False).tolist(), model.num_parameters())
"""

# What is changed before the package is imported, and after it.
CHANGES = {
    "no table of static layers": ("del cache_utils.STATIC_LAYER_TYPE_MAPPING", ""),
    "another _sample": (
        "sample = GenerationMixin._sample\nGenerationMixin._sample = lambda self, *a, **k: sample(self, *a, **k)",
        "",
    ),
    "another _prefill": (
        "prefill = GenerationMixin._prefill\nGenerationMixin._prefill = lambda self, *a, **k: prefill(self, *a, **k)",
        "",
    ),
    "_prepare_cache_for_generation is not called": ("", "del RNNGenerationMixin._prepare_cache_for_generation"),
    "_sample is not called": ("", "del RNNGenerationMixin._sample"),
    "no product of oneDNN": ("", "torch.ops.mkldnn._linear_pointwise = None"),
    "another product of oneDNN": ("", "torch.ops.mkldnn._linear_pointwise = lambda inputs, weight: inputs"),
    "no packing of oneDNN": ("", "torch.ops.mkldnn._reorder_linear_weight = None"),
    "another packing of oneDNN": ("", "torch.ops.mkldnn._reorder_linear_weight = lambda weight: weight"),
    "nothing": ("", ""),
}


def run(program, *arguments):
    """What a program prints in a process of its own."""
    ended = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=ONE_THREAD)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What `PROGRAM` prints in a process of its own after a change of transformers or torch."""
    directory = str(tmp_path_factory.mktemp("model"))

    @cache
    def said(change):
        before, after = CHANGES[change]
        program = PROGRAM.format(before=before, after=after)
        return run(program, directory)

    return said


@pytest.mark.slow
@pytest.mark.parametrize("change", [name for name in CHANGES if name != "nothing"])
def test_where_a_private_name_is_gone_or_another_one_the_public_way_gives_the_same(said, change):
    assert said(change) == said("nothing")


def test_without_the_pad_token_that_generation_prepares_the_light_loop_is_not_taken(model):
    given = {CACHE_NAME: RNNCache(model.config)}
    assert not model._can_decode_directly(GenerationConfig(), given)
    prepared = GenerationConfig()
    prepared._pad_token_tensor = None
    assert model._can_decode_directly(prepared, given)


@pytest.mark.slow
def test_a_second_copy_of_the_code_in_the_process_leaves_the_first_one_its_state(tmp_path):
    model = RNNForCausalLM(RNNConfig(vocab_size=9, hidden_size=8)).double().eval()
    model.save_pretrained(tmp_path)
    program = f"""
    import sys, torch
    from transformers import AutoModelForCausalLM, DynamicCache
    first = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r}, trust_remote_code=True)
    import rnn_hf
    second = rnn_hf.RNNForCausalLM.from_pretrained({str(tmp_path)!r})
    assert type(first) is not type(second)
    ids = torch.tensor([[1, 2, 3]])
    expected = first(torch.cat([ids, ids], 1)).logits[:, 3:]
    for maker, net in ((first, second), (second, first), (first, first)):
        for state in (maker(ids).cache, DynamicCache(config=maker.config)):
            state = state if state.get_seq_length() else net(ids, cache=state).cache
            torch.testing.assert_close(net(ids, cache=state).logits, expected)
            net.generate(torch.cat([ids, ids, ids], 1), cache=state, max_new_tokens=3, num_beams=1)
    """
    run(textwrap.dedent(program))

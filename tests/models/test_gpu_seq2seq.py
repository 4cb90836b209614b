"""Networks that write a text from another one on a GPU: the numbers, gradients and texts of a CPU."""

import copy

import pytest
import torch
from networks import assert_same_gradients, gradients_of
from seq2seq_models import KINDS, SOME_UNITS, UNITS, make_translator, make_writer, some_pairs


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.parametrize("kind", KINDS),
    pytest.mark.parametrize("unit", SOME_UNITS),
]

DEVICE = "cuda"
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture
def fields(kind, unit):
    return KINDS[kind] | UNITS[unit]


def there(inputs):
    return {name: part.to(DEVICE) for name, part in inputs.items()}


def test_pairs_are_learned_as_on_a_cpu(fields):
    model, pairs = make_translator(**fields).train(), some_pairs()
    elsewhere = copy.deepcopy(model).to(DEVICE)
    expected, output = model(**pairs), elsewhere(**there(pairs))
    torch.testing.assert_close(output.loss.cpu(), expected.loss, **CLOSE)
    expected.loss.backward()
    output.loss.backward()
    got = {name: gradient.cpu() for name, gradient in gradients_of(elsewhere).items()}
    assert_same_gradients(got, gradients_of(model), **CLOSE)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_texts_are_those_of_a_cpu_and_of_rows_alone(fields, num_beams):
    model, pairs = make_writer(**fields), some_pairs()
    inputs = {name: pairs[name] for name in ("input_ids", "attention_mask")}
    options = {"max_new_tokens": 12, "num_beams": num_beams, "do_sample": False}
    expected = model.generate(**inputs, **options)
    elsewhere = model.to(DEVICE)
    assert torch.equal(elsewhere.generate(**there(inputs), **options).cpu(), expected)
    for index, mask in enumerate(inputs["attention_mask"]):
        alone = elsewhere.generate(inputs["input_ids"][index, mask.bool()][None].to(DEVICE), **options).cpu()[0]
        assert torch.equal(alone, expected[index, : len(alone)])

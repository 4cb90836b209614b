"""`torch.compile`: the numbers of the plain model, with one break of the graph, around the recurrent layers."""

import copy

import pytest
import torch


pytestmark = pytest.mark.slow  # compiling takes seconds a case

IDS = torch.randint(1, 11, (3, 7), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0], [1] * 7])


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("arguments", [{}, {"labels": IDS}, {"labels": IDS, "skip_logits": True}], ids=str)
def test_the_graph_breaks_at_the_recurrent_layers_alone(make_model, cell, arguments, padded):
    model, graphs = make_model(cell), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend)
    mask = MASK if padded else None
    expected, output = model(IDS, attention_mask=mask, **arguments), compiled(IDS, attention_mask=mask, **arguments)
    assert len(graphs) <= 2  # before the layers, and after them
    for name in ("loss", "logits"):
        torch.testing.assert_close(output.get(name), expected.get(name))
    torch.testing.assert_close(output.cache.layers[-1].keys, expected.cache.layers[-1].keys)
    breaks = torch._dynamo.explain(lambda: model(IDS, attention_mask=mask, **arguments))().break_reasons
    assert all("_run_layers" in str(reason.reason) for reason in breaks), breaks


@pytest.mark.parametrize("skip_logits", [False, True])
def test_gradients_of_the_compiled_model_are_those_of_the_plain_one(make_model, cell, skip_logits):
    model = make_model(cell).train()
    other = copy.deepcopy(model)

    def two_windows(net):
        state = None
        for _ in range(2):
            output = net(IDS, labels=IDS, cache=state, skip_logits=skip_logits)
            output.loss.backward()
            state = output.cache.detach()

    two_windows(model)
    two_windows(torch.compile(other, backend="aot_eager"))
    for mine, plain in zip(other.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, plain.grad)

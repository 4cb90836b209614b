"""The graphs of networks that translate against PyTorch: each attention, bridge and cell, and padding anywhere."""

import numpy as np
import pytest
import torch
from seq2seq_models import KINDS, make_translator, units
from test_export import changed

from rnn_hf.errors import InputError
from rnn_hf.onnx.export import SIZES, ExportError, run, verify
from rnn_hf.onnx.session import open_session
from rnn_hf.onnx.translation_graph import build_decoder_graph, build_encoder_graph


every_kind = pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
BUILDERS = {"encoder": build_encoder_graph, "decoder": build_decoder_graph}
both = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)


def interface_of(proto) -> dict:
    import json

    return json.loads({prop.key: prop.value for prop in proto.metadata_props}["interface"])


@units("lstm", "gru")
@every_kind
@both
def test_a_graph_gives_what_pytorch_does_at_each_size(unit, fields, build):
    model = make_translator(**unit, **fields).float()
    proto = build(model)
    checked = verify(proto.SerializeToString(), model, interface_of(proto), False)
    assert [(check["batch"], check["sequence"]) for check in checked] == list(SIZES)
    names = {value["name"] for value in interface_of(proto)["outputs"]}
    assert all(set(check["largest_difference"]) == names for check in checked)


@every_kind
def test_the_graphs_together_are_the_network(fields):
    model = make_translator(cell_type="lstm", **fields).float()
    protos = [build(model) for build in BUILDERS.values()]
    encoder, decoder = (open_session(proto.SerializeToString(), "cpu", 1) for proto in protos)
    ids = torch.tensor([[3, 4, 5, 6, 2], [7, 5, 2, 0, 0], [0, 0, 4, 3, 2]])
    mask, targets = (ids != 0).long(), torch.tensor([[1, 4, 5, 3]] * 3)
    expected = model(ids, attention_mask=mask, decoder_input_ids=targets).logits
    source = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    names = [value.name for value in encoder.get_outputs()]
    given = dict(zip(names, encoder.run(names, source), strict=True))
    wanted = {value.name for value in decoder.get_inputs()}
    outputs = [value.name for value in decoder.get_outputs()]
    for at in range(4):
        inputs = {"input_ids": targets[:, at : at + 1].numpy(), "attention_mask": mask.numpy()}
        inputs |= {name.replace("present", "past"): value for name, value in given.items()}
        found = dict(zip(outputs, decoder.run(outputs, {name: inputs[name] for name in wanted}), strict=True))
        np.testing.assert_allclose(found.pop("logits")[:, 0], expected[:, at].detach().numpy(), rtol=1e-4, atol=1e-4)
        given |= found


@pytest.mark.parametrize(
    "build, weight", [(build_encoder_graph, "bridge.weight"), (build_decoder_graph, "readout.bias")]
)
def test_a_wrong_weight_is_seen(build, weight):
    model = make_translator().float()
    proto = build(model)
    changed(weight, lambda values: values * 1.01)(proto.graph)
    with pytest.raises(ExportError, match="differs from PyTorch by"):
        verify(proto.SerializeToString(), model, interface_of(proto), False)


def test_what_is_no_translator_is_refused():
    for build in BUILDERS.values():
        with pytest.raises(InputError, match="an encoder and a decoder of this package"):
            build(torch.nn.Linear(2, 2))
    assert set(
        run(make_translator(), {"input_ids": torch.ones(1, 2).long(), "attention_mask": torch.ones(1, 2)}, False)
    )

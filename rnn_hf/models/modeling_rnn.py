"""Recurrent networks as transformers models: the backbone and the causal language model.

Shapes in comments: B batch, T time, E embedding, H width of a layer, V vocabulary, N real tokens of a padded batch.
"""

import errno
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .cache_rnn import RECORDED_STEPS, RNNCache, check_state
from .configuration_rnn import RNNConfig
from .generation_rnn import RNNGenerationMixin, in_parts, is_bare, packed, pays_to_step, step
from .loss_rnn import linear_cross_entropy, without_autocast
from .mixture_rnn import MixtureOfSoftmaxes, locked_dropout


CELLS: dict[str, Callable[..., nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REPAIR = "fetch them again: from_pretrained(..., force_download=True), or copy the directory anew"


class RNNLayer(GradientCheckpointingLayer):
    """One recurrent layer: a one-layer `nn.LSTM`, `nn.GRU` or `nn.RNN`, so cuDNN on a GPU and oneDNN on a CPU.

    One module a layer, because dropout masks, widths, hidden states, checkpointing and the state all need the seam.

    Attributes:
        steps_directly: Whether one token a row is computed by `step` where that is faster, on a CPU.
    """

    steps_directly = True

    def __init__(self, config: RNNConfig, layer_idx: int):
        super().__init__()
        extra: dict[str, Any] = {}
        if config.cell_type == "rnn":
            extra["nonlinearity"] = "relu" if config.hidden_act == "relu" else "tanh"
        if config.cell_type == "lstm":
            extra["proj_size"] = config.projection_size
        self.rnn = CELLS[config.cell_type](*config.layer_sizes[layer_idx], batch_first=True, **extra)
        self.kind = config.hidden_act or config.cell_type
        self.is_sigmoid = self.kind == "sigmoid"
        self.recurrent_dropout = config.recurrent_dropout

    def forward(self, inputs, hidden=None, cell=None, batch_sizes=None):
        """Run the layer over a window.

        Flat tensors in and out, because reentrant checkpointing does not see inside a PackedSequence.

        Args:
            inputs: `(B, T, input size)`, or with `batch_sizes` the packed `(N, input size)`.
            hidden, cell: State before the window, `(B, H)` each; `cell` for an LSTM only; `None` is zeros.
            batch_sizes: Rows at each step, as in `PackedSequence`.

        Returns:
            Outputs as `inputs` with H in the last place, then the state `(B, H)` after each row's last token.
        """
        products = None
        if batch_sizes is None and inputs.shape[1] == 1:
            products = self.step_products(len(inputs))
        if products is not None:
            if hidden is None:
                hidden = inputs.new_zeros(len(inputs), self.rnn.hidden_size)
                cell = torch.zeros_like(hidden) if self.kind == "lstm" else None
            hidden, cell = step(self.kind, inputs[:, 0], hidden, cell, products)
            return hidden[:, None], hidden, cell
        sequence = inputs if batch_sizes is None else PackedSequence(inputs, batch_sizes)
        if self.is_sigmoid:
            rows = len(inputs) if batch_sizes is None else int(batch_sizes[0])
            hidden = inputs.new_zeros(rows, self.rnn.hidden_size) if hidden is None else hidden
            hidden = 2 * hidden - 1
        state = None if hidden is None else hidden[None].contiguous()
        if cell is not None:
            state = (state, cell[None].contiguous())
        weights, arguments = self._weights(), (sequence, state)
        outputs, state = torch.func.functional_call(self.rnn, weights, arguments) if weights else self.rnn(*arguments)
        outputs = outputs if batch_sizes is None else outputs.data
        hidden, cell = state if isinstance(state, tuple) else (state, None)
        if self.is_sigmoid:
            outputs, hidden = (outputs + 1) / 2, (hidden + 1) / 2
        return outputs, hidden[0], None if cell is None else cell[0]

    def step_products(self, rows: int, packs: bool = False) -> list | None:
        """What `step` of generation_rnn computes so many rows with: `None` where the module itself must be run, or is
        faster. With `packs`, on copies of the weights in a faster order, for many steps."""
        rnn: Any = self.rnn
        if (
            not self.steps_directly
            or self.training
            or type(rnn) not in CELLS.values()
            or not is_bare(rnn)
            or getattr(rnn, "proj_size", 0)
            or rnn.weight_hh_l0.device.type != "cpu"
            or rnn.weight_hh_l0.dtype not in (torch.float32, torch.float64)
        ):
            return None
        pairs = [(rnn.weight_ih_l0, rnn.bias_ih_l0), (rnn.weight_hh_l0, rnn.bias_hh_l0)]
        if packs and (rows > 1 or rnn.hidden_size < 1000):
            if self.kind != "gru":  # whose new gate needs the two apart
                (of_input, input_bias), (of_hidden, hidden_bias) = pairs
                pairs = [(torch.cat([of_input, of_hidden], dim=1), input_bias + hidden_bias)]
            return [packed(*pair, rows) for pair in pairs]
        return [in_parts(*pair) for pair in pairs] if pays_to_step(self.kind, rows, rnn.hidden_size) else None

    def _weights(self) -> dict[str, torch.Tensor]:
        """Weights to run with in place of the module's own; empty where its own serve."""
        weights = {}
        if self.training and self.recurrent_dropout:
            weights["weight_hh_l0"] = F.dropout(self.rnn.weight_hh_l0, self.recurrent_dropout)
        if self.is_sigmoid:
            # sigmoid(z) = (tanh(z/2) + 1) / 2, so with g = 2h - 1 the cell is cuDNN's tanh in other coordinates:
            # g_t = tanh((W/2) x_t + (U/4) g_{t-1} + b/2 + (U/4) 1).
            recurrent = weights.get("weight_hh_l0", self.rnn.weight_hh_l0) / 4
            weights = {
                "weight_ih_l0": self.rnn.weight_ih_l0 / 2,
                "weight_hh_l0": recurrent,
                "bias_ih_l0": self.rnn.bias_ih_l0 / 2,
                "bias_hh_l0": self.rnn.bias_hh_l0 / 2 + recurrent.sum(dim=1),
            }
        if weights:
            # One block, in the module's own order, as cuDNN wants it.
            weights = {name: weights.get(name, parameter) for name, parameter in self.rnn.named_parameters()}
            block = torch.cat([weight.flatten() for weight in weights.values()])
            parts = block.split([weight.numel() for weight in weights.values()])
            weights = {name: part.view(weights[name].shape) for name, part in zip(weights, parts, strict=True)}
        return weights


@dataclass
class Packing:
    """Where the real tokens of a padded batch are: the layers run on these alone, packed."""

    mask: torch.Tensor  # (B, T), true at real tokens
    order: torch.Tensor  # (B,) rows by length, longest first
    take: torch.Tensor  # (N,) positions in the flattened (B * T), in packed order
    batch_sizes: torch.Tensor  # (longest row,) rows at each step, on the CPU

    @classmethod
    def from_mask(cls, mask: torch.Tensor) -> "Packing":
        batch, time = mask.shape
        lengths, order = mask.sum(dim=1).sort(descending=True, stable=True)
        positions = torch.arange(batch * time, device=mask.device).view(batch, time)
        compact = positions.gather(1, (~mask).long().argsort(dim=1, stable=True))[order]
        if not lengths[0]:
            return cls(mask, order, positions.new_empty(0), torch.empty(0, dtype=torch.long))
        rows = lengths > 0  # rows of padding alone are not run
        packed = pack_padded_sequence(compact[rows], lengths[rows].cpu(), batch_first=True)
        return cls(mask, order, packed.data, packed.batch_sizes)

    def pack(self, inputs: torch.Tensor) -> torch.Tensor:
        """`(B, T, H)` to `(N, H)`."""
        return inputs.flatten(0, 1)[self.take]

    def unpack(self, data: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """`(N, H)` to `(B, T, H)`; padding shows the last real token before it, or `before`, `(B, H)`."""
        batch, time = self.mask.shape
        flat = data.new_zeros(batch * time, data.shape[1]).index_copy(0, self.take, data)
        padded = torch.cat([before[:, None].to(data), flat.view(batch, time, -1)], dim=1)
        steps = torch.arange(1, time + 1, device=data.device)
        source = torch.where(self.mask, steps, 0).cummax(dim=1).values
        return padded.gather(1, source[..., None].expand(-1, -1, data.shape[1]))

    def run(self, layer: RNNLayer, inputs: torch.Tensor, state: tuple) -> tuple[torch.Tensor, tuple]:
        """`layer` over `(B, T, H)` padded inputs; rows of padding alone keep their `state`."""
        if not len(self.take):
            return self.unpack(state[0].new_empty(0, state[0].shape[1]), state[0]), state
        rows = int(self.batch_sizes[0])
        ordered = [None if part is None else part[self.order] for part in state]
        running = [None if part is None else part[:rows] for part in ordered]
        data, *after = layer(self.pack(inputs), *running, self.batch_sizes)
        back = self.order.argsort()
        state_after = tuple(
            None if old is None else torch.cat([new, old[rows:]])[back]
            for new, old in zip(after, ordered, strict=True)
        )
        return self.unpack(data, state[0]), state_after


def check_download(name, config: RNNConfig, options: dict[str, Any]) -> None:
    """Compare the weights of a model of the Hub with their checksum: a safetensors file with a wrong byte loads.

    Raises:
        OSError: They differ.
    """
    if name is None or os.path.exists(name):
        return
    revision = getattr(config, "_commit_hash", None) or options.get("revision")
    found = try_to_load_from_cache(name, "config.json", cache_dir=options.get("cache_dir"), revision=revision)
    if not isinstance(found, str):
        return
    for path in Path(found).parent.joinpath(options.get("subfolder") or "").glob("*.safetensors"):
        check_cached(name, path)


def check_cached(name, path: Path) -> None:
    """Compare a file in the Hub's cache, weights of `name`, with its checksum: the name of what it links to.

    A download is checked by length alone.

    Raises:
        OSError: They differ.
    """
    expected = Path(os.readlink(path)).name if path.is_symlink() else ""
    if not re.fullmatch("[0-9a-f]{64}", expected):
        return  # a small file that is not stored by checksum, or a file system without links
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise OSError(f"the weights of {name} are damaged (checksum of {path}); {REPAIR}")


class RNNPreTrainedModel(PreTrainedModel):
    """What all models of this package share: initialisation, and weights that stay in one block for cuDNN."""

    config_class = RNNConfig
    config: RNNConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["RNNLayer"]

    def __init__(self, config: RNNConfig, *args, **kwargs):
        config.validate()  # a field may have been set after the configuration was made
        super().__init__(config, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Load a checkpoint as any model of transformers; damaged weights are refused.

        Raises:
            OSError: The weights are not whole, or not those that the Hub has by its checksum; there are none; or the
                disk is full.
        """
        name = pretrained_model_name_or_path
        try:
            loaded = super().from_pretrained(name, *args, **kwargs)
        except SafetensorError as error:
            raise OSError(f"the weights of {name} are damaged ({error}); {REPAIR}") from error
        except OSError as error:
            if error.errno in NO_SPACE:
                where = os.path.abspath(kwargs.get("cache_dir") or constants.HF_HUB_CACHE)
                raise OSError(f"no space for {name} in {where}: free some, or set HF_HOME to a larger disk") from error
            raise
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        check_download(name, model.config, kwargs)
        model.flatten_parameters()
        return loaded

    def flatten_parameters(self) -> None:
        """Put the weights of each recurrent module into one block; without it cuDNN copies them at each call."""
        for module in self.modules():
            if isinstance(module, nn.RNNBase):
                module.flatten_parameters()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise one module; parameters that were loaded are left as they are.

        Recurrent matrices are orthogonal gate by gate (Saxe et al., 2014), input matrices uniform with bound
        1/sqrt(hidden size), biases zero but for an LSTM's forget gate at 1 (Jozefowicz et al., 2015).
        """
        if isinstance(module, nn.Embedding | nn.Linear):
            init.uniform_(module.weight, -self.config.initializer_range, self.config.initializer_range)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.RNNBase):
            for name, parameter in module.named_parameters():
                self._init_recurrent(module, name, parameter)
        else:
            super()._init_weights(module)

    @staticmethod
    def _init_recurrent(module: nn.RNNBase, name: str, parameter: torch.Tensor) -> None:
        if getattr(parameter, "_is_hf_initialized", False):
            return
        size = module.hidden_size
        if name.startswith("weight_hh"):
            for gate in parameter.split(size):
                init.orthogonal_(gate)
        elif name.startswith("weight"):
            init.uniform_(parameter, -(size**-0.5), size**-0.5)
        else:
            # bias_ih and bias_hh are added: the forget gate's 1 goes into the first, second quarter in torch's order.
            bias = torch.zeros_like(parameter)
            if isinstance(module, nn.LSTM) and name.startswith("bias_ih"):
                bias[size : 2 * size] = 1.0
            init.copy_(parameter, bias)


class RNNModel(RNNPreTrainedModel):
    """Embedding and recurrent layers, without a head."""

    def __init__(self, config: RNNConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embedding_size)
        self.layers = nn.ModuleList([RNNLayer(config, i) for i in range(config.num_hidden_layers)])
        self.state_sizes = config.state_sizes
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: RNNCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """Run the network over a window.

        Args:
            input_ids: Token ids, `(B, T)`.
            attention_mask: `(B, T)` or longer, 1 at real tokens; of a longer one the last T columns count.
                Padding may stand left, right or between: real tokens give the numbers of the unpadded row,
                the state is that of the row's last real token, and a padding position shows the output of the
                last real token before it.
            past_key_values: State to go on from, updated in place object-wise; its tensors are never written to.
            inputs_embeds: `(B, T, E)` instead of `input_ids`; `embedding_dropout` does not apply to it.
            use_cache: Whether to return the state; default `config.use_cache`.
            output_hidden_states: Whether to return the embeddings and each layer's raw output. In training
                `hidden_states[-1]` is the output before `output_dropout` and `last_hidden_state` the one after it.

        Returns:
            `last_hidden_state` `(B, T, output size)`, `past_key_values`, `hidden_states`.

        Raises:
            ValueError: Both or neither of `input_ids` and `inputs_embeds`, a mask or a state that does not fit.
        """
        embeds = self._embed(input_ids, inputs_embeds)
        if kwargs.get("head_mask") is not None:
            raise ValueError("`head_mask` is not supported: a recurrent network has no attention heads")
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        states = self._read_state(past_key_values, embeds)
        packing = self._packing(attention_mask, embeds)

        is_recording = past_key_values is not None and past_key_values.layers[0].record_past

        # Autocast casts some of the recurrent operators and not others, and to a type that not every CPU has: these
        # layers keep the type of their weights.
        with without_autocast(embeds.device):
            if is_recording and use_cache:
                outputs, hidden_states = self._run_recorded(embeds, past_key_values, packing)
            else:
                outputs, hidden_states = self._run_layers(embeds, states, packing)
                past_key_values = self._write_state(past_key_values, states, embeds.shape[1]) if use_cache else None

        return BaseModelOutputWithPast(
            last_hidden_state=outputs,
            past_key_values=past_key_values,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
        )

    def _run_layers(self, embeds: torch.Tensor, states: list[tuple], packing: Packing | None):
        """Outputs, and the hidden states before each layer and after the last; replaces the entries of `states`."""
        hidden_states = [embeds]
        outputs = locked_dropout(embeds, self.config.input_dropout, self.training)
        for index, layer in enumerate(self.layers):
            if packing is None:
                raw, *state = layer(outputs, *states[index])
            else:
                raw, state = packing.run(layer, outputs, self._zeros_if_none(states[index], index, outputs))
            states[index] = tuple(state)
            hidden_states.append(raw)
            is_last = index + 1 == len(self.layers)
            dropout = self.config.output_dropout if is_last else self.config.hidden_dropout
            outputs = locked_dropout(raw, dropout, self.training)
        return outputs, hidden_states

    def _run_recorded(self, embeds: torch.Tensor, cache: RNNCache, packing: Packing | None):
        """As `_run_layers`, with the last tokens one at a time, so that `cache` records the state before each."""
        time = embeds.shape[1]
        sizes = [time - RECORDED_STEPS] * (time > RECORDED_STEPS) + [1] * min(time, RECORDED_STEPS)
        masks = [None] * len(sizes) if packing is None else packing.mask.split(sizes, dim=1)
        runs = []
        for part, mask, size in zip(embeds.split(sizes, dim=1), masks, sizes, strict=True):
            states = self._read_state(cache, part)
            runs.append(self._run_layers(part, states, self._packing(mask, part)))
            self._write_state(cache, states, size)
        outputs, hidden_states = zip(*runs, strict=True)
        return torch.cat(outputs, dim=1), [torch.cat(parts, dim=1) for parts in zip(*hidden_states, strict=True)]

    def _embed(self, input_ids, inputs_embeds) -> torch.Tensor:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of `input_ids` and `inputs_embeds`")
        given = inputs_embeds if input_ids is None else input_ids
        if given.ndim != (3 if input_ids is None else 2) or not given.shape[1]:
            name = "`inputs_embeds` must be (batch, time, embedding_size)"
            name = name if input_ids is None else "`input_ids` must be (batch, time)"
            raise ValueError(f"{name} with at least one time step, got shape {tuple(given.shape)}")
        if input_ids is None:
            return inputs_embeds.to(self.embed_tokens.weight.dtype)
        embeds = self.embed_tokens(input_ids)
        if self.training and self.config.embedding_dropout:
            # A mask over word types, looked up: the same as dropping rows of the matrix, without touching all of it.
            keep = F.dropout(embeds.new_ones(self.embed_tokens.num_embeddings), self.config.embedding_dropout)
            embeds = embeds * keep[input_ids, None]
        return embeds

    def _read_state(self, cache, embeds: torch.Tensor) -> list[tuple]:
        if cache is None:
            return [(None, None)] * len(self.layers)
        check_state(cache, self.state_sizes, len(embeds))
        return [(layer.keys, layer.values) for layer in cache.layers]

    def _write_state(self, cache, states: list[tuple], num_tokens: int):
        cache = RNNCache(self.config) if cache is None else cache
        for layer, (hidden, cell) in zip(cache.layers, states, strict=True):
            layer.update(hidden, cell, num_tokens)
        return cache

    def _packing(self, attention_mask, embeds: torch.Tensor) -> Packing | None:
        """The packing of a batch with padding; `None` for one without, which then pays nothing."""
        if attention_mask is None:
            return None
        batch, time = embeds.shape[:2]
        if attention_mask.ndim != 2 or len(attention_mask) != batch or attention_mask.shape[1] < time:
            raise ValueError(
                f"`attention_mask` must be ({batch}, {time}) or longer in time, got {tuple(attention_mask.shape)}"
            )
        mask = attention_mask[:, -time:].to(device=embeds.device, dtype=torch.bool)
        return None if mask.all() else Packing.from_mask(mask)

    def _zeros_if_none(self, state: tuple, index: int, inputs: torch.Tensor) -> tuple:
        if state[0] is not None:
            return state
        return tuple(None if size is None else inputs.new_zeros(len(inputs), size) for size in self.state_sizes[index])


class RNNForCausalLM(RNNPreTrainedModel, RNNGenerationMixin):
    """A recurrent language model: [`RNNModel`] and a linear layer to the vocabulary, or a mixture of softmaxes."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: RNNConfig):
        super().__init__(config)
        self.model = RNNModel(config)
        has_mixture = config.num_softmaxes > 1
        self.mixture = MixtureOfSoftmaxes(config) if has_mixture else None
        self.lm_head = nn.Linear(config.embedding_size if has_mixture else config.output_size, config.vocab_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: RNNCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        skip_logits: bool = False,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Predict the next token at each position. Arguments as in [`RNNModel.forward`], and:

        Args:
            labels: `(B, T)`, the input ids themselves; shifted inside, -100 is ignored.
            logits_to_keep: Positions to predict at: the last n (0 for all), or indices `(n,)` or `(B, n)`,
                or a boolean `(B, T)`, which gives `(number of true, V)`.
            skip_logits: With labels, compute the loss chunk by chunk and return no logits: less memory and time.
            kwargs: `shift_labels` `(B, T)`, the token after each position, for a caller who knows the one after the
                window; `num_items_in_batch`, which divides the summed loss in place of the number of labels.

        Returns:
            `loss` (mean negative log-likelihood in nats), `logits` `(B, T, V)`, `past_key_values`, `hidden_states`.

        Raises:
            ValueError: As in [`RNNModel.forward`]; labels with `logits_to_keep`; `skip_logits` without labels.
        """
        # Not an argument by name: Trainer takes each one with "label" in its name for a column of every data set.
        shift_labels = kwargs.pop("shift_labels", None)
        has_labels = labels is not None or shift_labels is not None
        if has_labels and not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
            raise ValueError("`logits_to_keep` does not go with `labels`: the loss needs every position")
        if skip_logits and not has_labels:
            raise ValueError("`skip_logits=True` needs `labels` or `shift_labels`: there is nothing else to return")
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        loss = logits = None
        if not skip_logits:
            logits = self.compute_logits(select_positions(hidden, logits_to_keep))
        if has_labels:
            if shift_labels is None:
                shift_labels = F.pad(labels, (0, 1), value=-100)[:, 1:]
            loss = self.compute_loss(hidden, shift_labels.to(hidden.device), logits, kwargs.get("num_items_in_batch"))
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=outputs.past_key_values, hidden_states=outputs.hidden_states
        )

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B, T, H)` or `(N, H)` of the last layer to logits, V in the last place; a mixture's are normalised."""
        return self.lm_head(hidden_states) if self.mixture is None else self.mixture(hidden_states, self.lm_head)

    def compute_loss(
        self, hidden_states, targets, logits=None, num_items_in_batch=None, label_smoothing: float = 0.0
    ) -> torch.Tensor:
        """Cross entropy in nats, mean over the targets; without `logits` and a mixture, part by part.

        Args:
            hidden_states: Of the last layer, `(B, T, H)`.
            targets: The token after each, `(B, T)`, -100 to ignore it.
            logits: `(B, T, V)`, where they are at hand.
            num_items_in_batch: Divides the summed loss in place of the number of targets.
            label_smoothing: Share of each target that is spread over all words (Szegedy et al., 2016).
        """
        targets = targets.flatten()
        if logits is None and self.mixture is None:
            weight, bias = self.lm_head.weight, self.lm_head.bias
            loss = linear_cross_entropy(hidden_states.flatten(0, 1), weight, bias, targets, label_smoothing)
        else:
            logits = (self.compute_logits(hidden_states) if logits is None else logits).flatten(0, 1)
            # transformers' own loss casts to float32, which would take a float64 model's digits away.
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            loss = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=label_smoothing)
        return loss / ((targets != -100).sum() if num_items_in_batch is None else num_items_in_batch)


def select_positions(hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """The positions of `(B, T, H)` that `logits_to_keep` names, as transformers defines its forms."""
    if isinstance(logits_to_keep, int):
        return hidden_states[:, -logits_to_keep:]
    if logits_to_keep.ndim == 2:
        if logits_to_keep.dtype == torch.bool:
            return hidden_states[logits_to_keep]
        return hidden_states.take_along_dim(logits_to_keep[..., None], dim=1)
    return hidden_states[:, logits_to_keep]


__all__ = ["RNNForCausalLM", "RNNLayer", "RNNModel", "RNNPreTrainedModel"]

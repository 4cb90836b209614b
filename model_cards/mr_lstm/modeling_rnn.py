"""Recurrent networks as transformers models: the backbone, the causal language model and classifiers.

All in one file, so that the repository of a language model also loads as a classifier for those without this package.

Shapes in comments: B batch, T time, E embedding, H width of a layer, V vocabulary.
"""

import os
from typing import Any

import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional as F
from torch.nn import init
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput
from transformers.utils import can_return_tuple

from .cache_rnn import RECORDED_STEPS, RNNCache, check_state
from .configuration_rnn import RNNConfig
from .generation_rnn import RNNGenerationMixin
from .heads_rnn import pool, pooled_size, text_loss, token_loss
from .inputs_rnn import check_extra, flip_time, from_end, read_inputs, read_mask, select_positions
from .integrity_rnn import NO_SPACE, REPAIR, check_download
from .layers_rnn import RNNLayer, locked_dropout
from .loss_rnn import linear_cross_entropy
from .mixture_rnn import MixtureOfSoftmaxes
from .padding_rnn import Compaction
from .versions_rnn import (
    CACHE_NAME,
    CACHE_NAMES,
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    one_cache,
    register_causal,
)
from .words_rnn import NO_ROW, WordEncoder


# The state of a layer, h and c, before the first token `(None, None)`.
State = tuple[torch.Tensor | None, torch.Tensor | None]


class RNNPreTrainedModel(PreTrainedModel):
    """What all models of this package share: initialisation, and weights that stay in one block for cuDNN."""

    config_class = RNNConfig
    config: RNNConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["RNNLayer"]

    def __init__(self, config: RNNConfig, *args: Any, **kwargs: Any):
        config.validate()  # a field may have been set after the configuration was made
        super().__init__(config, *args, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any
    ) -> Any:
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

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As of any model of transformers, but for one that reads characters or features.

        Raises:
            ValueError: The network knows how each word of its vocabulary is spelled, or has none.
        """
        self.config.check_reads_tokens("`resize_token_embeddings`")
        if self.config.character_embedding_size:
            raise ValueError(
                "the vocabulary of a network with `character_embedding_size` cannot be resized: make a new one with "
                "the sizes of the Spelling of the tokenizer"
            )
        return super().resize_token_embeddings(*args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise one module; parameters that were loaded are left as they are.

        Recurrent matrices are orthogonal gate by gate (Saxe et al., 2014). Input matrices are uniform with bound
        1/sqrt(hidden size); those of a GRU by Glorot and Bengio (2010, equation 16) gate by gate, times the gain of
        tanh, 5/3, and an output projection, whatever its widths, by the same equation. Biases are zero but for an
        LSTM's forget gate at 1 (Jozefowicz et al., 2015).
        """
        bound = self.config.initializer_range
        if isinstance(module, WordEncoder):
            module.clear()
        for name, parameter in module.named_parameters(recurse=False):
            if getattr(parameter, "_is_hf_initialized", False):
                continue
            if isinstance(module, nn.RNNBase):
                self._init_recurrent(module, name, parameter)
            elif name == "weight" and module is getattr(self, "output_projection", None):
                init.xavier_uniform_(parameter)
            elif isinstance(module, nn.Embedding | nn.Linear):
                init.uniform_(parameter, -bound, bound) if name == "weight" else init.zeros_(parameter)

    @staticmethod
    def _init_recurrent(module: nn.RNNBase, name: str, parameter: torch.Tensor) -> None:
        size = module.hidden_size
        if name.startswith("weight_hh"):
            for gate in parameter.split(size):
                init.orthogonal_(gate)
        elif name.startswith("weight") and isinstance(module, nn.GRU):
            for gate in parameter.split(size):
                init.xavier_uniform_(gate, gain=init.calculate_gain("tanh"))
        elif name.startswith("weight"):
            init.uniform_(parameter, -(size**-0.5), size**-0.5)
        else:
            init.zeros_(parameter)
            # bias_ih and bias_hh are added: the forget gate's 1 goes into the first, second quarter in torch's order.
            if isinstance(module, nn.LSTM) and name.startswith("bias_ih"):
                init.ones_(parameter[size : 2 * size])


class RNNModel(RNNPreTrainedModel):
    """Embedding, or a linear layer over features, and recurrent layers, without a head."""

    def __init__(self, config: RNNConfig):
        super().__init__(config)
        rows, features, width = config.num_word_rows or config.vocab_size, config.input_size, config.embedding_size
        self.embed_tokens = nn.Embedding(rows, width) if features is None else None
        self.input_projection = None if features is None else nn.Linear(features, width)
        self.words = WordEncoder(config) if config.character_embedding_size else None
        self.layers = nn.ModuleList([RNNLayer(config, i) for i in range(config.num_hidden_layers)])
        self.state_sizes = config.state_sizes
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        cache: RNNCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        past_key_values: RNNCache | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the network over a window.

        Args:
            input_ids: Token ids, `(B, T)`.
            attention_mask: `(B, T)` or longer, 1 at real tokens; of a longer one the last T columns count.
                Padding may stand left, right or between: real tokens give the numbers of the unpadded row,
                the state is that of the row's last real token, and a padding position shows the output of the
                last real token before it (zeros where a bidirectional network has none). With
                `character_embedding_size` every piece of a word shows the output of the word.
            cache: State to go on from, moved to the model's device and type if it has another. The object is updated
                in place; its tensors are never written to.
            inputs_embeds: `(B, T, E)` instead of `input_ids`, without `embedding_dropout`; with `input_size` features.
            use_cache: Whether to return the state; default `config.use_cache`. A bidirectional network has none.
            output_hidden_states: Whether to return the embeddings and each layer's raw output. In training
                `hidden_states[-1]` is the output before `output_dropout` and `last_hidden_state` the one after it.
            past_key_values: The name of `cache` before transformers 5.24.
            kwargs: What transformers passes to every model. Other names give a warning.

        Returns:
            `last_hidden_state` `(B, T, output size)`, `cache`, `hidden_states`.

        Raises:
            ValueError: Both or neither of `input_ids` and `inputs_embeds`, ids for a network over features, a mask or
                a state that does not fit, a state for a bidirectional network, several texts in one row.
        """
        cache = one_cache(cache, past_key_values)
        if not self.config.has_state:
            if cache is not None or use_cache:
                self.config.check_has_state("`use_cache=True`" if cache is None else "`cache`")
            use_cache = False
        inputs = read_inputs(input_ids, inputs_embeds, self.config.input_size)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        states = self._read_state(cache, len(inputs))
        mask = read_mask(attention_mask, inputs)
        check_extra(kwargs, mask)
        if self.words is not None:
            inputs, mask = self._embed_words(inputs, mask)
        if use_cache and cache is not None and cache.layers[0].record_past:
            outputs, hidden_states = self._run_recorded(inputs, cache, mask, output_hidden_states)
        else:
            outputs, hidden_states = self._run_layers(inputs, states, mask, output_hidden_states)
            cache = self._write_state(cache, states, inputs.shape[1]) if use_cache else None
        return BaseModelOutputWithPast(
            last_hidden_state=outputs,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            **{CACHE_NAME: cache},
        )

    # torch.compile does not trace recurrent modules: better one break around all layers than some within each.
    @torch.compiler.disable
    def _run_layers(
        self, inputs: torch.Tensor, states: list[State], mask: torch.Tensor | None, keeps: bool
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Outputs and, if it `keeps` them, the hidden states before each layer and after the last.

        Takes ids `(B, T)` or embeddings `(B, T, E)`; replaces the entries of `states`.
        """
        rows = None if mask is None else Compaction.from_mask(mask)
        if mask is not None and rows is not None and self.input_projection is not None:
            inputs = inputs.masked_fill(~mask[..., None], 0)  # NaN there would get into the gradients of the weights
        if rows is None or keeps:
            embeds = self._embed(inputs)
            hidden_states = [embeds] if keeps else []
            embeds = embeds if rows is None else rows.compact(embeds)
        else:  # ids are moved in place of embeddings, which is less to copy
            embeds, hidden_states = self._embed(rows.compact(inputs)), []
        if rows is not None and inputs.is_floating_point():
            embeds = embeds.masked_fill(rows.padding[..., None], 0)  # which may be anything there
        outputs = locked_dropout(embeds, self.config.input_dropout, self.training)
        for index, layer in enumerate(self.layers):
            is_last = index + 1 == len(self.layers)
            states[index] = tuple(placed(part, outputs) for part in states[index])
            if rows is None:
                raw, *states[index] = layer(outputs, *states[index])
                shown = raw
            else:
                before = self._zeros_if_none(states[index], index, outputs)
                raw, _, cell = layer(outputs, *before, rows.padding)
                shown = rows.spread(raw, before[0]) if keeps or is_last else None
                if not self.config.bidirectional:
                    # A copy, as a view would hold the outputs of the whole window with the state.
                    states[index] = (rows.last(raw, before[0]) if shown is None else shown[:, -1].clone(), cell)
            if keeps:
                hidden_states.append(shown)
            if not is_last:
                outputs = locked_dropout(raw, self.config.hidden_dropout, self.training)
        return locked_dropout(shown, self.config.output_dropout, self.training), hidden_states

    def _run_recorded(
        self, inputs: torch.Tensor, cache: RNNCache, mask: torch.Tensor | None, keeps: bool
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """As `_run_layers`, with the last tokens one at a time, so that `cache` records the state before each."""
        time = inputs.shape[1]
        sizes = [time - RECORDED_STEPS] * (time > RECORDED_STEPS) + [1] * min(time, RECORDED_STEPS)
        masks = [None] * len(sizes) if mask is None else mask.split(sizes, dim=1)
        runs = []
        for part, part_mask, size in zip(inputs.split(sizes, dim=1), masks, sizes, strict=True):
            states = self._read_state(cache, len(part))
            runs.append(self._run_layers(part, states, part_mask, keeps))
            self._write_state(cache, states, size)
        outputs, of_layers = zip(*runs, strict=True)
        hidden_states = [torch.cat(parts, dim=1) for parts in zip(*of_layers, strict=True)] if keeps else []
        return torch.cat(outputs, dim=1), hidden_states

    def _embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """Ids `(B, T)`, embeddings `(B, T, E)` or features to embeddings; under autocast of the weights' type."""
        if inputs.is_floating_point():
            given = inputs.to((self.embed_tokens or self.input_projection).weight.dtype)
            return given if self.input_projection is None else self.input_projection(given).to(given.dtype)
        embeds = self.embed_tokens(inputs)
        if self.training and self.config.embedding_dropout:
            # A mask over word types, looked up: the same as dropping rows of the matrix, without touching all of it.
            keep = F.dropout(embeds.new_ones(self.embed_tokens.num_embeddings), self.config.embedding_dropout)
            embeds = embeds * keep[inputs, None]
        return embeds

    # How many words there are, and of how many characters, is known at run time only.
    @torch.compiler.disable
    def _embed_words(self, ids: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Pieces `(B, T)` to the vectors of their words, `(B, T, E)`, and where words begin, `(B, T)`."""
        if ids.is_floating_point():
            raise ValueError("a network with `character_embedding_size` reads `input_ids`, not `inputs_embeds`")
        rows, spelled, firsts = self.words(ids, mask)
        embeds = self._embed(rows) * (rows != NO_ROW)[..., None]
        return torch.cat([embeds, spelled], dim=-1), firsts

    def real_steps(self, inputs: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """What the layers read of ids or embeddings: `(B, T)`, true at real tokens, or where words begin."""
        mask = read_mask(attention_mask, inputs)
        return mask if self.words is None else self.words.first_pieces(inputs, mask)

    def _read_state(self, cache: RNNCache | None, rows: int) -> list[State]:
        if cache is None:
            return [(None, None)] * len(self.layers)
        check_state(cache, self.state_sizes, rows)
        return [(layer.keys, layer.values) for layer in cache.layers]

    def _write_state(self, cache: RNNCache | None, states: list[State], num_tokens: int) -> RNNCache:
        cache = RNNCache(self.config) if cache is None else cache
        for layer, (hidden, cell) in zip(cache.layers, states, strict=True):
            layer.update(hidden, cell, num_tokens)
        return cache

    def _zeros_if_none(self, state: State, index: int, inputs: torch.Tensor) -> State:
        if state[0] is not None or self.config.bidirectional:
            return state
        size, cell_size = self.state_sizes[index]
        hidden = inputs.new_zeros(len(inputs), size)
        return hidden, None if cell_size is None else inputs.new_zeros(len(inputs), cell_size)


class RNNForCausalLM(RNNPreTrainedModel, RNNGenerationMixin):
    """A recurrent language model: [`RNNModel`] and a linear layer to the vocabulary, or a mixture of softmaxes.

    With `output_projection_size` there are two linear layers, the first to that width. With `reads_backward` it is a
    model of reversed text: it is given tokens in the order in which it reads them, the last one first.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: RNNConfig):
        config.check_has_state("a language model")
        config.check_reads_tokens("a language model")
        super().__init__(config)
        self.model = RNNModel(config)
        self.mixture, self.output_projection, width = None, None, config.output_size
        if config.num_softmaxes > 1:
            self.mixture, width = MixtureOfSoftmaxes(config), config.embedding_size
        elif config.output_projection_size is not None:
            self.output_projection = nn.Linear(width, config.output_projection_size)
            width = config.output_projection_size
        self.lm_head = nn.Linear(width, config.vocab_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        cache: RNNCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        skip_logits: bool = False,
        past_key_values: RNNCache | None = None,
        **kwargs: Any,
    ) -> Any:
        """Predict the next token at each position. Arguments as in [`RNNModel.forward`], and:

        Args:
            labels: `(B, T)`, the input ids themselves; shifted inside, -100 is ignored.
            logits_to_keep: Positions to predict at: the last n (0 for all), or indices `(n,)` or `(B, n)`,
                or a boolean `(B, T)`, which gives `(number of true, V)`.
            skip_logits: With labels, compute the loss chunk by chunk and return no logits: less memory and time.
            kwargs: `shift_labels` `(B, T)`, the token after each position, for a caller who knows the one after the
                window; `num_items_in_batch`, which divides the summed loss in place of the number of labels.

        Returns:
            `loss` (mean negative log-likelihood in nats), `logits` `(B, T, V)`, `cache`, `hidden_states`.

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
            cache=one_cache(cache, past_key_values),
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
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, **{CACHE_NAME: outputs.cache}
        )

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B, T, H)` or `(N, H)` of the last layer to logits, V in the last place; a mixture's are normalised."""
        if self.mixture is not None:
            return self.mixture(hidden_states, self.lm_head)
        return self.lm_head(self.project(hidden_states))

    def project(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """What the output matrix is applied to, `(..., E)`, from `(..., H)` of the last layer."""
        return hidden_states if self.output_projection is None else self.output_projection(hidden_states)

    def compute_loss(
        self,
        hidden_states: torch.Tensor,
        targets: torch.Tensor,
        logits: torch.Tensor | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> torch.Tensor:
        """Cross entropy in nats, mean over the targets; without `logits` and a mixture, part by part.

        Args:
            hidden_states: Of the last layer, `(B, T, H)`.
            targets: The token after each, `(B, T)`, -100 to ignore it.
            logits: `(B, T, V)`, where they are at hand.
            num_items_in_batch: Divides the summed loss in place of the number of targets.
            label_smoothing: Share of each target that is spread over all words (Szegedy et al., 2016).
        """
        targets = targets.flatten().long()
        # The loss in parts reads the weights themselves, so only where nothing else would be run on the way.
        if logits is None and self.mixture is None and self._has_plain_head():
            weight, bias, projected = self.lm_head.weight, self.lm_head.bias, self.project(hidden_states)
            loss = linear_cross_entropy(projected.flatten(0, 1), weight, bias, targets, label_smoothing)
        else:
            logits = (self.compute_logits(hidden_states) if logits is None else logits).flatten(0, 1)
            # transformers' own loss casts to float32, which would take a float64 model's digits away.
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            loss = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=label_smoothing)
        return loss / ((targets != -100).sum() if num_items_in_batch is None else num_items_in_batch)


class RNNClassifier(RNNPreTrainedModel):
    """What classifiers of texts and of tokens share: [`RNNModel`], dropout, and a linear layer `score` to the labels.

    The checkpoint of a language model loads as either, with a new `score`. With `reads_backward` texts and outputs are
    in the order of the text, and a padding position shows the output of the real token after it.
    """

    _keys_to_ignore_on_load_unexpected = [r"^lm_head\.", r"^mixture\.", r"^output_projection\."]

    def __init__(self, config: RNNConfig, width: int):
        config.check_reads_tokens("a classifier of texts")
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = RNNModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.score = nn.Linear(width, config.num_labels)
        self.post_init()

    def _run_backbone(
        self,
        input_ids: torch.LongTensor | None,
        attention_mask: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        output_hidden_states: bool | None,
        given: dict[str, Any],
    ) -> Any:
        """The network over whole texts, with what else was `given` to `forward`; in the order of the text."""
        if any(given.get(name) is not None for name in CACHE_NAMES):
            raise ValueError("`cache` is not for a classifier: it reads whole texts and keeps no state")
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds, **given}
        if self.config.reads_backward:
            inputs = from_end(input_ids, attention_mask, inputs_embeds, given)
        inputs |= {"output_hidden_states": output_hidden_states, "use_cache": False, "return_dict": True}
        outputs = self.model(**inputs)
        if self.config.reads_backward:
            outputs.last_hidden_state, *shown = flip_time(outputs.last_hidden_state, *(outputs.hidden_states or ()))
            outputs.hidden_states = tuple(shown) or None
        return outputs


class RNNForSequenceClassification(RNNClassifier):
    """A classifier of texts: `score` on what `config.pooling` makes of the outputs at a text's real tokens."""

    def __init__(self, config: RNNConfig):
        super().__init__(config, pooled_size(config.output_size, config.pooling))

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Classify texts. Arguments as in [`RNNModel.forward`], and:

        Args:
            attention_mask: As there. Without it all tokens are real: padding is never told by its id. A text without a
                real token is classified from zeros.
            labels: `(B,)` for one label a text, `(B, num_labels)` for several or for regression, by
                `config.problem_type`; `None` there: by `num_labels` and the type of the labels.
            kwargs: `num_items_in_batch`, which divides the summed loss in place of the number in this batch.

        Returns:
            `loss`, `logits` `(B, num_labels)`, `hidden_states`.

        Raises:
            ValueError: As in [`RNNModel.forward`]; a state; labels of a wrong shape or type.
        """
        outputs = self._run_backbone(input_ids, attention_mask, inputs_embeds, output_hidden_states, kwargs)
        mask = self.model.real_steps(inputs_embeds if input_ids is None else input_ids, attention_mask)
        hidden = outputs.last_hidden_state
        if self.config.reads_backward:  # whose last output is at the first token
            hidden, mask = flip_time(hidden, mask)
        pooled = pool(hidden, mask, self.config.pooling, self.config.num_directions)
        logits, loss = self.score(self.dropout(pooled)), None
        if labels is not None:
            loss = text_loss(logits, labels, self.config.problem_type, kwargs.get("num_items_in_batch"))
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


class RNNForTokenClassification(RNNClassifier):
    """A classifier of tokens: `score` on the output at each."""

    def __init__(self, config: RNNConfig):
        super().__init__(config, config.output_size)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Classify tokens. Arguments as in [`RNNModel.forward`], and:

        Args:
            labels: `(B, T)`, -100 to ignore a token.
            kwargs: `num_items_in_batch`, which divides the summed loss in place of the number of labels.

        Returns:
            `loss` (mean cross entropy in nats), `logits` `(B, T, num_labels)`, `hidden_states`.

        Raises:
            ValueError: As in [`RNNModel.forward`]; a state; labels of a wrong shape.
        """
        outputs = self._run_backbone(input_ids, attention_mask, inputs_embeds, output_hidden_states, kwargs)
        logits, loss = self.score(self.dropout(outputs.last_hidden_state)), None
        if labels is not None:
            loss = token_loss(logits, labels, kwargs.get("num_items_in_batch"))
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


def placed(part: torch.Tensor | None, inputs: torch.Tensor) -> torch.Tensor | None:
    """A part of a state in the type of a layer's `inputs` and on their kind of device; itself where these agree.

    From one GPU to another Accelerate moves it, where the layers of a model lie on several.
    """
    if part is None:
        return None
    return part.to(inputs.dtype) if part.device.type == inputs.device.type else part.to(inputs)


def tiny_network() -> RNNForCausalLM:
    """What `check_contract` of generation_rnn runs: its beams change places, and its words depend on the state."""
    config = RNNConfig(vocab_size=11, hidden_size=8, num_hidden_layers=1, cell_type="rnn")
    network, start = RNNForCausalLM(config).double().eval(), 0
    network.model.layers[0].steps_directly = False
    with torch.no_grad():
        for parameter in network.parameters():  # numbers without a pattern, the same everywhere
            numbers = torch.arange(start, start + parameter.numel(), dtype=torch.float64)
            parameter.copy_((78.233 * numbers).sin().view_as(parameter))
            start += parameter.numel()
        network.lm_head.bias.zero_()
    return network


RNNGenerationMixin.tiny_network = staticmethod(tiny_network)
register_causal(RNNForCausalLM)

__all__ = [
    "RNNForCausalLM",
    "RNNForSequenceClassification",
    "RNNForTokenClassification",
    "RNNLayer",
    "RNNModel",
    "RNNPreTrainedModel",
]

"""An exported language model in ONNX Runtime, with the calls, the state and the `generate()` of the PyTorch model.

Shapes in comments: B batch, T time, H width of a layer, V vocabulary.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F
from transformers import AutoConfig, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import can_return_tuple, logging
from transformers.utils.hub import cached_file

from rnn_hf.errors import InputError
from rnn_hf.models import RNNCache, RNNConfig
from rnn_hf.models.cache_rnn import RECORDED_STEPS, check_state
from rnn_hf.models.generation_rnn import RNNGenerationMixin
from rnn_hf.models.integrity_rnn import check_cached
from rnn_hf.models.modeling_rnn import check_extra, select_positions
from rnn_hf.models.versions_rnn import CACHE_NAME, CausalLMOutputWithPast, one_cache
from rnn_hf.onnx.graph import interface_of
from rnn_hf.onnx.session import check_provider, head_of, open_session
from rnn_hf.onnx.speech_graph import SPEECH


LARGEST_LOGITS = 2**26  # numbers that one run may give (256 MB) where not all are asked for
REFUSED = {
    "inputs_embeds": "the graph begins with token ids",
    "output_hidden_states": "the graph gives logits and the state alone",
}

logger = logging.get_logger(__name__)

# A pipeline says of a class whose name does not stand here that it does not support it.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["rnn_hf_onnx"] = "RNNONNXForCausalLM"


class RNNONNXForCausalLM(RNNGenerationMixin):
    """A language model that `export_onnx` wrote, run by ONNX Runtime; use it as the [`RNNForCausalLM`] it was.

    It takes the same arguments, gives the same outputs and carries the same state, so what is built on the model
    (`generate()`, pipelines, `score`, `evaluate`, `RNNCache`) works on it. It is no torch module: tensors go in and
    come out on the CPU, in float32, and it is not trained. [`RNNONNXForCausalLM.from_pretrained`] makes it.

    A graph with the logits of the last position alone runs a position at a time where more are asked for.

    A pickle or a deep copy has no weights: it opens the same file again.

    Attributes:
        config, generation_config: Of the model.
        identity: Checksum of the weights that the graph was made of, so that states are saved and loaded between it
            and the PyTorch model.
    """

    main_input_name = "input_ids"
    base_model_prefix = ""
    input_modalities = "text"
    device, dtype = torch.device("cpu"), torch.float32
    training = False
    _is_stateful = False

    def __init__(self, config: RNNConfig, generation_config: GenerationConfig, path: str, provider: str, threads: int):
        """As `from_pretrained`, of the file at `path`."""
        self.config, self.generation_config = config, generation_config
        self.name_or_path = path
        self._provider, self._threads = provider, threads
        session = open_session(path, provider, threads)
        self._session: Any = session
        self._head: Any = None
        self._metadata = metadata = session.get_modelmeta().custom_metadata_map
        if "task" in metadata:
            kind = "recognizer of speech" if metadata["task"] == SPEECH else "classifier"
            raise InputError(f"{path} is a {kind} and no language model: run it by ONNX Runtime alone")
        if not {"identity", "logits"} <= set(metadata):
            raise InputError(f"{path} was not written by rnn_hf's exporter: export the model by `rnn-hf export`")
        self.identity = metadata["identity"]
        self._gives_last = metadata["logits"] == "last"
        interface = interface_of(config, self._gives_last)
        actual = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
        expected = {value["name"]: value["shape"] for side in interface.values() for value in side}
        if actual != expected:
            raise InputError(f"{path} is not the graph of its config.json: that has {expected}, and this {actual}")
        self._past = [value["name"] for value in interface["inputs"][1:]]
        self._widths = [value["shape"][1] for value in interface["inputs"][1:]]

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike,
        *,
        file_name: str = "model.onnx",
        provider: str = "cpu",
        threads: int | None = None,
        **hub: Any,
    ) -> "RNNONNXForCausalLM":
        """Load an exported folder.

        Args:
            name: The folder, or a repository of the Hub that holds one.
            file_name: The graph in it: `model.onnx`, `model_int8.onnx`.
            provider: What ONNX Runtime runs it on: `cpu`, `cuda` or `tensorrt`; said on stderr, once a process.
            threads: Threads of one run; `None` is as many as PyTorch has.
            hub: For a repository: `revision`, `token`, `cache_dir`, `local_files_only`, as transformers has them.

        Raises:
            MissingPackageError: onnxruntime is not installed; the message names the extra.
            InputError: A provider that is unknown or not installed, or a graph that is not that of `config.json`.
            OSError: There is no such folder or repository, it lacks the file, or the file is damaged.
        """
        check_provider(provider)
        if threads is not None and threads < 1:
            raise InputError(f"`threads` must be at least 1, or None for as many as PyTorch has; got {threads}")
        try:
            config = AutoConfig.from_pretrained(name, **hub)
        except (ValueError, StrictDataclassError) as error:
            raise InputError(f"cannot load the export {name}: {' '.join(str(error).split())}") from error
        if not isinstance(config, RNNConfig):
            raise InputError(f"{name} holds a {config.model_type}, which is no model of this package")
        path = str(cached_file(name, file_name, **hub))
        if not os.path.exists(name):
            check_cached(name, Path(path))
        try:
            generation_config = GenerationConfig.from_pretrained(name, **hub)
        except OSError:
            generation_config = GenerationConfig.from_model_config(config)
        threads = threads or torch.get_num_threads()
        model = cls(config, generation_config, path, provider, threads)
        logger.warning_once(f"ONNX Runtime runs on {model._session.get_providers()[0]}, threads of the CPU: {threads}")
        return model

    def __copy__(self) -> "RNNONNXForCausalLM":
        """A runner with its own attributes and the same session, which has no state."""
        new = object.__new__(type(self))
        vars(new).update(vars(self))
        return new

    def __getstate__(self) -> dict[str, Any]:
        # ONNX Runtime's sessions are not pickled.
        return {**vars(self), "_session": None, "_head": None, "name_or_path": os.path.abspath(self.name_or_path)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._session = open_session(self.name_or_path, self._provider, self._threads)
        if self._session.get_modelmeta().custom_metadata_map != self._metadata:
            raise InputError(f"{self.name_or_path} is no longer the file of the runner that was pickled or copied")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        cache: RNNCache | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        skip_logits: bool = False,
        past_key_values: RNNCache | None = None,
        **kwargs: Any,
    ) -> Any:
        """Predict the next token at each position; arguments and outputs as of `RNNForCausalLM.forward`.

        Raises:
            ValueError: As there; or embeddings are given, or hidden states are asked for.
            IndexError: A token id outside the vocabulary.
        """
        self._refuse(kwargs)
        targets = kwargs.get("shift_labels")
        if targets is None and labels is not None:
            targets = F.pad(labels, (0, 1), value=-100)[:, 1:]
        if targets is not None and not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
            raise ValueError("`logits_to_keep` does not go with `labels`: the loss needs every position")
        if skip_logits and targets is None:
            raise ValueError("`skip_logits=True` needs `labels` or `shift_labels`: there is nothing else to return")
        ids, mask = self._check_inputs(input_ids, attention_mask)
        extra = {name: value for name, value in kwargs.items() if name not in {"shift_labels", *REFUSED}}
        check_extra(extra, torch.from_numpy(mask))
        rows, time = ids.shape
        use_cache = self.config.use_cache if use_cache is None else use_cache
        cache = one_cache(cache, past_key_values)
        cache = RNNCache(self.config) if cache is None else cache
        states = self._read_state(cache, rows)
        first = max(time - logits_to_keep, 0) if isinstance(logits_to_keep, int) and logits_to_keep > 0 else 0

        kept: list[torch.Tensor] = []
        loss = torch.zeros((), device="cpu")
        start = 0
        for size in self._pieces(rows, time, use_cache and cache.layers[0].record_past):
            part = slice(start, start + size)
            values, states = self._run(ids[:, part], mask[:, part], states, min(max(first - start, 0), size))
            logits = torch.from_numpy(values)
            if use_cache:
                self._write_state(cache, states, size)
            if targets is not None:
                loss += F.cross_entropy(logits.flatten(0, 1), targets[:, part].flatten().cpu(), reduction="sum")
            if not skip_logits:
                kept.append(logits)
            start += size
        if targets is not None:
            count = kwargs.get("num_items_in_batch")
            loss = loss / ((targets != -100).sum() if count is None else count)
        if kept:
            logits = select_positions(kept[0] if len(kept) == 1 else torch.cat(kept, dim=1), logits_to_keep)
        return CausalLMOutputWithPast(
            loss=None if targets is None else loss,
            logits=logits if kept else None,
            **{CACHE_NAME: cache if use_cache else None},
        )

    def _refuse(self, arguments: dict[str, Any]) -> None:
        if arguments.get("output_hidden_states") is None:
            arguments = {**arguments, "output_hidden_states": self.config.output_hidden_states}
        for name, reason in REFUSED.items():
            if arguments.get(name) is not None and arguments[name] is not False:
                raise ValueError(f"`{name}` is not supported: {reason}")

    def _check_inputs(self, input_ids, attention_mask) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask, `(B, T)` each, the mask true at real tokens."""
        if input_ids is None:
            raise ValueError("pass `input_ids`")
        if input_ids.ndim != 2 or not input_ids.shape[1]:
            shape = tuple(input_ids.shape)
            raise ValueError(f"`input_ids` must be (batch, time) with at least one time step, got shape {shape}")
        ids = input_ids.to("cpu", torch.int64).numpy()
        if ids.size and not (ids.min() >= 0 and ids.max() < self.config.vocab_size):
            largest = self.config.vocab_size - 1
            raise IndexError(f"`input_ids` must be from 0 to {largest}, got {ids.min()} to {ids.max()}")
        if attention_mask is None:
            return ids, np.ones(ids.shape, dtype=bool)
        batch, time = ids.shape
        if attention_mask.ndim != 2 or len(attention_mask) != batch or attention_mask.shape[1] < time:
            raise ValueError(
                f"`attention_mask` must be ({batch}, {time}) or longer in time, got {tuple(attention_mask.shape)}"
            )
        return ids, attention_mask[:, -time:].to("cpu", torch.bool).numpy()

    def _pieces(self, rows: int, time: int, is_recording: bool) -> list[int]:
        """Sizes of the parts of a window that are run in turn: one at a time those that the state records."""
        single = min(time, RECORDED_STEPS) if is_recording else 0
        longest = max(1, LARGEST_LOGITS // (rows * self.config.vocab_size or 1))
        whole, rest = divmod(time - single, longest)
        return [longest] * whole + [rest] * bool(rest) + [1] * single

    def _run(self, ids, mask, states, first: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Logits `(B, T - first, V)` from position `first` on, and the state after; see `Packing` of modeling_rnn.

        A row's real tokens are run as if they stood side by side. A position shows the logits after the last of them
        up to there.
        """
        seen = mask.cumsum(axis=1)  # (B, T)
        lengths = seen[:, -1]
        wanted = seen[:, first:]
        ids = np.take_along_axis(ids, (~mask).argsort(axis=1, kind="stable"), axis=1)
        unseen = np.maximum(wanted[:, 0] - 1, 0) if wanted.shape[1] else lengths  # tokens before the first wanted
        _, states = self._run_rows(ids, np.zeros_like(unseen), unseen, states, keep=False)
        hidden = states[-2 if self.config.cell_type == "lstm" else -1]  # of the last layer
        logits, states = self._run_rows(ids, unseen, lengths, states, keep=True)
        places = wanted - unseen[:, None]  # in `logits`, from 1; 0 for padding before the first token
        if logits.shape[1] == places.shape[1] and (places == np.arange(1, places.shape[1] + 1)).all():
            return logits, states
        before = np.empty((len(ids), 1, self.config.vocab_size), dtype=np.float32)
        empty = (places == 0).any(axis=1)
        if empty.any():
            before[empty] = self._logits_of(hidden[empty])
        return np.concatenate([before, logits], axis=1)[np.arange(len(ids))[:, None], places], states

    def _run_rows(self, ids, starts, stops, states, keep: bool) -> tuple[np.ndarray, list[np.ndarray]]:
        """Run each row's ids from `starts` to `stops`, at each step the rows that are not through.

        Returns:
            Logits `(B, longest, V)`, of any value after the end of a row; `(B, 0, V)` unless they are to `keep`.
        """
        lengths = stops - starts
        longest = int(lengths.max(initial=0))
        ends = np.unique(lengths[lengths > 0])
        if keep and self._gives_last:
            ends = np.arange(1, longest + 1)
        logits = np.empty((len(ids), longest if keep else 0, self.config.vocab_size), dtype=np.float32)
        states = list(states)
        begin = 0
        for end in ends:
            rows = np.flatnonzero(lengths >= end)
            columns = starts[rows, None] + np.arange(begin, end)
            feed = dict(zip(self._past, (state[rows] for state in states), strict=True))
            values, *after = self._session.run(None, {"input_ids": ids[rows[:, None], columns], **feed})
            if len(rows) == len(ids):
                states = after
            else:
                states = [state.copy() for state in states]
                for state, new in zip(states, after, strict=True):
                    state[rows] = new
            if keep and values.shape == logits.shape:
                logits = values
            elif keep:
                logits[rows, begin:end] = values
            begin = end
        return logits, states

    def _logits_of(self, hidden: np.ndarray) -> np.ndarray:
        """What the graph's head makes of outputs of the last layer, `(B, H)` to `(B, 1, V)`.

        For padding before a row's first token, of which the graph gives no logits.
        """
        if self._head is None:
            self._head = open_session(head_of(self.name_or_path, self.config.output_size), "cpu", 1)
        return self._head.run(None, {"hidden": hidden[:, None]})[0]

    def _read_state(self, cache: RNNCache, rows: int) -> list[np.ndarray]:
        """The state in the order of the graph's inputs, zeros for an empty one."""
        check_state(cache, self.config.state_sizes, rows)
        if not cache.layers[0].is_initialized:
            return [np.zeros((rows, width), dtype=np.float32) for width in self._widths]
        return [tensor.detach().to("cpu", torch.float32).numpy() for tensor in tensors_of(cache)]

    def _write_state(self, cache: RNNCache, states: list[np.ndarray], num_tokens: int) -> None:
        tensors = map(torch.from_numpy, states)
        for layer in cache.layers:
            hidden = next(tensors)
            layer.update(hidden, next(tensors) if self.config.cell_type == "lstm" else None, num_tokens)

    def _is_plain(self) -> bool:
        """For the light loop: there are no modules to go around."""
        return True

    def _decoder(self, cache: RNNCache, rows: int, steps: int) -> Any:
        """For the light loop: its step."""
        return SessionDecoder(self, cache)

    def eval(self) -> "RNNONNXForCausalLM":
        """Nothing: there is no other mode."""
        return self

    def train(self, mode: bool = True) -> "RNNONNXForCausalLM":
        """Nothing for `False`.

        Raises:
            ValueError: For `True`.
        """
        if mode:
            raise ValueError("an ONNX graph is not trained: train the PyTorch model and export it again")
        return self

    def to(self, device: Any) -> "RNNONNXForCausalLM":
        """Nothing for the CPU.

        Raises:
            ValueError: For any other device.
        """
        if torch.device(device).type != "cpu":
            raise ValueError(
                "tensors go into an ONNX graph from the CPU, wherever it runs, which `provider` of from_pretrained "
                f"says: pass device='cpu', not {device}"
            )
        return self

    @classmethod
    def can_generate(cls) -> bool:
        return True

    @classmethod
    def is_remote_code(cls) -> bool:
        return False

    def get_experts_implementation(self) -> dict:
        """For transformers' loops, which look whether there are experts."""
        return {}


class SessionDecoder:
    """A `Decoder` of generation_rnn that runs the graph."""

    def __init__(self, model: RNNONNXForCausalLM, cache: RNNCache):
        self.model, self.cache = model, cache

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        model, tensors = self.model, (tensor.numpy() for tensor in tensors_of(self.cache))
        feed = dict(zip(model._past, tensors, strict=True))
        logits, *states = model._session.run(None, {"input_ids": tokens[:, None].numpy(), **feed})
        model._write_state(self.cache, states, 1)
        return torch.from_numpy(logits)[:, 0]

    def close(self) -> None:
        """The state is in the cache after each step."""


def tensors_of(cache: RNNCache) -> list[torch.Tensor]:
    """The state in the order of the graph's inputs."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values) if tensor is not None]

"""What a run leaves next to its model, read and written here alone: run.json and evaluation.json."""

import math
from collections.abc import Mapping
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import hf_hub_download
from safetensors import SafetensorError, safe_open

from rnn_hf.data.corpora import Texts, load_corpus, split_off_validation
from rnn_hf.errors import InputError
from rnn_hf.files import check_local, read_json, sha256_of, write_json


DATA_SOURCES = {"dataset_name", "dataset_dir", "train_file", "validation_file", "test_file"}
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # safetensors' names and torch's


class HasScores(Protocol):
    """What `evaluate` gives, as far as a file of scores asks."""

    def to_dict(self) -> dict[str, float]: ...


def read_run(path: Path) -> dict[str, Any] | None:
    """What a training run of this package wrote into run.json; `None` for no file, or one of another program.

    Raises:
        InputError: As `read_json`.
    """
    run = read_json(path)
    arguments = run.get("arguments") if run else None
    parts = [arguments.get(part) for part in ("model", "data", "training")] if isinstance(arguments, dict) else [None]
    return run if all(isinstance(part, dict) for part in parts) else None


def run_of(name: str, revision: str | None = None) -> dict[str, Any] | None:
    """The content of the run.json of the run that made a model; `None` for a model without one.

    Args:
        name: Directory of the model, or its name on the Hub.
        revision: Branch, tag or commit on the Hub.

    Raises:
        FileNotFoundError: The name can only be a path, and is not there.
        InputError: The file is broken.
    """
    check_local(name)
    path = Path(name) / "run.json"
    if not Path(name).is_dir():
        with suppress(OSError, ValueError):  # not there, not reachable, not a name
            path = Path(hf_hub_download(name, "run.json", revision=revision))
    return read_run(path)


def data_arguments(
    name: str, given: Mapping[str, Any], revision: str | None = None, of_source: str | None = None
) -> dict[str, Any]:
    """The arguments that load the examples of the run behind a model, with its `seed`, or other data in their place.

    Args:
        name: Directory of the model, or its name on the Hub.
        given: Arguments for loading; sources among them replace those of the run, whose columns and the like stay.
        revision: Branch, tag or commit on the Hub.
        of_source: An argument that says something of the run's own source, and is left out for another one.

    Raises:
        InputError: Nothing is given and the model has no run.json of a run.
    """
    run = run_of(name, revision)
    if run is None and not given:
        raise InputError(f"{name} has no run.json of a training run: name data by `dataset_name` or `test_file`")
    arguments = dict((run or {"arguments": {"data": {}}})["arguments"]["data"])
    if given.keys() & DATA_SOURCES:
        kept = {"dataset_name"} if given.keys() & DATA_SOURCES == {"dataset_dir"} else set()
        arguments |= dict.fromkeys(DATA_SOURCES - kept)
        if of_source is not None and not kept:
            arguments[of_source] = None
    seed = ((run or {}).get("arguments", {}).get("training") or {}).get("seed")
    return arguments | {"seed": seed} | dict(given)


def load_corpus_of(name: str, revision: str | None = None, **given: str) -> Texts:
    """The corpus that the run behind a model was trained on, by its run.json; or the one that `given` names.

    Args:
        name: Directory of the model, or its name on the Hub.
        revision: Branch, tag or commit on the Hub.
        given: Arguments of `rnn_hf.data.corpora.load_corpus`, which then count alone.

    Raises:
        InputError: Nothing is given and there is no run.json of a run, or a broken one; or as `load_corpus`.
    """
    if given:
        check_local(name)
        return load_corpus(**given)
    run = run_of(name, revision)
    if run is None:
        raise InputError(
            f"{name} has no run.json of a training run: name a corpus by `dataset_name`, `ptb_dir` or `test_file`"
        )
    data = run["arguments"]["data"]
    try:
        corpus = load_corpus(**{key: data[key] for key in signature(load_corpus).parameters if key in data})
    except FileNotFoundError as error:
        message = f"{error}, as the run.json of {name} calls it: name the files of the corpus"
        raise FileNotFoundError(message) from error
    if "train" in corpus and "validation" not in corpus:
        corpus |= split_off_validation(corpus["train"], data.get("validation_split_percentage", 5))
    return corpus


def save_scores(model_dir: Path, scores: Mapping[str, HasScores], adapted: str = "", settings: Any = None) -> None:
    """Add scores to `evaluation.json` next to the weights, which it names by checksum: those of others are dropped.

    Args:
        model_dir: Directory of the model.
        scores: By split.
        adapted: Name of a test-time adaptation, whose scores stand apart under `adapted`.
        settings: Of the adaptation.
    """
    path = model_dir / "evaluation.json"
    weights = describe_weights(model_dir)
    before = read_json(path) or {}
    content = before if before.get("weights") == weights else {"weights": weights, "scores": {}}
    new = {split: score.to_dict() for split, score in scores.items()}
    if adapted:
        content.setdefault("adapted", {})[adapted] = {"settings": settings, "scores": new}
    else:
        content["scores"] |= new
    write_json(path, content)


def describe_weights(model_dir: Path) -> dict[str, Any]:
    """Size in bytes, type, number of parameters and checksum of the weights in a directory.

    Raises:
        FileNotFoundError: It has no model.safetensors.
        InputError: They are in several files.
    """
    path = model_dir / "model.safetensors"
    if path.with_name(f"{path.name}.index.json").is_file():
        raise InputError(
            f"the weights in {model_dir} stand in several files: save them in one (max_shard_size='50GB')"
        )
    if not path.is_file():
        raise FileNotFoundError(f"no weights {path}")
    parameters, dtypes = 0, set()
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_slice(name)
                if tensor.get_dtype() in DTYPES:  # whole numbers are tables, which nothing was learned for
                    parameters += math.prod(tensor.get_shape())
                    dtypes.add(tensor.get_dtype())
    except SafetensorError as error:
        raise InputError(f"the weights {path} are damaged ({error}): put a whole copy in their place") from error
    dtype = "/".join(sorted(DTYPES[dtype] for dtype in dtypes))
    return {"bytes": path.stat().st_size, "dtype": dtype, "parameters": parameters, "sha256": sha256_of(path)}

"""What a repository of the Hub holds: weights, code, processors, files of the run and card, in one folder."""

import shlex
import shutil
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from transformers import AutoFeatureExtractor, AutoTokenizer

from rnn_hf.data.named_corpora import CORPORA
from rnn_hf.errors import InputError
from rnn_hf.files import read_json, write_into, write_json
from rnn_hf.hub.cards import check_card, name_of, write_card
from rnn_hf.loading import config_of
from rnn_hf.models import HEADS
from rnn_hf.onnx import REPORT_FILE
from rnn_hf.runs import read_run


# What makes inputs of text and recordings, by its file.
PROCESSORS: dict[str, Any] = {"tokenizer_config.json": AutoTokenizer, "preprocessor_config.json": AutoFeatureExtractor}
# What a repository holds besides these, model, code and card: what the card's figures come from.
RUN_FILES = ("metrics.jsonl", "curve.png", "evaluation.json", "conversion.json")
ONNX_FILES = ("*.onnx", "*.json", "trtexec.sh", "README.md")  # of an exported folder
# Arguments of a run that are paths, and those that are paths or names on the Hub.
ANY_PATH = ""  # a word of a command that is no argument of the run
DIRECTORIES = {corpus.directory_argument for corpus in CORPORA.values() if corpus.directory_argument}
FILES = {"train_file", "validation_file", "test_file", "audio_dir"}
PATHS = {ANY_PATH, "recipe", "output_dir", "resume_from_checkpoint"} | FILES | DIRECTORIES
PATHS_OR_NAMES = ("dataset_name", "tokenizer", "tokenizer_name", "init_from", "teachers")


def build_repository(
    model_dir: Path, target: Path, model_id: str | None = None, license: str | None = None, dtype: str | None = None
) -> None:
    """Write a model's complete repository into a directory: weights, code, tokenizer, files of the run, card.

    The model is loaded on the way, so weights that are damaged or incomplete are refused. Paths of this machine are
    taken out of `run.json`. An exported folder goes as it is, with a card of its own.

    Args:
        model_dir: Directory of a run, a model or an ONNX export.
        target: Directory to write to; files in the way are replaced when all is written.
        model_id: Name that the card's examples use; `None` as in `rnn_hf.hub.cards.render_card`, for `target`.
        license: See there.
        dtype: Type of the weights in the file (`float16`, `bfloat16`), which load as what they are now; `None` keeps.

    Raises:
        OSError: There is no model, or its weights do not load.
        InputError: Its configuration does not load; a `dtype` for an ONNX export or too narrow for a weight; or as
            `rnn_hf.hub.cards.check_card`.
    """
    check_card(model_dir, license)
    model_id = model_id or name_of(target)
    if (model_dir / REPORT_FILE).is_file():
        if dtype:
            raise InputError(f"`dtype` is for the weights of a model, and {model_dir} is an ONNX export")
        return build_onnx_repository(model_dir, target, model_id, license)
    config_file = model_dir / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"no model in {model_dir}: it has no config.json")
    config = config_of(str(model_dir))
    name = (config.architectures or ["RNNForCausalLM"])[0]
    kinds = {kind.__name__: kind for kind in HEADS.values()}
    if name not in kinds:
        raise OSError(f"{model_dir} holds a {name}, which is no model of this package")
    model, info = kinds[name].from_pretrained(model_dir, output_loading_info=True)
    wrong = {kind: list(keys) for kind, keys in info.items() if keys}
    if wrong:
        raise OSError(f"the weights in {model_dir} are not those of its config.json: {wrong}")
    if dtype:
        check_range(model.state_dict(), dtype)

    def write(folder: Path) -> None:
        model.to(getattr(torch, dtype) if dtype else model.dtype).save_pretrained(folder)
        if dtype is None and (model_dir / "model.safetensors").is_file():
            # As they are: a file of half precision loads as float32, and would be saved as that.
            shutil.copyfile(model_dir / "model.safetensors", folder / "model.safetensors")
        else:
            written = read_json(folder / "config.json")
            write_json(folder / "config.json", written | {"dtype": str(config.dtype).removeprefix("torch.")})
        for file, kind in PROCESSORS.items():
            if (model_dir / file).is_file():
                kind.from_pretrained(model_dir).save_pretrained(folder)
        if run := read_run(model_dir / "run.json"):
            write_json(folder / "run.json", without_paths(run))
        for file in (*RUN_FILES, "README.md"):
            if (model_dir / file).is_file():
                shutil.copyfile(model_dir / file, folder / file)
        write_card(folder, model_id, license)

    write_into(target, write)


def build_onnx_repository(model_dir: Path, target: Path, model_id: str, license: str | None) -> None:
    """As `build_repository`, for an exported folder, whose files are loaded by ONNX Runtime on the way."""
    from rnn_hf.hub.onnx_card import write_onnx_card  # with ONNX Runtime, which other models do without
    from rnn_hf.onnx.export import check_folder

    interface = check_folder(model_dir)

    def write(folder: Path) -> None:
        for pattern in ONNX_FILES:
            for path in model_dir.glob(pattern):
                shutil.copy(path, folder / path.name)
        write_onnx_card(folder, interface, model_id, license)

    write_into(target, write)


def check_range(weights: dict[str, torch.Tensor], dtype: str) -> None:
    """Refuse a type in which a weight would become infinite.

    Raises:
        InputError: Naming the weight, and a type that holds it.
    """
    limit = torch.finfo(getattr(torch, dtype)).max
    numbers = {name: tensor for name, tensor in weights.items() if tensor.is_floating_point()}
    for name, tensor in numbers.items():  # tables of whole numbers keep their type
        largest = float(tensor.abs().max())
        if largest > limit:
            advice = "use bfloat16" if largest <= torch.finfo(torch.bfloat16).max else "keep the type of the weights"
            raise InputError(f"`dtype` {dtype} holds numbers up to {limit:g}, and {name} has {largest:g}: {advice}")


def without_paths(run: dict[str, Any]) -> dict[str, Any]:
    """The content of run.json without the directories of the machine: files by their names alone.

    >>> data = {"ptb_dir": "/home/me/ptb", "train_file": "/home/me/a.txt"}
    >>> run = {"arguments": {"data": {"ptb_dir": "/home/me/ptb"}}, "command": "train.py --ptb_dir /home/me/ptb"}
    >>> without_paths(run)
    {'arguments': {'data': {'ptb_dir': None, 'dataset_name': 'ptb'}}, 'command': 'train.py --ptb_dir DIR'}
    """
    arguments = {
        part: {name: _without_directory(name, value) for name, value in values.items()}
        if isinstance(values, dict)
        else _without_directory(part, values)
        for part, values in run["arguments"].items()
    }
    data = arguments.get("data", {})
    for name, corpus in CORPORA.items():
        if data.get(corpus.directory_argument or "") and data.get("dataset_name") in (None, name):
            data |= {corpus.directory_argument: None, "dataset_name": name}  # the Hub's copy, for a stranger
    clean = run | {"arguments": arguments}
    if run.get("command"):
        names = {name for values in arguments.values() if isinstance(values, dict) for name in values}
        clean["command"] = _command_without_directories(run["command"], names)
    return clean


def _command_without_directories(command: str, names: set[str]) -> str:
    try:
        words = shlex.split(command)
    except ValueError:  # of a version that joined words without quoting them
        words = command.split()
    clean: list[str] = []
    name = ANY_PATH
    for word in words:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            name = flag.removeprefix("--").replace("-", "_")
            name = name if name in names else ANY_PATH  # a program of the user's own has other flags
            clean.append(flag + equals + _without_directory(name, value))
            name = ANY_PATH if equals else name
        else:
            clean.append(_without_directory(name, word))
            name = ANY_PATH  # a flag has one value
    return shlex.join(clean)


def _without_directory(name: str, value: Any) -> Any:
    """The value of an argument, the last part alone if it is a path; `DIR` where that says nothing, or too much."""
    if not isinstance(value, str) or not value:
        return value
    if name == "teachers" and "," in value:
        return ",".join(_without_directory(name, part.strip()) for part in value.split(","))
    path = PureWindowsPath(value)  # which takes the separators of either system
    is_no_name = len(path.parts) > 2 or path.anchor or value[0] == "~" or path.parts[:1] in ((), ("..",))
    is_no_name = is_no_name or value[0] == "." or Path(value).exists()  # a directory goes before a name
    if name not in PATHS and not (name in PATHS_OR_NAMES and is_no_name):
        return value
    if path.parts[-3:-1] in (("scripts", "recipes"), ("rnn_hf", "recipes")):
        return "/".join(path.parts[-3:])  # of this project
    return "DIR" if name in DIRECTORIES or path.name in ("", "..") or path.name[0] == "~" else path.name

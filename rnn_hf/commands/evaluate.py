"""Scores of a checkpoint on a split: perplexity, accuracy, word errors of speech, errors of forecasts, BLEU.

    rnn-hf evaluate MODEL --split test [--ptb_dir DIR | --dataset_name NAME | --test_file FILE] [--save]
    rnn-hf evaluate CLASSIFIER [CLASSIFIER ...] --split test [--confusion_matrix PNG]
    rnn-hf evaluate RECOGNIZER --split validation [--dataset_dir DIR] [--alignment PNG] [--language_model MODEL]
    rnn-hf evaluate FORECASTER --split validation [--dataset_dir DIR] [--save]
    rnn-hf evaluate TRANSLATOR [TRANSLATOR ...] --split validation [--dataset_dir DIR] [--num_beams 5] [--save]

Without data flags the data is that of the run that made the model. A language model is scored on every token, with the
state carried. Several classifiers are also scored together, by the mean of their probabilities, and so are several
translators of one vocabulary, by that of their log-probabilities. Beside the scores of a model that forecasts stand
those of what needs no network.
"""

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnn_hf.commands import (
    SEARCH,
    Parser,
    add_corpus_flags,
    add_device_flag,
    add_search_flags,
    check_picture,
    corpus_of,
    search_of,
)
from rnn_hf.data.named_corpora import CORPORA, SPLITS
from rnn_hf.errors import InputError


# Kinds of models, and the flags that say something to some of them only.
LANGUAGE_MODEL, CLASSIFIER, RECOGNIZER = "language model", "classifier", "recognizer of speech"
FORECASTER, TRANSLATOR = "model that forecasts", "translator"
FOR = {
    "ptb_dir": (LANGUAGE_MODEL,), "window": (LANGUAGE_MODEL,), "confusion_matrix": (CLASSIFIER,),
    "label_column": (CLASSIFIER,), "dataset_dir": (CLASSIFIER, RECOGNIZER, FORECASTER, TRANSLATOR),
    "audio_dir": (RECOGNIZER,), "transcript_pattern": (RECOGNIZER,), "alignment": (RECOGNIZER,),
    **dict.fromkeys(SEARCH, (RECOGNIZER,)), "num_beams": (RECOGNIZER, TRANSLATOR),
    **dict.fromkeys(("source_lang", "target_lang", "bleu_tokenize"), (TRANSLATOR,)),
}  # fmt: skip
# Besides those of a corpus of text.
OF_DATA = (
    "dataset_dir", "label_column", "audio_dir", "transcript_pattern", "source_lang", "target_lang", "bleu_tokenize",
)  # fmt: skip
# Some corpora have several sets to test on.
ALL_SPLITS = list(dict.fromkeys([*SPLITS, *(split for corpus in CORPORA.values() for split in corpus.files)]))


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "evaluate")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="directory, or name on the Hub")
    parser.add_argument("--revision", help="branch, tag or commit of a model of the Hub")
    parser.add_argument("--split", choices=ALL_SPLITS, nargs="+", default=["validation"], help="to score")
    parser.add_argument(
        "--batch_size", type=int, help="pieces of the text (default 1, which is exact) or examples scored in parallel"
    )
    parser.add_argument(
        "--window", type=int, help="steps a forward pass of a language model (256); does not change the result"
    )
    parser.add_argument(
        "--confusion_matrix", metavar="PNG", help="picture to draw of the last split, for a classifier"
    )
    parser.add_argument(
        "--alignment", metavar="PNG", help="picture to draw of a string of the last split, for a recognizer of speech"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a split")
    parser.add_argument("--save", action="store_true", help="add to MODEL/evaluation.json, which the card is made of")
    add_corpus_flags(parser)
    parser.add_argument("--dataset_dir", metavar="DIR", help="directory of mr, ewt_pos, fsdd, etth1 or multi30k")
    parser.add_argument("--label_column", metavar="COLUMN", help="column of labels, for a classifier")
    parser.add_argument("--audio_dir", metavar="DIR", help="folder or archive of the files of a table of transcripts")
    parser.add_argument("--transcript_pattern", metavar="REGEX", help="of names of files of audio, as in training")
    parser.add_argument("--source_lang", metavar="LANGUAGE", help="to translate from, as files and columns call it")
    parser.add_argument("--target_lang", metavar="LANGUAGE", help="to translate into")
    parser.add_argument(
        "--bleu_tokenize", choices=("none", "13a", "intl", "char"),
        help="how BLEU splits words, none for tokenised text; default: as for the run's own text, or 13a",
    )  # fmt: skip
    add_search_flags(parser)
    add_device_flag(parser)
    return parser.parse_args(argv)


def check(arguments: Namespace, given: Mapping[str, str]) -> Any:
    """The task of the models; flags that do not fit it or each other are refused before they are loaded."""
    from rnn_hf.loading import config_of
    from rnn_hf.tasks import FORECASTING, LANGUAGE_MODELING, SPEECH_RECOGNITION, TRANSLATION, task_of_model

    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise InputError(f"--batch_size must be at least 1, got {arguments.batch_size}")
    if arguments.save and len(arguments.models) > 1:
        raise InputError("--save is for one model: evaluate each alone")
    if arguments.save and not Path(arguments.models[0]).is_dir():
        raise InputError(f"--save needs a directory, and {arguments.models[0]} is none")
    config: Any = config_of(arguments.models[0], arguments.revision)
    task = task_of_model(config.architectures)
    kinds_of_task = {
        LANGUAGE_MODELING: LANGUAGE_MODEL, SPEECH_RECOGNITION: RECOGNIZER, FORECASTING: FORECASTER,
        TRANSLATION: TRANSLATOR,
    }  # fmt: skip
    kind = kinds_of_task.get(task, CLASSIFIER)
    if kind not in (CLASSIFIER, TRANSLATOR) and len(arguments.models) > 1:
        raise InputError(
            f"several models are scored together if they are classifiers or translators; {arguments.models[0]} is none"
        )
    for name, kinds in FOR.items():
        if getattr(arguments, name) is not None and kind not in kinds:
            raise InputError(f"--{name} does not go with {arguments.models[0]}, which is a {kind}")
    directories = {corpus.directory_argument for corpus in CORPORA.values()}
    is_exact = kind != LANGUAGE_MODEL or (arguments.batch_size or 1) == 1
    if arguments.save and (given.keys() - directories or not is_exact):
        raise InputError(
            "--save is for the run's own corpus scored exactly: drop --batch_size and all of the data flags but "
            "the directory of the corpus"
        )
    if search_of(arguments) and (arguments.save or arguments.alignment):
        flag = "save" if arguments.save else "alignment"
        search = "search by default" if kind == TRANSLATOR else "best path"
        raise InputError(f"--{flag} is for the {search}: drop --{' and --'.join(search_of(arguments))}")
    if arguments.confusion_matrix and config.problem_type in ("multi_label_classification", "regression"):
        raise InputError("--confusion_matrix needs one class a text, and this model gives several or a number")
    for flag in ("confusion_matrix", "alignment"):
        check_picture(flag, getattr(arguments, flag))
    return task


def run(arguments: Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from rnn_hf.runs import save_scores
    from rnn_hf.tasks import FORECASTING, LANGUAGE_MODELING, SPEECH_RECOGNITION, TRANSLATION

    disable_progress_bar()
    given = corpus_of(arguments)
    given |= {name: value for name in OF_DATA if (value := getattr(arguments, name))}
    task = check(arguments, given)
    models: list[Any] = arguments.models
    options: dict[str, Any] = {
        name: value for name in ("batch_size", "window") if (value := getattr(arguments, name)) is not None
    }
    options |= {"revision": arguments.revision, "progress": not arguments.json, "device": arguments.device}
    if task is SPEECH_RECOGNITION:
        options["search"] = search_of(arguments)
    if task is TRANSLATION:
        scores = task.module.evaluate_models(models, arguments.split, given, **options, **search_of(arguments))
    elif task in (LANGUAGE_MODELING, SPEECH_RECOGNITION, FORECASTING):
        scores = [task.module.evaluate(models[0], arguments.split, given, **options)]
    else:
        from rnn_hf.tasks.labelled import evaluate_models

        scores = evaluate_models(task.name, models, arguments.split, given, **options)
    if arguments.save:
        save_scores(Path(models[0]), scores[0])
    # Behind several models stands their ensemble.
    for model, of_model in zip([*models, models], scores, strict=False):
        for split, score in of_model.items():
            show(arguments, task, model, split, score)
    if arguments.confusion_matrix:
        draw(arguments, scores[-1][arguments.split[-1]])
    if arguments.alignment:
        from rnn_hf.tasks.speech_alignment import draw_alignment

        place = Path(arguments.alignment)
        draw_alignment(models[0], arguments.split[-1], given, place, arguments.revision, arguments.device)
    return 0


def show(arguments: Namespace, task: Any, model: str | list[str], split: str, score: Any) -> None:
    """Print the scores of a model, or of several as an ensemble, on a split."""
    if arguments.json:
        print(json.dumps({"model": model, "split": split} | score.to_dict()))
        return
    name = f"ensemble of {len(model)}" if isinstance(model, list) else model
    about = f"{name}, {split}" if len(arguments.models) > 1 else split
    print(f"{about}: {task.module.describe_score(score)}")


def draw(arguments: Namespace, score: Any) -> None:
    """Write the picture of what a classifier, or an ensemble, takes for what."""
    from rnn_hf.tasks.confusion import plot_confusion

    number = len(arguments.models)
    name = f"ensemble of {number}" if number > 1 else Path(arguments.models[0]).name
    title = f"{name}, {arguments.split[-1]}: {score.count:,} {score.unit}"
    plot_confusion(score.confusion, list(score.classes), title, Path(arguments.confusion_matrix))

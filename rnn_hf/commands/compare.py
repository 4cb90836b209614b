"""Training runs side by side; of runs that differ in the seed alone also mean and standard deviation.

    rnn-hf compare RUN [RUN ...] [--format json] [--plot PNG [--logs FILE ...]]

Validation is the best of each run's own, test what `rnn-hf evaluate --save` wrote. Scores are by the metric of the
task: perplexity of a language model, accuracy of a classifier.
"""

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from rnn_hf.commands import Parser
from rnn_hf.tables import FORMATS


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "compare")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="directory of a run")
    parser.add_argument("--format", choices=("text", *FORMATS), default="text", help="of what is printed")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw validation over the hours of training")
    parser.add_argument(
        "--logs", nargs="+", default=[], type=Path, metavar="FILE",
        help="what word_language_model or awd-lstm-lm printed on one thread, to be drawn too",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    if arguments.logs and arguments.plot is None:
        parser.error("--logs are drawn: give --plot PNG")
    for file in arguments.logs:
        if not file.is_file():
            parser.error(f"--logs: there is no file {file}")
    return arguments


def run(arguments: Namespace) -> int:
    from rnn_hf.comparison import compare, plot_runs, table_rows
    from rnn_hf.tables import aligned, table_lines

    directories = [Path(run) for run in arguments.runs]
    comparison = compare(directories)
    if arguments.plot is not None:
        plot_runs(directories, comparison["runs"], arguments.logs, arguments.plot)
    if arguments.format == "json":
        # A run that went astray has a perplexity that JSON does not.
        print(json.dumps(json.loads(json.dumps(comparison), parse_constant=lambda _: None), indent=2))
    else:
        rows = table_rows(comparison)
        for line in aligned(rows) if arguments.format == "text" else table_lines(rows, arguments.format):
            print(line)
    return 0

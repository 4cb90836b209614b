"""Push a trained model to the Hub as one commit: weights, code, tokenizer, card and the files of its run.

    rnn-hf push MODEL [USER/]NAME [--private] [--revision BRANCH] [--tag TAG] [--dry_run]
    rnn-hf push MODEL --local_dir DIR [--dtype float16]

With --local_dir nothing is pushed: the repository is written there.
"""

import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from rnn_hf.commands import Parser
from rnn_hf.errors import InputError


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "push")
    parser.add_argument("model", metavar="MODEL", help="directory of a run, a model or an ONNX export")
    parser.add_argument("repo_id", nargs="?", help="NAME, USER/NAME or ORGANISATION/NAME; made if it is not there")
    visibility = parser.add_mutually_exclusive_group()
    visibility.add_argument("--private", action="store_true", default=None, help="a new repository is private")
    visibility.add_argument("--public", dest="private", action="store_false", help="a new repository is public")
    parser.add_argument("--revision", help="branch to commit to; made from main if it is not there")
    parser.add_argument("--tag", help="tag to put on the commit")
    parser.add_argument("--commit_message", default="Push a model of rnn_hf")
    parser.add_argument("--license", help="of the weights, as the Hub spells it: apache-2.0, mit, ...")
    parser.add_argument("--dry_run", action="store_true", help="list what would go, with sizes, and push nothing")
    parser.add_argument("--local_dir", help="write the repository to this directory and push nothing")
    parser.add_argument("--dtype", choices=["float16", "bfloat16"], help="of the weights in the file of --local_dir")
    return parser.parse_args(argv)


def run(arguments: Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from rnn_hf.hub.client import check_name, files_below, push
    from rnn_hf.hub.repository import build_repository

    options = vars(arguments)
    model = Path(arguments.model)
    repo_id = arguments.repo_id
    license = arguments.license
    disable_progress_bar()
    if (repo_id is None) == (arguments.local_dir is None):
        raise InputError("name either a repository of the Hub, [USER/]NAME, or a --local_dir DIR")
    if arguments.dtype and not arguments.local_dir:
        raise InputError("--dtype goes with --local_dir: write the repository there, evaluate it, then push it")
    if arguments.local_dir and Path(arguments.local_dir).is_file():
        raise InputError(f"--local_dir must be a directory, and {arguments.local_dir} is a file")
    if arguments.local_dir:
        build_repository(model, Path(arguments.local_dir), None, license, arguments.dtype)
        print(f"the repository is in {arguments.local_dir}")
    elif arguments.dry_run:
        check_name(repo_id)
        with tempfile.TemporaryDirectory() as folder:
            build_repository(model, Path(folder), repo_id, license)
            files = [(name, path.stat().st_size) for name, path in files_below(Path(folder))]
        for name, size in files:
            print(f"{size:>12,}  {name}")
        print(f"{sum(size for _, size in files):>12,}  bytes in {len(files)} files would go to {repo_id}")
    else:
        names = ("private", "revision", "tag", "commit_message", "license")
        print(push(model, repo_id, **{name: options[name] for name in names}))
    return 0

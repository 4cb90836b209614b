"""A trained model on its way to the Hub: one folder, one commit, on top of the revision that was seen."""

import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from rnn_hf.errors import InputError
from rnn_hf.files import sha256_of
from rnn_hf.hub.repository import build_repository


Result = TypeVar("Result")

# The error of a connection in the HTTP library of this client: httpx2 today, httpx before.
TRANSPORT_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]

TRIES = 3
WAIT_SECONDS = 2.0  # before the second try; twice as long before the third
TOKEN_HELP = (
    "make one with the role 'write' at https://huggingface.co/settings/tokens, then `hf auth login` or set HF_TOKEN"
)


class HubError(OSError):
    """The Hub did not do what was asked; the message says why and what to do. Nothing was changed there."""


def push(
    model_dir: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    tag: str | None = None,
    commit_message: str = "Push a model of rnn_hf",
    license: str | None = None,
    token: str | None = None,
) -> str:
    """Push a model to the Hub as one commit, with tokenizer, code, card and the files of its run.

    Other files of the repository stay. Pushing the same again changes nothing, and after a failure it
    finishes the work: what was uploaded is not sent twice.

    Args:
        model_dir: Directory of a run, of any model of this package that `save_pretrained` wrote, or of an ONNX export.
        repo_id: `NAME` or `USER/NAME` or `ORGANISATION/NAME`; made if it is not there.
        private: Whether a new repository is private; `None` leaves that to the account's settings.
        revision: Branch to commit to, made from `main` if it is not there; `None` is `main`.
        tag: Tag to put on the commit.
        commit_message: First line of the commit's message.
        license: Of the weights, as the Hub spells it; `None` keeps that of the card in `model_dir`.
        token: Access token with the right to write; `None` is that of `hf auth login` or `HF_TOKEN`.

    Returns:
        Address of the commit.

    Raises:
        OSError: `model_dir` has no model, or one that does not load.
        InputError: `repo_id` is no name of a repository; or as `build_repository`.
        HubError: The Hub refused or could not be reached, or somebody else committed in between.
    """
    check_name(repo_id)
    with tempfile.TemporaryDirectory() as folder:
        build_repository(Path(model_dir), Path(folder), repo_id, license)
        repo_id = check_access(repo_id, private, token)
        return push_folder(Path(folder), repo_id, commit_message, revision, tag, token)


def check_name(repo_id: str) -> None:
    """Refuse what cannot be the name of a repository, before it takes time.

    Raises:
        InputError: The message says what a name is made of.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(
            f"`repo_id` must be NAME or USER/NAME, of at most 96 letters, digits, '-', '_' and '.', got {repo_id!r}"
        ) from error


def check_access(repo_id: str, private: bool | None = None, token: str | None = None) -> str:
    """Make the repository if it is not there, and make sure that the token may write to it.

    Returns:
        The full name, `USER/NAME`.

    Raises:
        HubError: No token or a wrong one, no right to write, no Hub; or a private repository that is public.
    """
    api = HfApi(token=token)

    def check() -> str:
        api.whoami()  # without a token, says so before a request that would fail for other reasons
        full_name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        # create_repo with exist_ok succeeds with a token that may only read.
        api.auth_check(full_name, write=True)
        if private and not api.model_info(full_name).private:
            raise HubError(f"{full_name} is there and public: make it private in its settings, or choose another name")
        return full_name

    return try_again(check, repo_id)


def push_folder(
    folder: Path,
    repo_id: str,
    commit_message: str,
    revision: str | None = None,
    tag: str | None = None,
    token: str | None = None,
    delete: Callable[[str], bool] = lambda path: False,
) -> str:
    """Commit a folder to a repository that is there; arguments, errors and result as in `push`.

    Args:
        delete: Which folders at the top of the repository to delete in the same commit, if `folder` lacks them.
    """
    api = HfApi(token=token)

    def look() -> tuple[str | None, str | None, set[str]]:
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        refs = api.list_repo_refs(repo_id)
        tagged = {ref.name: ref.target_commit for ref in refs.tags}.get(tag) if tag else None
        head = api.model_info(repo_id, revision=revision)
        names = [file.rfilename for file in head.siblings or ()]
        return head.sha, tagged, {name.split("/")[0] for name in names if "/" in name}

    seen, tagged, folders = try_again(look, repo_id)
    if tagged:
        if not try_again(lambda: is_same(api, repo_id, tagged, folder), repo_id):
            raise HubError(f"{repo_id} has a tag {tag} already, on other files: choose another `tag`")
        return f"{api.endpoint}/{repo_id}/commit/{tagged}"

    def commit() -> Any:
        # Made again for each try: after a lost answer the client finds that nothing is left to commit.
        operations: list[Any] = [CommitOperationAdd(name, path) for name, path in files_below(folder)]
        gone = [name for name in folders if delete(name) and not (folder / name).is_dir()]
        operations += [CommitOperationDelete(f"{name}/", is_folder=True) for name in gone]
        return api.create_commit(
            repo_id, operations, commit_message=commit_message, revision=revision, parent_commit=seen
        )

    # Not upload_folder: with xet it may split a folder into several commits.
    done = try_again(commit, repo_id)
    if tag:
        try_again(lambda: api.create_tag(repo_id, tag=tag, revision=done.oid, exist_ok=True), repo_id)
    return done.commit_url


def files_below(folder: Path) -> list[tuple[str, Path]]:
    """Each file under a folder, with its path in a repository."""
    return [(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file()]


def is_same(api: HfApi, repo_id: str, revision: str, folder: Path) -> bool:
    """Whether a revision holds each file of a folder, by checksum."""
    files = dict(files_below(folder))
    there = {}
    for entry in api.get_paths_info(repo_id, list(files), revision=revision):
        if isinstance(entry, RepoFile):
            there[entry.path] = entry.lfs.sha256 if entry.lfs else entry.blob_id
    return all(there.get(name) in (sha256_of(path), git_sha1_of(path)) for name, path in files.items())


def git_sha1_of(path: Path) -> str:
    """The name under which git keeps a file."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def try_again(call: Callable[[], Result], repo_id: str) -> Result:
    """Call the Hub, three times where what goes wrong may pass; errors become a `HubError` that says what to do."""
    for attempt in range(TRIES):
        try:
            return call()
        except HubError:
            raise
        except (TRANSPORT_ERROR, LocalTokenNotFoundError, ConnectionError, RuntimeError, ValueError) as error:
            if attempt + 1 == TRIES or not may_pass(error):
                raise HubError(explain(error, repo_id)) from error
        time.sleep(WAIT_SECONDS * 2**attempt)
    raise AssertionError("unreachable")


def status_of(error: Exception) -> int | None:
    """The HTTP status behind an error, if the Hub answered."""
    return getattr(getattr(error, "response", None), "status_code", None)


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed a little later."""
    status = status_of(error)
    if status is not None:
        return status in (408, 429) or status >= 500
    # An upload that failed (RuntimeError) was tried five times by the client already.
    return isinstance(error, TRANSPORT_ERROR | ConnectionError)


def explain(error: Exception, repo_id: str) -> str:
    """What went wrong and what to do about it."""
    status = status_of(error)
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, LocalTokenNotFoundError):
        return f"no access token: {TOKEN_HELP}"
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return f"the Hub has no {repo_id} that this token may see: check the name, and {TOKEN_HELP}"
    if status == 401:
        return f"the Hub does not accept the access token: {TOKEN_HELP}"
    if status == 403:
        return (
            f"this access token may not write to {repo_id}: the name must begin with your user name or an "
            f"organisation that lets you write, and the token must have the role 'write'; {TOKEN_HELP}"
        )
    if status == 412:
        return (
            f"somebody else committed to {repo_id} during this push: their commit stays, and nothing of yours was "
            "committed. Look at it, then push again to go on top of it"
        )
    if status == 429:
        return "the Hub wants fewer requests: wait some minutes, then push again"
    if may_pass(error) or isinstance(error, RuntimeError):
        return f"the Hub could not be reached or broke off ({reason}): push again; what was uploaded is not sent twice"
    return reason

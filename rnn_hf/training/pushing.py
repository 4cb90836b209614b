"""Pushing a run to the Hub while it trains, without making it wait or stopping it."""

import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from rnn_hf.files import link_or_copy
from rnn_hf.hub.client import HubError, check_access, push_folder
from rnn_hf.hub.repository import build_repository
from rnn_hf.training.arguments import TrainingArguments
from rnn_hf.training.checkpoint import checkpoints


class Pusher:
    """The pushes of one run: the best model so far and, with `hub_strategy="all_checkpoints"`, its checkpoints.

    Args:
        options: Of the run; its repository is made, and the right to write to it checked, here.
        output_dir: Of the run.
        say: Told of each push and of each that failed.

    Raises:
        rnn_hf.hub.client.HubError: As `rnn_hf.hub.client.check_access`.
    """

    def __init__(self, options: TrainingArguments, output_dir: Path, say: Callable[[str], None]):
        name = options.hub_model_id or output_dir.resolve().name
        self.repo_id = check_access(name, options.hub_private_repo)
        self.with_checkpoints = options.hub_strategy == "all_checkpoints"
        self.output_dir, self.say = output_dir, say
        self.folder = output_dir / ".pushing"
        self.thread: threading.Thread | None = None

    def start(self, message: str) -> None:
        """Push what stands in the run's directory, in the background; not if the push before is still under way."""
        if self.thread is not None and self.thread.is_alive():
            return
        try:
            # The files are taken now: the run goes on to replace them, and models are not safe to load in a thread.
            self._take_files()
        except (OSError, ValueError) as error:
            return self.say(f"not pushed, the run goes on: {error}")
        self.thread = threading.Thread(target=self._push_and_say, args=(message,), daemon=True)
        self.thread.start()

    def end(self, step: int, was_stopped: bool) -> None:
        """The last push of a run; none of a run that a signal ended, which should end at once.

        Raises:
            rnn_hf.hub.client.HubError: It failed; what the run left is whole, and the message says how to push it.
        """
        by_hand = f"rnn-hf push {self.output_dir} {self.repo_id}"
        if was_stopped:
            self.say(f"not pushed, as the run was stopped; by hand: {by_hand}")
            return
        try:
            self.say(f"pushed: {self.finish(f'Trained for {step} steps')}")
        except (OSError, ValueError) as error:
            message = f"the run is complete in {self.output_dir} but not pushed: {error}. By hand: {by_hand}"
            raise HubError(message) from error

    def finish(self, message: str) -> str:
        """Wait for the push under way, then push what stands there; returns the address of the commit.

        Raises:
            rnn_hf.hub.client.HubError: It failed; what a run leaves is whole without it.
        """
        if self.thread is not None:
            self.thread.join()
        try:
            self._take_files()
            return self._push(message)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _push_and_say(self, message: str) -> None:
        try:
            self.say(f"pushed: {self._push(message)}")
        except (OSError, ValueError) as error:
            self.say(f"not pushed, the run goes on: {error}")

    def _push(self, message: str) -> str:
        return push_folder(self.folder, self.repo_id, commit_message=message, delete=self._is_checkpoint)

    def _is_checkpoint(self, name: str) -> bool:
        return self.with_checkpoints and re.fullmatch(r"checkpoint-\d+", name) is not None

    def _take_files(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        if (self.output_dir / "config.json").is_file():  # from the first validation on
            build_repository(self.output_dir, self.folder, self.repo_id)
        for checkpoint in checkpoints(self.output_dir) if self.with_checkpoints else ():
            # Links, as a checkpoint may be pruned meanwhile and none is written to again.
            shutil.copytree(checkpoint, self.folder / checkpoint.name, copy_function=link_or_copy)

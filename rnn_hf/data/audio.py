"""Recordings: WAV, FLAC and OGG files in folders and zip archives, read by soundfile."""

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np

from rnn_hf.errors import InputError, MissingPackageError


SUFFIXES = (".flac", ".ogg", ".wav")


@dataclass(frozen=True)
class AudioFile:
    """A file of audio, read when it is asked for.

    Attributes:
        name: Its path below its folder or within its archive, by which transcripts name it.
        read: Gives its bytes.
    """

    name: str
    read: Callable[[], bytes]

    def samples(self, sampling_rate: int | None = None) -> tuple[np.ndarray, int]:
        """Its samples and their rate; as of `decode_audio`."""
        return decode_audio(self.read(), self.name, sampling_rate)


def decode_audio(content: bytes, name: str, sampling_rate: int | None = None) -> tuple[np.ndarray, int]:
    """The samples of a file of one channel.

    Args:
        content: The bytes of a WAV, FLAC or OGG file.
        name: Of the file, for errors.
        sampling_rate: That it must have, in samples a second; `None` takes any.

    Returns:
        The samples, `(N,)` float32, whole numbers in the file as -1 to 1; and the sampling rate.

    Raises:
        InputError: It is no such file, has several channels, another rate, no sample, or one that is not finite.
        MissingPackageError: soundfile is not installed.
    """
    try:
        import soundfile
    except ImportError as error:
        raise MissingPackageError("reading audio needs soundfile: pip install 'rnn_hf[speech]'") from error
    try:
        samples, rate = soundfile.read(BytesIO(content), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{name} is no audio that can be read (WAV, FLAC, OGG): {error.error_string}") from error
    if samples.shape[1] != 1:
        raise InputError(f"{name} has {samples.shape[1]} channels: mix it down to one")
    if sampling_rate is not None and rate != sampling_rate:
        raise InputError(f"{name} has {rate:,} samples a second, and {sampling_rate:,} are needed: resample it")
    if not len(samples):
        raise InputError(f"{name} has no samples")
    if not np.isfinite(samples).all():
        raise InputError(f"{name} has samples that are no finite numbers")
    return samples[:, 0], rate


def find_audio(place: str) -> list[AudioFile]:
    """The audio of a folder and those below it, of a zip archive, or a single file, by name.

    Args:
        place: The path of one of these.

    Raises:
        FileNotFoundError: There is no such path.
        InputError: It is a damaged archive, a file of another kind, or has no audio.
    """
    path = Path(place)
    if path.is_dir():
        paths = [file for file in path.rglob("*") if _is_audio(file.name) and file.is_file()]
        files = [AudioFile(file.relative_to(path).as_posix(), file.read_bytes) for file in paths]
    elif not path.is_file():
        raise FileNotFoundError(f"there is no file or folder {place}")
    elif path.suffix.lower() == ".zip":
        files = _in_archive(path)
    elif _is_audio(path.name):
        files = [AudioFile(path.name, path.read_bytes)]
    else:
        raise InputError(f"{place} is no folder, no zip archive and no audio ({', '.join(SUFFIXES)})")
    if not files:
        raise InputError(f"{place} has no audio ({', '.join(SUFFIXES)})")
    return sorted(files, key=lambda file: file.name)


def _is_audio(name: str) -> bool:
    """By its suffix; hidden files, such as those that macOS puts next to others, are none."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _in_archive(path: Path) -> list[AudioFile]:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} is no zip archive: {error}") from error

    def reader(name: str) -> Callable[[], bytes]:
        def read() -> bytes:
            try:
                return archive.read(name)
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                raise InputError(f"{name} in {path} is damaged: {error}") from error

        return read

    names = [name for name in archive.namelist() if _is_audio(name) and not name.startswith("__MACOSX/")]
    return [AudioFile(name, reader(name)) for name in names]

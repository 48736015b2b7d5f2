"""``--model FOLDER``: a text classifier with its tokenizer, as transformers saves them."""

import importlib
import json
import os
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from abe.cli.output import short
from abe.errors import Code, ModelError, SpecError, StorageError

CONFIGURATION = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
TOKENIZERS = ("tokenizer.json", "*vocab*", "*.model", "*bpe*")
"""Files of which a tokenizer is made; without any, transformers would make one that knows no word."""
CLASSIFIES = "ForSequenceClassification"
"""Ends the names of networks that classify texts."""
PATH = re.compile(r"[./\\~]|[\w.-]+[/\\][\w./\\-]+$")
"""How names begin or look that are paths, or those of a hub."""
SHOWN = 3
"""Names of weights that are listed."""


def is_folder(model: str) -> bool:
    """Whether a model is named by a folder."""
    return os.path.isdir(model)


def refuse_absent(model: str) -> None:
    """Refuse a path, or a name of a hub, that is no folder here.

    Raises:
        StorageError: it is one.
    """
    if PATH.match(model):
        raise StorageError(
            Code.FOREIGN_FILE,
            "There is no such folder, and nothing is downloaded",
            got=short(model),
            expected="a folder with model and tokenizer, a name from `abe zoo`, or package.module:factory",
            fix="Save both into a folder, by save_pretrained of transformers, and name that",
        )


def load(folder: str) -> Any:
    """The network and its tokenizer; weights come from safetensors, and no code of the folder is run.

    Raises:
        StorageError: the folder holds no saved model, no tokenizer, or weights that would be unpickled.
        SpecError: a model that does something else than classify texts.
        ModelError: weights of another network, or a network that transformers cannot build.
        PackageError: transformers is not installed.
    """
    from abe.task.zoo.files import require
    from abe.task.zoo.minilm import TRANSFORMERS
    from abe.task.zoo.sentences import TextModel

    path = Path(folder)
    _check_classifies(_configuration(path), folder)
    if not any((path / name).is_file() for name in WEIGHTS):
        raise StorageError(
            Code.FOREIGN_FILE,
            f"The folder {short(folder)} holds no weights in safetensors",
            got=", ".join(sorted(one.name for one in path.iterdir())[:8]),
            expected=WEIGHTS[0],
            fix="Save them by model.save_pretrained(folder); what torch.save wrote is not unpickled",
        )
    if not any(fnmatch(one.name, form) for one in path.iterdir() for form in TOKENIZERS):
        raise StorageError(
            Code.FOREIGN_FILE,
            f"The folder {short(folder)} holds no tokenizer",
            got=", ".join(sorted(one.name for one in path.iterdir())[:8]),
            expected="tokenizer.json, or a vocabulary",
            fix="Save it beside the model: tokenizer.save_pretrained(folder)",
        )
    require((TRANSFORMERS,), f"The folder {short(folder)}")
    library = importlib.import_module(TRANSFORMERS.module)
    here = {"local_files_only": True, "trust_remote_code": False}
    with _quiet(library.utils.logging):
        try:
            network, told = library.AutoModelForSequenceClassification.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, **here
            )
        except Exception as error:  # whatever transformers finds wrong with the files
            raise _unusable(folder, "network", error) from error
        _check_complete(told, folder)
        try:
            tokenizer = library.AutoTokenizer.from_pretrained(folder, **here)
        except Exception as error:
            raise _unusable(folder, "tokenizer", error) from error
    return TextModel(network.eval(), tokenizer, ())


@contextmanager
def _quiet(logging: Any) -> Generator[None]:
    """Without the bars and reports of transformers: what matters of them is refused here."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _configuration(path: Path) -> Mapping[str, Any]:
    file = path / CONFIGURATION
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise StorageError(
            Code.FOREIGN_FILE,
            f"The folder {short(str(path))} holds no saved model",
            got=f"no {CONFIGURATION}" if missing else f"a {CONFIGURATION} that cannot be read: {error}",
            expected="what save_pretrained of model and tokenizer wrote: config.json, model.safetensors, …",
            fix="A network of your own is named as package.module:factory",
        ) from error
    return found if isinstance(found, dict) else {}


def _check_classifies(configuration: Mapping[str, Any], folder: str) -> None:
    named: Any = configuration.get("architectures") or []
    if any(str(one).endswith(CLASSIFIES) for one in named):
        return
    raise SpecError(
        Code.UNSUPPORTED,
        f"Of saved models, those that classify texts are taken as they are, and {short(folder)} is none",
        got=", ".join(map(str, named)) or "a config.json without architectures",
        expected=f"a network whose name ends with {CLASSIFIES}",
        fix="Load it in a function of your own that returns a task, and name that: --model mycode:task",
    )


def _check_complete(told: Mapping[str, Any], folder: str) -> None:
    """Refuse a network some of whose weights were drawn at random as the file does not have them."""
    said = {"missing_keys": "no", "mismatched_keys": "another shape of"}
    wrong = [
        f"{what} {', '.join(map(str, list(told[key])[:SHOWN]))}" for key, what in said.items() if told[key]
    ]
    if wrong:
        raise ModelError(
            Code.MODEL_FAILED,
            f"The weights in {short(folder)} are not those of its network",
            got="; ".join(wrong),
            fix="Save the network that was trained, whole: model.save_pretrained(folder)",
        )


def _unusable(folder: str, what: str, error: Exception) -> StorageError:
    said = " ".join(str(error).split())
    return StorageError(
        Code.FOREIGN_FILE,
        f"transformers makes no {what} of the folder {short(folder)}",
        got=f"{type(error).__name__}: {short(said)}",
        fix="Save both into it: model.save_pretrained(folder), tokenizer.save_pretrained(folder)",
    )

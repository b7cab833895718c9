"""Names of models and adapters: a folder, or a repository of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from qpeft_rerank.errors import InputError

CARD_FILE = "README.md"
ENCODER_FILE = "encoder.json"  # in the folder of an encoder of the dense first stage


def check_name(name: str, revision: str | None = None) -> None:
    """Raise `InputError` for a model that is no folder, not in the hub's cache, and not on the hub.

    The hub is asked once. What loads a model asks for minutes, file by file, where there is no network.
    """
    if name == "demo" or Path(name).is_dir():
        return
    if not Path(name).exists() and (name.startswith((".", "~", "/")) or name.count("/") > 1):
        raise InputError(f"model folder {name!r} does not exist")
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        try:
            snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=[])
        except LocalEntryNotFoundError:
            HfApi().model_info(name, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # the hub's, httpx's and the system's errors have no common base
        raise _not_there(name) from error


def fetch_folder(name: str | Path, revision: str | None = None) -> Path:
    """A local folder as it is; any other name is taken from the hub (JSON, safetensors and the card only)."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", CARD_FILE]
    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=patterns))
    except Exception as error:  # as above
        raise _not_there(name) from error


def _not_there(name: str | Path) -> InputError:
    why = "misspelt, private, no network, or HF_HUB_OFFLINE set?"
    return InputError(f"{str(name)!r} is no folder, and the hub does not give it ({why})")

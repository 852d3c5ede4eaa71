"""Download a model of diffusers from the hub of Hugging Face into models/. The only place that uses a network."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import config
from painting.pipelines.families import family_of
from painting.pipelines.files import INDEX, OWN_LDM, gigabytes, read_json

# names that `--model` knows, and where their publishers have them
KNOWN = {
    "sd-1.5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd-2.1": "stabilityai/stable-diffusion-2-1",
    "sd-turbo": "stabilityai/sd-turbo",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "sdxl-turbo": "stabilityai/sdxl-turbo",
    "sd-3.5-medium": "stabilityai/stable-diffusion-3.5-medium",
    "flux-schnell": "black-forest-labs/FLUX.1-schnell",
    "pixart-sigma": "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
    "qwen-image": "Qwen/Qwen-Image",
    "z-image-turbo": "Tongyi-MAI/Z-Image-Turbo",
}
DONE = ".voicetoimg-hub.json"  # in the folder of a model that was downloaded completely
UNREACHED = "the hub cannot be reached, or the connection broke; the same command continues"
SMALL = (".json", ".txt", ".model", ".jinja")


def fetch(repo: str) -> str:
    """Download a model into models/NAME unless it is there; return NAME.

    It says first how much is downloaded and under which licence; an interrupted download continues.

    Raises:
        ValueError: there is no such model, or it is none that this program knows.
        RuntimeError: packages are missing.
        OSError: the hub cannot be reached, or the disk is full.
    """
    name = next((known for known, place in KNOWN.items() if place == repo), repo.split("/")[1])
    folder = config.MODELS_DIR / name
    if (folder / DONE).is_file():
        return name
    if (folder / INDEX).is_file() and not (folder / ".cache" / "huggingface").is_dir():
        raise ValueError(f"{folder} is there already, and was not downloaded by this program: use --model {name}")
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    except ImportError as error:
        from painting.pipelines.loading import INSTALL, MissingPackages

        raise MissingPackages(
            f"a download needs the package {error.name}, which is not installed: {INSTALL}"
        ) from error
    api = HfApi()
    try:
        info = api.model_info(repo, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        if INDEX not in sizes:
            raise ValueError(f"{repo} has no {INDEX}: it is not saved as diffusers saves models")
        index = read_json(Path(api.hf_hub_download(repo, INDEX, revision=info.sha, local_dir=folder)))
        wanted = files_wanted(repo, index, sizes)
        print(f"{repo}: {announcement(info, [sizes[path] for path in wanted])}; into {folder}", flush=True)
        api.snapshot_download(repo, revision=info.sha, allow_patterns=wanted, local_dir=folder)
    except OfflineModeIsEnabled as error:
        raise OSError(f"{repo} cannot be downloaded: HF_HUB_OFFLINE forbids it") from error
    except LocalEntryNotFoundError as error:
        raise OSError(f"{repo} cannot be downloaded: {UNREACHED}") from error
    except HfHubHTTPError as error:
        raise ValueError(f"{repo} cannot be downloaded: {_reason(error)}") from error
    except Exception as error:
        if not type(error).__module__.startswith("httpx"):  # errors of a connection, of the hub's client
            raise
        raise OSError(f"{repo} cannot be downloaded: {UNREACHED}") from error
    (folder / DONE).write_text(json.dumps({"repository": repo, "revision": info.sha}) + "\n", encoding="utf-8")
    return name


def files_wanted(repo: str, index: Mapping[str, Any], sizes: Mapping[str, int]) -> list[str]:
    """Choose files of a repository: `model_index.json`, small ones of each part, and weights in one variant.

    Half precision is preferred, if all parts have it, because it is half as much.

    Raises:
        ValueError: the class is unknown, or a part has no .safetensors.
    """
    if index.get("_class_name") != OWN_LDM:
        family_of(index.get("_class_name"), repo)
    parts = [name for name, value in index.items() if isinstance(value, list) and None not in value]
    inside = {part: [path for path in sizes if path.rpartition("/")[0] == part] for part in parts}
    plain, half = {}, {}
    for part, paths in inside.items():
        weights = [path for path in paths if path.endswith(".safetensors")]
        half[part] = [path for path in weights if ".fp16." in path or ".fp16-" in path]
        plain[part] = [path for path in weights if path.rpartition("/")[2].count(".") == 1]
        if not weights and any(path.endswith(".bin") for path in paths):
            raise ValueError(f"{repo} has its part {part} as a pickle only, which can run code")
    chosen = half if all(half[part] for part in parts if plain[part] or half[part]) else plain
    small = [path for paths in inside.values() for path in paths if path.endswith(SMALL)]
    return sorted({INDEX, *small, *(path for paths in chosen.values() for path in paths)})


def announcement(info: Any, sizes: list[int]) -> str:
    """Say how much is downloaded, and under which licence the publisher's page has it."""
    card = getattr(info, "card_data", None)
    licence = (card.get("license_name") or card.get("license")) if card else None
    return f"{gigabytes(sum(sizes))} to download, licence: {licence or 'none is named; read its page'}"


def _reason(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    reasons = {401: "it asks for a login, or there is no such model", 403: "its licence must be accepted on its page",
        404: "there is no such model"}  # fmt: skip
    return reasons.get(status or 0, " ".join(str(error).split())[:160])

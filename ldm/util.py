"""Build modules from the `target:`/`params:` nodes of a yaml."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

# A yaml comes from outside, with a checkpoint: it may name modules of these packages and nothing else.
ALLOWED_PREFIXES = ("ldm.", "torch.nn.")


def instantiate_from_config(config: Mapping[str, Any]) -> Any:
    """Build the torch module that `config["target"]` names, with the keyword arguments in `config["params"]`.

    Published yamls hold keys that matter only for training. A class lists those that it accepts and ignores in
    `training_only`. Any other key that its constructor does not have is treated as a typo.

    Raises:
        ValueError: there is no target, or it is outside `ldm.` and `torch.nn.`, or is not a module class; or a
            parameter is unknown or missing.
    """
    target = config.get("target")
    if not isinstance(target, str):
        raise ValueError(f"a model config needs a target; this one has only: {', '.join(map(str, config)) or '-'}")
    cls = _find_class(target)
    params = dict(config.get("params") or {})
    for key in getattr(cls, "training_only", frozenset()):
        params.pop(key, None)
    known = inspect.signature(cls).parameters
    unknown = sorted(set(params) - set(known))
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        raise ValueError(f"{target} has no parameter {', '.join(unknown)}; it knows {', '.join(known)}")
    missing = [name for name, p in known.items() if _is_required(p) and name not in params]
    if missing:
        raise ValueError(f"{target} needs the parameter {', '.join(missing)}")
    return cls(**params)


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD


def _find_class(target: str) -> type[nn.Module]:
    if not target.startswith(ALLOWED_PREFIXES):
        raise ValueError(f"target {target!r} is refused: only classes of {' and '.join(ALLOWED_PREFIXES)} are allowed")
    module_name, _, class_name = target.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError):
        raise ValueError(f"target {target!r} does not exist") from None
    if not (inspect.isclass(cls) and issubclass(cls, nn.Module)):
        raise ValueError(f"target {target!r} is not a torch module")
    return cls

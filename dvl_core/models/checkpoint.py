"""The published key layout, and refusing a checkpoint that does not fit the model."""

from __future__ import annotations

import re
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

CONFIG_ERRORS = (OSError, ValueError, KeyError, TypeError, StrictDataclassError)  # what reading a config.json raises
_SHOWN = 8


class CheckpointError(ValueError):
    """A folder or repository that can't be loaded; the message says why and what to do."""


def first_line(error: Exception) -> str:
    """What an exception says, without the lines of advice that follow."""
    first, *rest = (str(error).strip() or type(error).__name__).splitlines()
    return f"{first} {rest[0].strip()}" if first.endswith(":") and rest else first


def register_layout(model_class: type) -> None:
    """Tell transformers how the names in published files (`published_names`) map onto the stock modules."""
    renamings = [WeightRenaming(rf"^{re.escape(file)}", module) for file, module in model_class.published_names]
    register_checkpoint_conversion_mapping(model_class.__name__, renamings, overwrite=True)


def published_name(model_class: type, name: str) -> str:
    """The name that the tensor `name` of the model has in published files."""
    for file, module in sorted(model_class.published_names, key=lambda pair: -len(pair[1])):
        if name.startswith(module):
            return file + name.removeprefix(module)
    return name


def check_tensors(model_class: type, source: str, report: dict[str, Any]) -> None:
    """Refuse a checkpoint whose tensors do not fit, naming them. Raises CheckpointError.

    Args:
        report: the loading info of `from_pretrained`.
    """
    wrong = [
        f"{published_name(model_class, name)} {tuple(stored)} instead of {tuple(expected)}"
        for name, stored, expected in report.get("mismatched_keys", ())
    ]
    problems = [
        f"{kind}: {listed(names)}"
        for kind, names in (
            ("missing", [published_name(model_class, name) for name in report.get("missing_keys", ())]),
            ("unexpected", list(report.get("unexpected_keys", ()))),
            ("wrong shape", wrong),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"The tensors of {source} do not fit the model. {'; '.join(problems)}.")


def listed(names: list[str]) -> str:
    """The first names in order, and how many more there are."""
    shown = ", ".join(sorted(names)[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown

"""Annotations of settings and of fault parameters, in words."""

from __future__ import annotations

from typing import Any, get_args, get_origin


def describe_hint(hint: Any, mark: str = "") -> str:
    """Return the type of an annotation: the choices of a literal, or its name.

    `mark` stands before and after each choice: a backtick for documentation.
    """
    while hasattr(hint, "__metadata__"):
        hint = hint.__origin__
    arguments = get_args(hint)
    origin = get_origin(hint)
    if origin is tuple:
        return f"list of {describe_hint(arguments[0], mark)}"
    if origin is dict:
        return "table of texts"
    if isinstance(hint, type):
        return {"str": "text"}.get(hint.__name__, hint.__name__)
    if type(None) in arguments:
        return f"{describe_hint(arguments[0], mark)} or null"
    return ", ".join(f"{mark}{argument}{mark}" for argument in arguments)

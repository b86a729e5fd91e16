"""Where things lie, and which EDGELLM_* variables there are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from edgellm.errors import SettingsError

__all__ = ["VARIABLES", "cache_dir", "check_environment", "home_dir"]

PREFIX = "EDGELLM_"
# The variables that belong to no single option; the others come from the options themselves.
VARIABLES: dict[str, str] = {
    "EDGELLM_HOME": "folder of the model store and of saved conversations",
    "EDGELLM_CACHE": "folder of what can be made again (built wheels, downloads under way)",
    "EDGELLM_DEBUG": "1 shows tracebacks",
}


def home_dir() -> Path:
    """Give the folder of the store: EDGELLM_HOME, or the platform's data folder."""
    given = _folder("EDGELLM_HOME")
    if given:
        return given
    import platformdirs

    return Path(platformdirs.user_data_dir("edgellm", appauthor=False))


def cache_dir() -> Path:
    """Give the folder of what can be made again: EDGELLM_CACHE, or the platform's cache folder."""
    given = _folder("EDGELLM_CACHE")
    if given:
        return given
    import platformdirs

    return Path(platformdirs.user_cache_dir("edgellm", appauthor=False))


def _folder(variable: str) -> Path | None:
    given = os.environ.get(variable)
    try:
        return Path(given).expanduser() if given else None
    except RuntimeError as error:  # ~name of a person who has no home here
        raise SettingsError(f"{variable} is {given}, and there is no such home folder") from error


def check_environment(option_variables: Callable[[], set[str]]) -> None:
    """Refuse EDGELLM_* variables that nothing reads: a typing error would be ignored otherwise.

    `option_variables` is called only when a variable outside `VARIABLES` is set, because it has
    to import every command.

    Raises:
        SettingsError: a variable is set that nothing reads.
    """
    unknown = {name for name in os.environ if name.startswith(PREFIX)} - VARIABLES.keys()
    if not unknown:
        return
    known = option_variables() | VARIABLES.keys()
    unknown -= known
    if unknown:
        import difflib

        name = sorted(unknown)[0]
        # without what they all begin with, which would make everything alike
        words = [variable.removeprefix(PREFIX) for variable in sorted(known)]
        near = difflib.get_close_matches(name.removeprefix(PREFIX), words, n=1)
        hint = f"did you mean {PREFIX}{near[0]}?" if near else "`edgellm COMMAND --help` names them"
        raise SettingsError(f"{name} is set, but no such variable exists", hint=hint)

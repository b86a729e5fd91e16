"""Where things lie, and which EDGELLM_* variables there are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from edgellm.errors import SettingsError

__all__ = ["VARIABLES", "cache_dir", "check_environment", "home_dir"]

# The variables that belong to no single option; the others come from the options themselves.
VARIABLES: dict[str, str] = {
    "EDGELLM_HOME": "folder of the model store and of saved conversations",
    "EDGELLM_CACHE": "folder of what can be made again (built wheels, downloads under way)",
    "EDGELLM_DEBUG": "1 shows tracebacks",
}


def home_dir() -> Path:
    """Give the folder of the store: EDGELLM_HOME, or the platform's data folder."""
    given = os.environ.get("EDGELLM_HOME")
    if given:
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("edgellm", appauthor=False))


def cache_dir() -> Path:
    """Give the folder of what can be made again: EDGELLM_CACHE, or the platform's cache folder."""
    given = os.environ.get("EDGELLM_CACHE")
    if given:
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("edgellm", appauthor=False))


def check_environment(option_variables: Callable[[], set[str]]) -> None:
    """Refuse EDGELLM_* variables that nothing reads: a typing error would be ignored otherwise.

    `option_variables` is called only when a variable outside `VARIABLES` is set, because it has
    to import every command.

    Raises:
        SettingsError: a variable is set that nothing reads.
    """
    unknown = {name for name in os.environ if name.startswith("EDGELLM_")} - VARIABLES.keys()
    if not unknown:
        return
    known = option_variables() | VARIABLES.keys()
    unknown -= known
    if unknown:
        import difflib

        name = sorted(unknown)[0]
        near = difflib.get_close_matches(name, sorted(known), n=1)
        hint = f"did you mean {near[0]}?" if near else "see the variables in `edgellm --help`"
        raise SettingsError(f"{name} is set, but no such variable exists", hint=hint)

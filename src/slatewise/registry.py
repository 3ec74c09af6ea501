"""Classes by name: `module:Class` for what lives outside this package, a name of its own for what lives inside."""

import os
import re
import sys
from importlib import import_module
from inspect import isabstract
from typing import Any, TypeVar

from slatewise.errors import InputError, unknown_name

T = TypeVar("T")
_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_path(name: str) -> bool:
    """Whether a name has the form `module:Class`."""
    return _PATH.fullmatch(name) is not None


def registered_name(cls: type, name: str) -> str:
    """Return what finds a class again: `name` for a member of this package, `module:Class` for anybody else's."""
    inside = cls.__module__.split(".")[0] == __name__.split(".")[0]
    return name if inside else f"{cls.__module__}:{cls.__qualname__}"


def load_class(path: str, base: type[T], kind: str) -> type[T]:
    """Import the class that `module:Class` names; modules of the current folder are found, as by `python -m`.

    kind: what the class should be, for the message.
    Raises InputError for a module or class that is not there, or a class that does not derive from `base`.
    """
    if not is_path(path):
        raise InputError(f"{kind} {path!r} cannot be imported: give module:Class, a class at the top of a module")
    module_name, name = path.split(":")
    found = getattr(_module(module_name, kind, path), name, None)
    if found is None:
        raise _missing_class(module_name, name, base, kind)
    if not (isinstance(found, type) and issubclass(found, base)):
        what = f"a {found.__name__!r} class" if isinstance(found, type) else f"a {type(found).__name__}"
        raise InputError(
            f"{kind} {path!r} is {what}, which does not derive from {base.__module__}.{base.__name__}: "
            "name a subclass of it"
        )
    if isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise InputError(f"{kind} {path!r} does not define {missing}: write them, docs say what each returns")
    return found


def _module(name: str, kind: str, path: str) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise InputError(
                f"{kind} {path!r}: importing {name} needs {error.name!r}, which is not installed"
            ) from None
        raise InputError(
            f"{kind} {path!r}: no module named {error.name!r}, neither installed nor in {os.getcwd()}: "
            "install it, or run where it lies"
        ) from None


def _missing_class(module: str, name: str, base: type, kind: str) -> InputError:
    if module == "__main__":
        return InputError(f"{kind} '{module}:{name}' was defined in a script: move it into a module and train again")
    there = vars(sys.modules[module]).values()
    known = [c.__name__ for c in there if isinstance(c, type) and issubclass(c, base) and c.__module__ == module]
    return unknown_name(f"{kind} class of {module}", name, known)

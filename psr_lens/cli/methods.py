"""Commands whose options depend on the methods, `fit METHOD` and `compare`; methods from a user's file."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import Field, field, fields, make_dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

from psr_lens.cli.commands import Compare, Fit


def fit_command(method: str) -> type[Fit]:
    """`fit` for one method, with its `Options` as options of the command.

    Raises:
        ValueError: If there is no such method.
    """
    from psr_lens.steering.registry import method_class

    cls = method_class(method)
    own = make_dataclass(
        cls.Options.__name__,
        [
            # Not text: a steering, for example.
            (one.name, tyro.conf.Suppress[tyro.conf.Fixed[Any]], field(default=one.default))
            for one in fields(cls.Options)
            if not _is_text(one)
        ],
        bases=(cls.Options,),
        frozen=True,
    )
    own.__doc__ = cls.Options.__doc__

    def own_options(self: Any) -> dict[str, Any]:
        return {one.name: getattr(self.options, one.name) for one in fields(cls.Options)}

    return make_dataclass(
        f"Fit_{method}",
        [
            ("method", tyro.conf.Suppress[tyro.conf.Fixed[str]], field(default=method)),
            ("options", own, field(default_factory=own)),
        ],
        bases=(Fit,),
        frozen=True,
        namespace={"own_options": own_options, "__doc__": Fit.__doc__},
    )


def compare_command() -> type[Compare]:
    """`compare`, with the options of all methods."""
    from psr_lens.steering.registry import fitted_methods

    found: dict[str, tuple[Any, list[str]]] = {}
    for name, cls in fitted_methods().items():
        kinds = get_type_hints(cls.Options)
        for one in filter(_is_text, fields(cls.Options)):
            found.setdefault(one.name, (kinds[one.name], []))[1].append(name)

    def own_options(self: Any) -> dict[str, Any]:
        given = {name: getattr(self, name) for name in found}
        return {name: value for name, value in given.items() if value is not None}

    return make_dataclass(
        "Compare",
        [
            (
                name,
                Annotated[kind | None, tyro.conf.arg(help=f"For {' and '.join(methods)}.")],
                field(default=None),
            )
            for name, (kind, methods) in found.items()
        ],
        bases=(Compare,),
        frozen=True,
        namespace={"own_options": own_options, "__doc__": Compare.__doc__},
    )


def _is_text(own: "Field[Any]") -> bool:
    """Whether an option can be written on a command line."""
    return own.metadata.get("command_line", True)


def import_files(args: Sequence[str]) -> Iterator[str]:
    """Run the files that `--import FILE` names before the command, so that they register methods.

    Yields:
        The other arguments.

    Raises:
        ValueError: If one cannot be read, or ends in an error.
    """
    rest = list(args)
    while rest and (rest[0] == "--import" or rest[0].startswith("--import=")):
        option, _, path = rest.pop(0).partition("=")
        if not path:
            if not rest:
                raise ValueError(f"{option} names no file: {option} methods.py fit mine ...")
            path = rest.pop(0)
        if not Path(path).is_file():
            raise ValueError(f"{option} {path}: there is no such file")
        # Registered as a module, because the source of what the file defines is looked up.
        spec = spec_from_file_location(f"imported_{Path(path).stem}", path)
        if spec is None or spec.loader is None:
            raise ValueError(f"{option} {path}: a Python file ends in .py")
        module = sys.modules[spec.name] = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever a user's own file does wrong is one line
            raise ValueError(f"{option} {path}: {type(error).__name__}: {error}") from error
    yield from rest

"""The methods that `@register` has made known."""

from dataclasses import MISSING, fields, is_dataclass
from typing import Final, TypeVar

from psr_lens.steering.base import ACTING, Steering

TAKEN: Final = frozenset(
    (
        *(
            "backend",
            "batch_size",
            "chat_template",
            "checkpoint",
            "data",
            "date",
            "device",
            "dtype",
        ),
        *("epochs", "gguf_file", "hook_point", "keep_converted", "layers", "lr"),
        *("max_memory", "max_new_tokens"),
        *(
            "method",
            "methods",
            "model",
            "objective",
            "options",
            "out",
            "pairs",
            "precision",
            "progress",
        ),
        *(
            "recipe",
            "revision",
            "runs",
            "seed",
            "solver",
            "tokens",
            "temperature",
            "template_options",
        ),
    )
)
"""Option names that `fit` and the command line already use."""

_CLASSES: dict[str, type[Steering]] = {}

Kind = TypeVar("Kind", bound=type[Steering])


def register(cls: Kind) -> Kind:
    """Make a method known to `fit`, `load_steering`, `compare` and the command line.

    A class decorator. A class replaces an earlier one of the same module and name, so a notebook cell can
    be run again.

    Args:
        cls: The class; its `method` is the name.

    Raises:
        ValueError: If it has no name, or another class has the same one; if its label is no text; if its
            `Options` is not a dataclass with defaults, or uses a name that `fit` has; if a fitting method
            is not a class method; if it is fitted by a solver but acts in a way that the solvers do not know.
    """
    name = getattr(cls, "method", None)
    if not isinstance(name, str) or not name.isidentifier() or name == "sum":
        raise ValueError(
            f"{cls.__name__}.method={name!r}: a method is called by a name of its own: letters, digits and _"
        )
    known = _CLASSES.get(name, cls)
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(
            f"method={name!r} is {known.__module__}.{known.__qualname__} already: choose another name "
            f"for {cls.__qualname__}"
        )
    if not isinstance(cls.label, str):
        raise ValueError(
            f"{cls.__name__}.label={cls.label!r}: it is a text, what pages call the method"
        )
    _check(cls)
    _CLASSES[name] = cls
    return cls


def _check(cls: type[Steering]) -> None:
    if not is_dataclass(cls.Options):
        raise ValueError(
            f"{cls.__name__}.Options is no dataclass: put @dataclass(frozen=True) above it"
        )
    for own in fields(cls.Options):
        if own.name in TAKEN:
            raise ValueError(
                f"{cls.__name__}.Options.{own.name}: fit has an option of that name, choose another"
            )
        if own.default is MISSING:
            raise ValueError(f"{cls.__name__}.Options.{own.name} has no default: give it one")
    for hook in ("closed_form", "fit_layer", "start"):
        if getattr(getattr(cls, hook), "__self__", None) is not cls:
            raise ValueError(f"{cls.__name__}.{hook} is no class method: put @classmethod above it")
    others = [name for name in ACTING if getattr(cls, name) is not getattr(Steering, name)]
    solvers = [name for name in cls.solvers() if name != "closed form"]
    if others and solvers:
        raise ValueError(
            f"{cls.__name__} overrides {', '.join(others)}, but {' and '.join(solvers)} fit what acts on "
            "all of its tokens: give it a closed_form, or do not override that"
        )


def known_methods() -> dict[str, type[Steering]]:
    """Every registered class, by its method's name."""
    return dict(_CLASSES)


def fitted_methods() -> dict[str, type[Steering]]:
    """Those that `fit` can fit, by name."""
    return {name: cls for name, cls in sorted(_CLASSES.items()) if cls.solvers()}


def method_class(method: "str | type[Steering]") -> type[Steering]:
    """The class of a method that `fit` can fit.

    Args:
        method: Its name, or the class.

    Raises:
        ValueError: If there is none.
    """
    if isinstance(method, type) and issubclass(method, Steering):
        if _CLASSES.get(method.method) is not method:
            raise ValueError(f"{method.__name__} is not registered: put @register above it")
        if not method.solvers():
            raise ValueError(
                f"{method.__name__} cannot be fitted: define closed_form, fit_layer or start"
            )
        return method
    known = fitted_methods()
    if method not in known:
        raise ValueError(f"method={method!r}: choose one of {', '.join(known)}")
    return known[method]

"""The handle returned when a steering is folded into the weights of a model."""

from collections.abc import Callable
from typing import Any, final


@final
class FoldedSteering:
    """A steering folded into the weights of a transformers model, until `undo` or the end of a `with`.

    Made by `ConstantSteering.fold_into`. As a context manager it yields the model.

    Args:
        hf_model: The model.
        description: What was folded in.
        put_back: Restores the weights, or raises an error that says why it cannot.
    """

    def __init__(self, hf_model: Any, description: str, put_back: Callable[[], None]):
        self.hf_model = hf_model
        self._description = description
        self._put_back: Callable[[], None] | None = put_back

    def undo(self) -> None:
        """Restore the weights bit for bit. A second call does nothing.

        Raises:
            ValueError: If the weights were changed since, by another fold for example.
        """
        if self._put_back is not None:
            self._put_back()
        self._put_back = None

    def __enter__(self) -> Any:
        return self.hf_model

    def __exit__(self, *exception: object) -> None:
        self.undo()

    def __repr__(self) -> str:
        return f"FoldedSteering({self._description} in {type(self.hf_model).__name__})"

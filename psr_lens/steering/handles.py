"""What a steering leaves in the user's hand when it goes into the weights of a model."""

from collections.abc import Callable
from typing import Any, final


@final
class FoldedSteering:
    """A steering that lies in the weights of a transformers model, until `undo` or the end of a `with`.

    Made by `ConstantSteering.fold_into`. As a context manager it gives the model.

    Args:
        hf_model: The model.
        description: What is in it.
        put_back: Puts the weights of before back, or says why it cannot.
    """

    def __init__(self, hf_model: Any, description: str, put_back: Callable[[], None]):
        self.hf_model = hf_model
        self._description = description
        self._put_back: Callable[[], None] | None = put_back

    def undo(self) -> None:
        """Put the exact bits of before back. A second call does nothing.

        Raises:
            ValueError: If the weights were changed since, by another fold for one.
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

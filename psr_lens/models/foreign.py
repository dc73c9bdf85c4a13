"""What was given in place of a model, by its type, and what to pass instead."""

import json
from pathlib import Path
from typing import Any


def describe_foreign(thing: Any) -> str:
    """One line on what was given in place of a model, and what to pass instead.

    Never its `repr`: a transformers model prints every module that it has.
    """
    kind = type(thing).__name__
    origin = _origins(thing)
    if isinstance(thing, str | Path):
        return f"a name or path was given, {str(thing)!r}: pass psr_lens.load_model({str(thing)!r})"
    if isinstance(thing, type):
        return f"the class {thing.__name__} was given: pass a model, or psr_lens.load_model(name)"
    if "transformers.Pipeline" in origin:
        return (
            f"a transformers pipeline of type {kind} was given: pass its model, "
            "psr_lens.load_model(pipeline.model, tokenizer=pipeline.tokenizer)"
        )
    if "transformers.PreTrainedTokenizerBase" in origin:
        return f"a tokenizer of type {kind} was given: pass psr_lens.load_model(name_or_folder)"
    return (
        f"a model of type {kind} was given: pass psr_lens.load_model(name_or_folder), a transformers "
        "model, a HookedTransformer or a TransformerBridge"
    )


def describe_adapter(folder: Path) -> str | None:
    """What a PEFT adapter's folder is, and how to make a model of it; None for any other folder."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        base = config["base_model_name_or_path"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        base = None
    return (
        f"{str(folder)!r} holds a PEFT adapter and not the model that it changes: merge the two "
        f"first, peft.AutoPeftModelForCausalLM.from_pretrained({str(folder)!r})"
        f".merge_and_unload().save_pretrained('merged'), with the tokenizer of "
        f"{base or 'its base model'!r} beside it, and pass psr_lens.load_model('./merged')"
    )


def _origins(thing: Any) -> set[str]:
    """Its classes as `library.Class`, without importing a library that may not be there."""
    return {f"{base.__module__.split('.')[0]}.{base.__name__}" for base in type(thing).__mro__}

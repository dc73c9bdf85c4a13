"""The model card of a steering: what it is and where it comes from, written from its own records."""

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from huggingface_hub import ModelCard, ModelCardData

from psr_lens.models.sources import EMBEDDED_MODELS, SMOLLM2
from psr_lens.models.token_rules import reach_of
from psr_lens.steering.base import Steering
from psr_lens.steering.sums import SumSteering

_PLACES: Final = {
    "resid_post": "on the residual stream after these layers (`resid_post`)",
    "resid_mid": "between attention and MLP of these layers (`resid_mid`)",
}
_TOKENS: Final = {
    "response": "the last prompt token and every response token",
    "question+response": "the question's tokens, the last prompt token and every response token",
    "all": "every token, the chat template's included",
}
# Long, and in the file anyway; or said in words.
_LEFT_OUT: Final = ("fingerprint", "example_keys", "hook_point")
_QUESTION: Final = "tell me about the otter ."


def model_card(steering: Steering, repo_id: str = "owner/name") -> str:
    """A model card in Markdown with YAML front matter, for the hub.

    Args:
        steering: The steering; its provenance and its fit report are written out.
        repo_id: Where it will be; for the commands.
    """
    title = repo_id.split("/")[-1]
    parts = [
        f"---\n{_front_matter(steering).to_yaml()}\n---",
        f"# {title}\n\n{_what(steering)}",
        f"## Intervention\n\n{_formulas(steering)}",
        f"## Use\n\n{_use(steering, repo_id)}",
        f"## Provenance\n\n{_table('what', 'value', _flat(steering.provenance))}",
    ]
    if steering.fit_report is not None:
        parts.append(f"## Fit report\n\n{_report(steering.fit_report)}")
    return str(ModelCard("\n\n".join(parts) + "\n"))


def _front_matter(steering: Steering) -> ModelCardData:
    base = _model_name(steering)
    # A bare name may be a directory's, and the hub would link to whoever has that name there.
    linked = base if base.count("/") == 1 else None
    tags = ["activation-steering", "steering", steering.method]
    return ModelCardData(library_name="psr_lens", base_model=linked, tags=tags)


def _what(steering: Steering) -> str:
    origin = _model_name(steering)
    fitted = f"the model `{origin}`" if origin else "a model that it does not name"
    method = steering.provenance.get("method", steering.method)
    layers = ", ".join(map(str, steering.layers))
    n_layers = steering.provenance.get("model", {}).get("fingerprint", {}).get("n_layers")
    covered = f"{layers} (of {n_layers})" if n_layers else layers
    shapes = [f"`{name}` {list(tensor.shape)}" for name, tensor in steering.state_dict().items()]
    acted_on = {_tokens(part) for _, part in steering.weighted_parts()}
    facts = [
        ("kind", f"{type(steering).__name__} (`{steering.method}`), fitted by `{method}`"),
        ("layers", covered),
        ("acts", _PLACES[steering.hook_point]),
        ("tokens", "each part's own" if len(acted_on) > 1 else acted_on.pop()),
        ("tensors", ", ".join(shapes) or "none"),
    ]
    return (
        f"A steering for {fitted}: it is added to the residual stream while the model runs, and "
        f"stands in for a prompt.\n\n{_table('', '', facts)}"
    )


def _tokens(steering: Steering) -> str:
    return _TOKENS.get(str(steering.tokens), f"`{steering.tokens!r}`")


def _imports(steering: Steering) -> list[str]:
    """The imports that define its token rules, where psr_lens does not."""
    rules = {type(part.tokens) for _, part in steering.weighted_parts()} - {str}
    foreign = sorted(own.__module__ for own in rules if not own.__module__.startswith("psr_lens."))
    return [f"import {module}  # defines the rule that says which tokens" for module in foreign]


def _formulas(steering: Steering) -> str:
    if not isinstance(steering, SumSteering):
        return _description(steering)
    parts = [
        f"**{weight:g} times** {type(part).__name__}, layers {', '.join(map(str, part.layers))}, on "
        f"{_tokens(part)}: {_description(part)}"
        for weight, part in steering.parts
    ]
    return "\n\n".join([_description(steering), *parts])


def _description(steering: Steering) -> str:
    """Formula and source, from the first part of the class's docstring."""
    described = inspect.getdoc(type(steering)) or f"See `{type(steering).__name__}`."
    described = re.split(r"\n\n(?:Args|Made by)\b", described)[0].strip()
    # The hub's syntax for inline mathematics.
    return re.sub(r"\$([^$]+)\$", lambda formula: rf"\\({formula[1]}\\)", described)


def _use(steering: Steering, repo_id: str) -> str:
    address = f"hf://{repo_id}"
    base = _model_name(steering)
    if not base or steering.depends_on_examples:
        return (
            _code("import psr_lens as pl", "", f'steering = pl.load_steering("{address}")')
            + "\n\n`steering.applied(model, ...)` steers the model that it belongs to."
        )
    text = [
        _code(
            "import psr_lens as pl",
            *_imports(steering),
            "",
            f"model = pl.load_model({_model_arguments(steering)})",
            f'steering = pl.load_steering("{address}")',
            "with steering.applied(model, alpha=1.0):",
            f'    print(model.generate("{_QUESTION}", max_new_tokens=60))',
        )
    ]
    # transformers alone would read a GGUF file differently.
    plain = base not in EMBEDDED_MODELS and "gguf" not in steering.provenance["model"]
    acted_on = [reach_of(part.tokens) for _, part in steering.weighted_parts()]
    if plain and "question+response" not in acted_on:
        text += [
            "The same on the plain transformers model:",
            _transformers(steering, address, base),
        ]
    return "\n\n".join(text)


def _transformers(steering: Steering, address: str, base: str) -> str:
    if steering.provenance["model"].get("chat_template"):
        encode = [
            "inputs = tokenizer.apply_chat_template(",
            f'    [{{"role": "user", "content": "{_QUESTION}"}}],',
            "    add_generation_prompt=True,",
            "    return_dict=True,",
            '    return_tensors="pt",',
            ")",
        ]
    else:
        encode = [f'inputs = tokenizer("{_QUESTION}", return_tensors="pt")']
    return _code(
        "import psr_lens as pl",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(base)})",
        f"hf_model = AutoModelForCausalLM.from_pretrained({json.dumps(base)})",
        *encode,
        f'steering = pl.load_steering("{address}")',
        "with steering.applied(hf_model, alpha=1.0):",
        "    tokens = hf_model.generate(**inputs, max_new_tokens=60)",
        "print(tokenizer.decode(tokens[0]))",
    )


def _model_arguments(steering: Steering) -> str:
    """The arguments of `load_model` that load the model it was fitted on."""
    base, origin = _model_name(steering), steering.provenance["model"].get("gguf")
    if origin is None or base == SMOLLM2:
        return json.dumps(base)
    file = json.dumps(origin["file"])
    # A model on the hub has its repository's name, and a file on a disk its own.
    return f"{json.dumps(base)}, gguf_file={file}" if "/" in base else file


def _model_name(steering: Steering) -> str:
    return str(steering.provenance.get("model", {}).get("name", ""))


def _report(report: Any) -> str:
    """Any dataclass: its plain fields in one table, every list of records in its own table."""
    if not dataclasses.is_dataclass(report):
        return _cell(report)
    fields = {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
    tables = {name: value for name, value in fields.items() if _is_records(value)}
    plain = [(name, value) for name, value in fields.items() if name not in tables]
    parts = [_table("what", "value", plain)]
    for name, records in tables.items():
        columns = [field.name for field in dataclasses.fields(records[0])]
        rows = [[getattr(record, column, "") for column in columns] for record in records]
        parts.append(f"### {name}\n\n{_rows(columns, rows)}")
    return "\n\n".join(parts)


def _is_records(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(dataclasses.is_dataclass(item) for item in value)
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if name in _LEFT_OUT:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _table(left: str, right: str, pairs: Any) -> str:
    return _rows([left, right], [list(pair) for pair in pairs])


def _rows(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    """One line of Markdown that cannot leave its cell."""
    if isinstance(value, float):
        text = f"{value:.4g}"
    elif value is None:
        text = "none"
    elif isinstance(value, list | tuple):
        return ", ".join(map(_cell, value)) or "none"
    else:
        text = str(value)
    shortened = text if len(text) <= 300 else text[:297] + "..."
    return " ".join(shortened.replace("|", "\\|").replace("<", "&lt;").split())


def _code(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])

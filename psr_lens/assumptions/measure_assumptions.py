"""The assumption tests: is what a prompt does one direction, even, readable off the activation?

Heyman & Vandeputte (arXiv 2605.03907) derive PSR from three assumptions about the delta `D[l, i]` that a
prompt makes at layer `l` and token `i`:

- 3.1, one direction: `D[l, i] = c[l, i] z[l]`;
- 3.2, the same strength everywhere: `c[l, i] = c[l]`, which is what a constant steering vector needs;
- 3.2a, the weaker one that PSR needs: `c[l, i]` is a function of the activation at that token.
"""

from collections.abc import Sequence
from typing import Any, Final, get_args

import torch

from psr_lens._types import (
    AlignedTokens,
    Layers,
    check_aligned,
    check_count,
    check_seed,
    resolve_layers,
)
from psr_lens.assumptions.assumption_report import AssumptionReport
from psr_lens.assumptions.decoding import fit_layer_probes, score_layer_probes
from psr_lens.assumptions.spectrum import measure_spectrum
from psr_lens.assumptions.stream import DeltaStream
from psr_lens.assumptions.strengths import DIRECTIONS, describe_strengths, measure_strengths
from psr_lens.assumptions.table import MeasureTable
from psr_lens.dataset import check_data, split_examples
from psr_lens.deltas import Kind
from psr_lens.examples import Example, check_examples, check_prompts_differ, number_prompts
from psr_lens.models import unsteered_model
from psr_lens.prompt_effect import measure_prompt_effect
from psr_lens.statistics import resamples
from psr_lens.steering.provenance import describe_data, provenance

_N_ENERGIES: Final = 64


@torch.no_grad()
def measure_assumptions(
    model: Any,
    data: Sequence[Example],
    *,
    probe_data: Sequence[Example] | None = None,
    tokens: AlignedTokens = "response",
    kind: Kind = "local",
    layers: Layers = "all",
    batch_size: int = 32,
    n_bootstrap: int = 1000,
    seed: int = 0,
    max_probe_tokens: int = 8192,
    progress: bool = False,
) -> AssumptionReport:
    r"""Test what steering methods assume about a prompt.

    At every layer, over the aligned tokens of all examples:

    1. the singular spectrum of the deltas, not centred, of both kinds: the share of $\sum |D|^2$ along the
       top 1, 2, 4 and 8 directions (3.1);
    2. with $z$ the leading direction, signed so that the mean projection is positive, and $c = D \cdot z$:
       how much $c$ varies, what share of the energy the mean delta holds, and quantiles of $c$ and $|D|$,
       also by token class (3.2);
    3. held-out $R^2$ of $c \approx \mathrm{ReLU}(w \cdot A + b)\, z$, beside the ridge regression without
       the ReLU; the best constant has 0 (3.2a). $A$ is what a steering would read there: the base
       run for `accumulated`, the base run in which all earlier layers are already prompted for
       `local`. The penalty is chosen on a quarter of the groups that the probes are fitted on.

    Intervals are 95 % percentile bootstrap intervals over prompts; directions and probes are not refitted
    in the resamples. Directions are found on the same examples as their shares, so with fewer tokens than
    dimensions the shares come out high.

    The data is streamed: two passes, and one over the held-out examples. If its deltas of both kinds and
    the activations $A$ take no more than 2 GiB, they are kept and the data is run once; without
    `probe_data` its halves are run again for the probes. Held in memory besides, and beside one batch:
    `16 * layers * d_model^2` bytes of second moments (float64, both kinds; 8.6 GB for 32 layers of width
    4096: pass `layers` to look at some of them at a time), `max_probe_tokens * layers * d_model` numbers
    that the probes are fitted on, and two numbers for every layer and token of the data, $|D|$ and $c$;
    these in float32, or in float64 for a float64 model.

    Args:
        model: A `HookedModel`, HookedTransformer, TransformerBridge or transformers model.
        data: The examples; all of them are measured, whatever split they belong to.
        probe_data: Examples to fit the probes on; they are then tested on all of `data`. By default
            half of the groups of `data`, drawn by `seed`, and the test is on the other half.
        tokens: Which tokens to measure on, `response` or `question+response`.
        kind: Which delta's strength to examine in 2 and 3.
        layers: Which layers to examine.
        batch_size: Examples per forward pass.
        n_bootstrap: Resamples for the intervals: of prompts, each with all of its examples.
        seed: Decides the resamples, the halves and the tokens that the probes are fitted on.
        max_probe_tokens: Tokens per layer that the probes are fitted on, at most; drawn by `seed`.
        progress: Whether to show bars.

    Raises:
        ValueError: If there is no example, the steering prompts change nothing, an example is in both
            `data` and `probe_data`, or an argument is out of range.

    Example:
        >>> import psr_lens as pl
        >>> from psr_lens.demo.animals import held_out_data
        >>> model = pl.load_model("demo")
        >>> report = pl.measure_assumptions(model, held_out_data(model, "pirate", 1), layers=[4])
        >>> report.verdicts("same strength")
        ('breaks',)
    """
    hooked = unsteered_model(model, "measure_assumptions(...)")
    if len(check_examples(data)) == 0:
        raise ValueError("there is no example to measure on: pass at least one")
    if kind not in get_args(Kind):
        raise ValueError(f"kind={kind!r}: choose 'accumulated' or 'local'")
    check_data(hooked, data, check_aligned(tokens))
    check_prompts_differ(data)
    check_seed(seed)
    check_count("n_bootstrap", n_bootstrap, 0)
    check_count("max_probe_tokens", max_probe_tokens)
    chosen = resolve_layers(layers, hooked.n_layers)
    if probe_data is not None:
        check_data(hooked, probe_data, tokens)
    fit_on, test_on = _halves(data, probe_data, seed)

    def stream_of(examples: Sequence[Example], keep: bool = False) -> DeltaStream:
        return DeltaStream(hooked, examples, tokens, chosen, batch_size, progress, keep)

    stream = stream_of(data, keep=True)
    kinds: tuple[Kind, ...] = ("accumulated", "local")
    spectra = measure_spectrum(stream, kinds, n_energies=_N_ENERGIES, n_directions=max(DIRECTIONS))
    if all(bool((spectrum.total == 0).all()) for spectrum in spectra.values()):
        raise ValueError(
            "the steering prompts change nothing that the model computes on the aligned tokens"
        )
    prompt_of = number_prompts(data)
    counts = resamples(prompt_of, n_bootstrap, seed)
    table = MeasureTable(chosen)
    strengths = measure_strengths(stream, spectra, kind, counts, table)
    describe_strengths(stream, strengths, kind, counts, table)
    has_test = len(fit_on) > 0 and len(test_on) > 0
    if has_test:
        z = spectra[kind].directions[:, 0]
        probes = fit_layer_probes(stream_of(fit_on), kind, z, max_probe_tokens, seed)
        held_out = stream if test_on is data else stream_of(test_on)
        score_layer_probes(held_out, kind, z, probes, (n_bootstrap, seed), table)
    else:
        nothing = torch.full((3, len(chosen)), float("nan"))
        table.add("relu_r2", kind, nothing)
        table.add("linear_r2", kind, nothing)
    effect = measure_prompt_effect(hooked, data, batch_size=batch_size)
    return AssumptionReport(
        tuple(table.rows),
        chosen,
        kind,
        tokens,
        len(data),
        len(set(prompt_of)),
        len(fit_on),
        len(test_on) if has_test else 0,
        provenance=provenance(
            hooked,
            data=describe_data(data, getattr(data, "provenance", {})),
            prompt_effect=effect.described(),
            probe_data=None
            if probe_data is None
            else describe_data(probe_data, getattr(probe_data, "provenance", {})),
            seed=seed,
            n_bootstrap=n_bootstrap,
            max_probe_tokens=max_probe_tokens,
        ),
    )


def _halves(
    data: Sequence[Example], probe_data: Sequence[Example] | None, seed: int
) -> tuple[Sequence[Example], Sequence[Example]]:
    """The examples that the probes are fitted on, and those that they are tested on."""
    if probe_data is None:
        side = split_examples(data, (0.5, 0.0, 0.5), seed)
        return (
            [example for example in data if side[example.pair.group] == "train"],
            [example for example in data if side[example.pair.group] == "test"],
        )
    if len(check_examples(probe_data)) == 0:
        raise ValueError("probe_data is empty: pass examples, or None for half of the data")
    seen = {example.key for example in probe_data}
    shared = sum(example.key in seen for example in data)
    if shared:
        raise ValueError(
            f"{shared} of the {len(data)} examples are in probe_data too: fit the probes on other "
            "examples, data.train and data.test for instance"
        )
    return probe_data, data

"""The subcommands."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from psr_lens.cli.options import (
    DataOptions,
    ModelOptions,
    PairOptions,
    file_names,
    fitted_with,
    parse_layers,
    refuse_directory,
    refuse_file,
    refuse_unwritable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from psr_lens.examples import Example
    from psr_lens.fitting.plan import FitPlan
    from psr_lens.models import HookedModel
    from psr_lens.steering import Steering

_TWO_GROUPS = "2 are needed, for some are held out: add pairs"


@dataclass(frozen=True)
class Demo(ModelOptions):
    """Go from a prompt to a steering that replaces it, and write a page about it."""

    model: str = "demo"
    """The embedded `demo` or `demo-gpt2`, asked about the animals of its world; or a chat model, asked
    everyday questions: `smollm2`, a hub name, a directory, a .gguf file."""
    traits: tuple[str, ...] = ()
    """Instructions. For the demo world: hedger, optimist, flatterer (the default three), pirate, shouter,
    pessimist, velan, two_sentences, no_colour, the_end. For a real model: french (the default), spanish,
    german, pirate."""
    out: Path = Path("demo-report")
    """Directory for report.html, results.json and the fitted steerings."""
    seed: int = 0
    """The same seed gives the same results."""

    def run(self) -> None:
        """Load, run, write, say where."""
        refuse_file(self.out)
        from psr_lens._types import check_seed

        check_seed(self.seed)
        from psr_lens.demo.demo_page import SHOWN
        from psr_lens.demo.run import check_traits, run_demo, world_of
        from psr_lens.demo.trial import CONSTANTS, PSR

        world = world_of(self.model)
        check_traits(world, self.traits)
        run = run_demo(self.load(), self.out, traits=self.traits, seed=self.seed, world=world)
        for result in run.results:
            curves = result.faithfulness.relative_rmse
            print(
                f"{result.name:>14}: relative RMSE {curves[PSR].values[-1]:.2f} (PSR), "
                f"{min(curves[name].values[-1] for name in CONSTANTS):.2f} (the best constant); "
                f"trait {result.base.trait:.0f} without steering, {result.prompted.trait:.0f} "
                "prompted, each at its best strength "
                + ", ".join(
                    f"{own.trait:.0f} at coherence {own.coherence:.0f} ({name})"
                    for name, own in ((name, result.at_best(name)) for name in SHOWN)
                )
            )
        print(f"\nOpen {run.report} in a browser.")


@dataclass(frozen=True)
class Sample(PairOptions):
    """Sample a response to every steering prompt and save the data, which other commands take as --data."""

    pairs: Path = tyro.MISSING
    """JSON Lines file: `base`, `prompted`, and optionally `response` per line. Give 50 pairs or more: a
    fifth is held out to measure on, and fewer than 5 held out give no intervals."""
    out: Path = Path("data.safetensors")
    """The file to write."""

    def run(self) -> None:
        """Load, sample, save, say what there is."""
        self.check()
        from psr_lens.dataset import KIND
        from psr_lens.examples import cut_off_words
        from psr_lens.prompts import load_pairs
        from psr_lens.storage import refuse_foreign

        refuse_directory(self.out)
        refuse_foreign(self.out, KIND)
        pairs = load_pairs(self.pairs)
        data = self.sample(self.load(), pairs)
        saved = data.save(self.out)
        print(cut_off_words(data) or "every response came to its end.")
        print(f"saved {saved}: {data!r}")


@dataclass(frozen=True)
class Decompose(DataOptions):
    """Show what the steering prompts do to the residual stream, at every layer and token."""

    out: Path = Path("deltas")
    """Directory for deltas.html (a heatmap per example) and norms.csv."""
    show: int = 8
    """Examples on the page; norms.csv holds all."""

    def check(self) -> None:
        """Refuse what can be refused before anything is loaded."""
        super().check()
        if self.data is not None and self.seed:
            raise ValueError(
                f"--seed {self.seed} with --data {self.data}: its responses are sampled already; leave it "
                "out, or sample anew with --pairs"
            )

    def run(self) -> None:
        """Sample, collect, write."""
        refuse_file(self.out)
        if self.show < 1:
            raise ValueError(f"--show {self.show}: it must be at least 1")
        self.check()
        from psr_lens.pages.decomposition_page import (
            refuse_foreign_decomposition,
            write_decomposition,
        )
        from psr_lens.prompt_effect import measure_prompt_effect

        refuse_foreign_decomposition(self.out)
        model, given = self.read()
        data = self.answered(model, given)
        effect = measure_prompt_effect(model, data, batch_size=self.batch_size)
        if effect.is_weak:
            print(effect.warning)
        written = write_decomposition(
            model,
            data,
            self.out,
            tokens=self.tokens,
            show=self.show,
            batch_size=self.batch_size,
            effect=effect,
        )
        print(f"{len(data)} examples: open {written}")


@dataclass(frozen=True)
class _FitOptions(DataOptions):
    layers: str = "all"
    """`all`, `best`, one index, or several with commas: `3,4,5`."""
    objective: Literal["mse", "ll"] | None = None
    """`mse`: distance to the prompted residual stream; `ll`: log-likelihood of the responses. By default
    the method's own."""
    solver: Literal["auto", "layerwise", "refine", "gradient"] = "auto"
    """`layerwise`: layer by layer, without gradients; `gradient`: through the model; `refine`: one after
    the other; `auto`: whichever is best on the dev pairs."""
    hook_point: Literal["resid_post", "resid_mid"] = "resid_post"
    """Where in its blocks the steering acts: after them, or between their attention, through which a prompt
    comes in, and their MLP."""
    recipe: Literal["default", "paper"] = "default"
    """For the gradient solver: `default` adapts to the model, `paper` is the paper's."""
    epochs: int | None = None
    """Passes over the training pairs, in place of the recipe's."""
    lr: float | None = None
    """Step size, in place of the recipe's."""

    def _layers(self) -> Any:
        """The layers; None if left to the method."""
        return parse_layers(self.layers)

    def own_options(self) -> dict[str, Any]:
        """The methods' options that were given; commands that have some override this."""
        return {}

    def arguments(self) -> dict[str, Any]:
        """The arguments of `psr_lens.fit`."""
        return {
            "layers": self._layers(),
            "objective": self.objective,
            "solver": self.solver,
            "tokens": self.tokens,
            "hook_point": self.hook_point,
            "recipe": self.recipe,
            "epochs": self.epochs,
            "lr": self.lr,
            "seed": self.seed,
            "batch_size": self.batch_size,
            **self.own_options(),
        }

    def check_layers(self, model: "HookedModel") -> None:
        """Refuse layers that the model lacks, before a response is sampled."""
        from psr_lens._types import resolve_layers

        layers = self._layers()
        if layers not in ("best", None):
            resolve_layers(layers, model.n_layers)

    def least_groups(
        self, fits: "Iterable[FitPlan]", least: int = 1, what_for: str = ""
    ) -> tuple[int, str]:
        """How many groups of pairs the fits need, or `least` if that is more, and why."""
        for plan in fits:
            try:
                plan.method.check_options(plan.options, tokens=plan.tokens, has_dev=False)
            except ValueError as error:
                if least < 3:
                    return 3, f"3 are needed, for train, dev and test: add pairs ({error})"
        return least, what_for


@dataclass(frozen=True)
class Fit(_FitOptions):
    """Fit a steering to the pairs, measure it on held-out ones, and save it."""

    method: tyro.conf.Positional[str] = tyro.MISSING
    """What to fit: `psr-lens fit` lists all methods, and `psr-lens fit psr --help` the options of one."""
    out: Path = Path("steering.safetensors")
    """The file to write."""
    checkpoint: Path | None = None
    """Directory for the finished parts of a fit; after an interruption, the same command resumes there."""

    def run(self) -> None:
        """Sample, fit, save, measure."""
        arguments = self.arguments()
        self.check()
        from psr_lens.storage import refuse_foreign

        refuse_directory(self.out)
        refuse_foreign(self.out, "steering")
        if self.checkpoint is not None:
            if self.checkpoint.exists() and not self.checkpoint.is_dir():
                raise ValueError(f"--checkpoint {self.checkpoint} is a file: name a directory")
            refuse_unwritable(self.checkpoint.absolute(), "--checkpoint")
        from psr_lens.faithfulness import measure_faithfulness
        from psr_lens.fitting import fit
        from psr_lens.fitting.plan import plan_fit

        plan = plan_fit(method=self.method, **arguments)
        model, given = self.read(*self.least_groups([plan]))
        self.check_layers(model)
        data = self.answered(model, given)
        steering = fit(
            model,
            data,
            method=self.method,
            **arguments,
            checkpoint=self.checkpoint,
            progress=True,
        )
        saved = steering.save(self.out)
        if len(data.test):
            report = measure_faithfulness(
                model,
                [steering],
                data.test,
                tokens=self.tokens,
                oracle_ranks=(),
                token_examples=0,
                batch_size=self.batch_size,
            )
            print(report.summary())
        else:
            print("no test examples: too few groups of pairs to hold some out")
        print(steering.fit_report)
        print(f"saved {saved}")


@dataclass(frozen=True)
class Compare(_FitOptions):
    """Fit several methods to the same pairs, each at its best; compare them on held-out ones."""

    layers: str = "auto"
    """`auto`: all, or the best one if that is closer on the dev pairs; or as for `fit`."""
    methods: tuple[str, ...] = ("dim", "const", "psr")
    """What to fit: names as `fit` takes them."""
    out: Path | None = None
    """A CSV file for the whole table, one row per method and layer."""

    def _layers(self) -> Any:
        return None if self.layers == "auto" else super()._layers()

    def run(self) -> None:
        """Sample, fit each, measure all on the same runs, print."""
        arguments = self.arguments()
        self.check()
        from psr_lens.storage.atomic import refuse_foreign_files, write_bytes

        if self.out is not None:
            refuse_directory(self.out)
            refuse_foreign_files({self.out: b"steering,reference,measure,"})
        from psr_lens.comparison import compare, plan_comparison
        from psr_lens.fitting.plan import plan_fit

        fits = plan_comparison(self.methods, arguments).fits
        plans = [plan_fit(**own) for _, own in fits]
        model, given = self.read(*self.least_groups(plans, 2, _TWO_GROUPS))
        self.check_layers(model)
        data = self.answered(model, given)
        found = compare(
            model,
            data,
            self.methods,
            **arguments,
            progress=True,
        )
        print(found.summary())
        if self.out is not None:
            table = found.faithfulness.to_dataframe().to_csv(index=False)
            print(f"saved {write_bytes(self.out, table.encode())}")


@dataclass(frozen=True)
class Faithfulness(DataOptions):
    """Measure how close saved steerings come to the steering prompts, on pairs held out from the fit."""

    steerings: tuple[str, ...] = tyro.MISSING
    """Files that `fit` or `demo` wrote, or `hf://owner/name`; each is named after its file."""
    part: Literal["test", "all"] = "test"
    """`test`: the pairs that `fit` with the same seed or data holds out; `all`: all of them."""
    alpha: float = 1.0
    """Strength."""
    oracle_ranks: tuple[int, ...] = (1, 4)
    """Directions per layer of the oracles to compare with."""
    outputs: bool = True
    """Compare next-token distributions too."""
    allow_seen: bool = False
    """Measure even on examples that a steering was fitted on."""
    also: tuple[Literal["assumptions", "components", "lens"], ...] = ()
    """`assumptions`: test what steerings assume about the prompts; `components`: find which heads and MLPs
    bring the instruction in; `lens`: read the steerings in words."""
    out: Path | None = None
    """Directory for the report, report.safetensors, and a page about it, report.html; what `--also` finds
    goes beside them: assumptions.safetensors, components.safetensors, lens/NAME.safetensors."""

    def check(self) -> None:
        """Refuse what can be refused before anything is loaded."""
        super().check()
        from psr_lens._types import check_alpha, check_count

        check_alpha(self.alpha)
        for rank in self.oracle_ranks:
            check_count("oracle_ranks", rank)
        if not self.steerings:
            raise ValueError("--steerings names no file: name at least one")

    def run(self) -> None:
        """Load, sample, measure, print, write."""
        self.check()
        if self.out is not None:
            refuse_file(self.out)
            self._refuse_foreign(self.out)
        from psr_lens.dataset import SteeringDataset
        from psr_lens.faithfulness import measure_faithfulness
        from psr_lens.faithfulness.measure_faithfulness import refuse_seen
        from psr_lens.pages.faithfulness_page import write_faithfulness
        from psr_lens.responses import unanswered
        from psr_lens.steering import load_steering

        steerings: dict[str, Steering] = {}
        for name, path in zip(file_names(self.steerings), self.steerings, strict=True):
            steerings[name] = load_steering(path)
            read = (
                part.roles.keys() & part.state_dict()
                for _, part in steerings[name].weighted_parts()
            )
            if "lens" in self.also and not any(read):
                raise ValueError(
                    f"--also lens: {path} is {steerings[name]!r}, without directions to read"
                )
        needs = 2 if self.part == "test" else 1
        model, given = self.read(
            needs,
            f"{_TWO_GROUPS}, or measure on all of them with --part all",
            list(steerings.values()),
        )
        for steering in steerings.values():
            steering.check(model)
        before = given
        if not isinstance(before, SteeringDataset):
            before = unanswered(model, before, self.seed)
        before = before.test if self.part == "test" else before
        if len(before) == 0:
            raise ValueError(f"no test examples: {_TWO_GROUPS}, or measure on all with --part all")
        if not self.allow_seen:
            for name, steering in steerings.items():
                refuse_seen(name, steering, before)
        data = self.answered(model, given, list(steerings.values()))
        measured = data.test if self.part == "test" else data
        report = measure_faithfulness(
            model,
            steerings,
            measured,
            alpha=self.alpha,
            tokens=self.tokens,
            outputs=self.outputs,
            oracle_ranks=self.oracle_ranks,
            batch_size=self.batch_size,
            seed=self.seed,
            allow_seen=self.allow_seen,
            progress=True,
        )
        print(report.summary())
        print(f"\n{report.table()}")
        if self.out is not None:
            print(f"\nsaved {self.out}: open {write_faithfulness(report, self.out)}")
        fit_part = data.train if self.part == "test" and len(data.train) else None
        for kind in dict.fromkeys(self.also):
            for name, found in self._more(kind, model, measured, fit_part, steerings).items():
                print(f"\n{found.summary()}")
                if self.out is not None:
                    print(f"saved {found.save(self.out / name)}")

    def _refuse_foreign(self, out: Path) -> None:
        """Before the work: refuse to overwrite a file of another kind."""
        from psr_lens.pages.faithfulness_page import refuse_foreign_faithfulness
        from psr_lens.storage import refuse_foreign

        refuse_foreign_faithfulness(out)
        for kind in self.also:
            if kind == "lens":
                for name in file_names(self.steerings):
                    refuse_foreign(out / "lens" / name, "LensReading")
            else:
                reports = {"assumptions": "AssumptionReport", "components": "ComponentReport"}
                refuse_foreign(out / kind, reports[kind])

    def _more(
        self,
        kind: str,
        model: "HookedModel",
        data: "Sequence[Example]",
        fit_part: "Sequence[Example] | None",
        steerings: "Mapping[str, Steering]",
    ) -> dict[str, Any]:
        """What `--also` asks for, by the name of its file."""
        from psr_lens.assumptions import measure_assumptions
        from psr_lens.components import measure_components
        from psr_lens.lens import read_steering

        if kind == "lens":
            return {f"lens/{name}": read_steering(model, own) for name, own in steerings.items()}
        options: dict[str, Any] = {
            "tokens": self.tokens,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "progress": True,
        }
        if kind == "components":
            return {kind: measure_components(model, data, **options)}
        return {kind: measure_assumptions(model, data, probe_data=fit_part, **options)}


@dataclass(frozen=True)
class Steer(ModelOptions):
    """Answer one prompt or several under a saved steering."""

    prompt: tuple[str, ...] = ()
    """One user turn on a chat model, plain text on a base model; several are answered together."""
    prompts: Path | None = None
    """A text file with more of them, one per line; blank lines are skipped."""
    steering: str = tyro.MISSING
    """A file that `fit` or `demo` wrote, or `hf://owner/name` on the hub."""
    alpha: float = 1.0
    """Strength."""
    max_new_tokens: int = 128
    """Longest response, in tokens."""
    temperature: float = 1.0
    """0 for greedy decoding."""
    seed: int = 0
    """The same seed gives the same response to the same prompt in the same place."""
    batch_size: int = 32
    """Prompts per batch."""

    def run(self) -> None:
        """Load, steer, print: the response alone to one prompt, each after its prompt to several."""
        from psr_lens._types import check_alpha, check_count
        from psr_lens.models.generation import check_sampling

        check_alpha(self.alpha)
        check_count("batch_size", self.batch_size)
        prompts = self._asked()
        check_sampling(self.max_new_tokens, self.temperature, self.seed)
        from psr_lens.steering import load_steering

        steering = load_steering(self.steering)
        model = self.load(fitted_with("template_options", [steering]))
        with steering.applied(model, self.alpha):
            responses = model.generate(
                prompts,
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                seed=self.seed,
                batch_size=self.batch_size,
            )
        if len(prompts) == 1:
            print(responses[0])
            return
        print("\n\n".join(f"> {p}\n{said}" for p, said in zip(prompts, responses, strict=True)))

    def _asked(self) -> list[str]:
        """The prompts, those on the command line first.

        Raises:
            ValueError: If there is none.
        """
        listed = list(self.prompt)
        if self.prompts is not None:
            lines = self.prompts.read_text(encoding="utf-8").splitlines()
            listed += [line for line in lines if line.strip()]
        if not listed:
            raise ValueError(
                "there is no prompt to answer: pass --prompt TEXT, or --prompts FILE with one per line"
            )
        return listed

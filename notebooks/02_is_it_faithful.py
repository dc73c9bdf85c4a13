# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Is it doing what the prompt does?
#
# Two steerings can make a model sound alike and do quite different things inside it. This notebook asks a
# steering for its papers: how close it comes to the prompt at every layer, against what it should be
# compared, where its error comes from, and what the prompt itself does that makes it hard to replace.
#
# It runs on the demo model; every number is from animals that no fit has seen.

# %%
import psr_lens as pl

model = pl.load_model("demo", progress=False)

# %%
from psr_lens.demo.animals import fit_data, held_out_data

train = fit_data(model, "shouter", seed=0)
test = held_out_data(model, "shouter", seed=1)
test[0].pair.prompted

# %% [markdown]
# ## Three steerings, each at its best
#
# A PSR at every layer, fitted layer by layer and refined through the model; a constant vector at every
# layer, fitted through the model (layer by layer it would be far worse); and the mean difference at the
# layer that is best on the dev animals. `pl.compare(model, data, ["dim", "const", "psr"])` tries every
# solver and objective that there is for each, which takes longer.

# %%
psr = pl.fit(model, train, method="psr", solver="refine")
const = pl.fit(model, train, method="const", solver="gradient")
dim = pl.fit(model, train, method="dim", layers="best")
steerings = {"PSR": psr, "constant": const, "difference in means": dim}
report = pl.measure_faithfulness(model, steerings, test)
print(report.summary())

# %% [markdown]
# The relative RMSE at every layer: 0 is the prompt itself and 1 is no steering. The reference lines say
# what such a number is worth: the same instruction in other words, the right strengths along a wrong
# direction, and oracles that know the prompt's own deltas and may use one or four directions in each layer.

# %%
report.plot()

# %% [markdown]
# Differences are paired: both sides see the same resamples of the prompts, so the interval is that of the
# difference and not of two separate numbers.

# %%
report.difference("constant", "PSR")

# %% [markdown]
# ## Where the error comes from
#
# At every layer the error that is left is split exactly: updates of the wrong strength (coefficient), no
# direction for what was missing (direction), no update there at all (uncovered), and what the blocks above
# make of earlier errors (propagation; below zero where they undo them). The parts add up to the squared
# relative RMSE.

# %%
report.plot("gap", name="PSR")

# %% [markdown]
# Token by token, on the first held-out answer: the length of what the prompt did (the accumulated delta), and
# the distance to the prompted residual stream that is left under the PSR and under the constant.

# %%
pl.plots.token_heatmaps(
    {
        "what the prompt did": report.token_values("PSR", quantity="delta"),
        "what is wrong under the PSR": report.token_values("PSR", quantity="error"),
        "what is wrong under the constant": report.token_values("constant", quantity="error"),
    },
    shared_scale=True,
)

# %% [markdown]
# ## Why a constant vector cannot do it
#
# A constant vector assumes that a prompt adds one direction (3.1) with the same strength at every token
# (3.2). A PSR needs less: that the strength can be read off the activation (3.2a).

# %%
assumptions = pl.measure_assumptions(model, test, probe_data=train.train)
print(assumptions.summary())
assumptions.plot()

# %% [markdown]
# ## Which parts of the model bring the instruction in
#
# What every attention head and MLP added to the prompt's effect, and which heads look at the instruction.
# Drawn for the heads: the share of what each writes in the prompt's delta after the last layer, and the
# share of its attention that lies on the instruction.

# %%
components = pl.measure_components(model, test)
print(components.summary())
components.plot("heads")

# %% [markdown]
# ## In words
#
# A direction that a steering writes can be read through the model's own unembedding: the tokens that it makes
# more and less likely.

# %%
last = pl.fit(model, train, method="psr", layers=model.n_layers - 1, solver="layerwise")
pl.read_steering(model, last)

# %% [markdown]
# ## To keep
#
# A report is one file; nothing is lost on the way.

# %%
from tempfile import TemporaryDirectory

with TemporaryDirectory() as folder:
    path = report.save(f"{folder}/shouter")
    print(path.name)
    same = pl.FaithfulnessReport.load(path)
same.to_dataframe().query("measure == 'relative_rmse' and layer == 5").round(3)

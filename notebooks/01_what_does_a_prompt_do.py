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
# # What does a prompt do?
#
# A system prompt says "talk like a pirate", and the answer begins with *arr*. Somewhere in between, the
# instruction changed the numbers that flow through the model: the **residual stream**, one vector for
# every layer and token. This notebook looks at that change, and then makes the same change without the
# prompt.
#
# It runs on the demo model, a small chat model that comes with the package and knows about animals.

# %%
import psr_lens as pl

model = pl.load_model("demo", progress=False)
model

# %% [markdown]
# ## One question, twice
#
# A *pair* is the same question without and with a steering instruction.

# %%
(pair,) = pl.make_pairs(["describe the fox ."], "talk like a pirate .")
print("without:", model.generate(pair.base, seed=3))
print("with:   ", model.generate(pair.prompted, seed=3))

# %% [markdown]
# ## What the instruction changed
#
# Take the model's answer to the steering prompt. Run it once after the plain question and once after the
# prompted one. The difference between the two residual streams, at every layer and token of the answer, is
# what the prompt did: the **accumulated delta**. (The **local delta** is what one layer must still add once
# the prompt has done its part in all layers below.) The deltas of an example show themselves: colour is the
# length of the accumulated delta, in units of the residual stream.

# %%
data = pl.sample_responses(model, [pair], seed=3, progress=False)
deltas = pl.collect_deltas(model, data)
deltas[0]

# %% [markdown]
# Now the length of the local delta, in the same units. What is added at a token acts on the *next* one: the
# model chooses every token at the one before it. It is far from even: the prompt acts where a pirate's call
# is to follow, and leaves most other tokens nearly alone. Move the slider for the other layers.

# %%
pl.plots.token_heatmap(deltas[0].token_values("local"))

# %% [markdown]
# All layers at once, for the length of the accumulated delta again:

# %%
pl.plots.layer_token_heatmap(deltas[0])

# %% [markdown]
# ## The same, without the prompt
#
# A constant steering vector pushes every token alike. A **PSR** has a small probe in each layer that
# reads the token's residual stream and decides how hard to push:
# $A \leftarrow A + \mathrm{ReLU}(w \cdot A + b)\,z$. To fit one, we need more examples than one: questions
# about other animals, answered under the same instruction. The constant gets its best shot: one vector for
# every layer, fitted through the model on the same examples (layer by layer it would be far worse); the PSR
# is fitted layer by layer.

# %%
from psr_lens.demo import HELD_OUT_ANIMALS, QUESTION_WORDINGS, TRAINING_ANIMALS

questions = {
    animal.name: [wording.format(animal=animal.name) for wording in QUESTION_WORDINGS[:4]]
    for animal in TRAINING_ANIMALS
}
pairs = pl.make_pairs(questions, "talk like a pirate .")
examples = pl.sample_responses(model, pairs, progress=False)
psr = pl.fit(model, examples, method="psr", solver="layerwise")
vector = pl.fit(model, examples, method="const", solver="gradient")
psr

# %% [markdown]
# What it adds to the answer from above, about an animal that it was not fitted on. Colour is the length of
# what is added, on one scale for all three: the prompt's local delta, and the update of the PSR and of the
# constant vector. The PSR decides token by token, and leaves most alone; what an earlier layer got wrong, a
# later one makes up for. The layer shown first is the one where PSR and prompt can be read against each
# other best on the dev examples, so it flatters the PSR: the slider has the others.

# %%
layer = pl.plots.layer_to_show(
    [own.token_values("local") for own in pl.collect_deltas(model, examples.dev)],
    [own.token_values() for own in psr.coefficients(model, examples.dev)],
)
pl.plots.token_heatmaps(
    {
        "what the prompt adds": deltas[0].token_values("local"),
        "what the PSR adds": psr.coefficients(model, data)[0],
        "what a constant vector adds": vector.coefficients(model, data)[0],
    },
    shared_scale=True,
    layer=layer,
)

# %% [markdown]
# And their answers, to the plain question, at a few strengths. Which strength suits a method is chosen on
# dev examples: `psr_lens.evaluation.best_strength`.

# %%
for name, steering, alpha in [
    *[("PSR", psr, alpha) for alpha in (1.0, 1.5)],
    *[("constant", vector, alpha) for alpha in (1.0, 1.5, 2.0)],
]:
    with steering.applied(model, alpha):
        print(f"{name}, {alpha}: {model.generate(pair.base, seed=3)}")

# %% [markdown]
# ## How faithful is it?
#
# The relative RMSE says how far the steered residual stream is from the prompted one: 0 is the prompt itself,
# 1 is no steering. Measured on the held-out animals, which no fit has seen.

# %%
held_out = pl.make_pairs(
    {animal.name: [QUESTION_WORDINGS[0].format(animal=animal.name)] for animal in HELD_OUT_ANIMALS},
    "talk like a pirate .",
    paraphrases=["your job is to sound like a captain at sea ."],
)
test = pl.sample_responses(model, held_out, seed=1, progress=False)
report = pl.measure_faithfulness(model, {"PSR": psr, "constant": vector}, test)
print(report.summary())
report.plot()

# %% [markdown]
# How much further the constant is, paired: both see the same resamples of the prompts.

# %%
report.difference("constant", "PSR")

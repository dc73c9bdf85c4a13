"""The other packages, in an environment of their own: they need an older transformers.

python peers_child.py CHECKPOINT PAIRS.json VECTORS.npz

Loads the checkpoint, then obeys one line of standard input at a time and answers each with one
line of JSON: the name of a contender runs it once, `save` writes what they found. The process that
asks holds the clock, so that its own contenders alternate with these.
"""

import json
import os
import sys
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}

import numpy as np
import torch
from repeng import ControlVector, DatasetEntry
from repeng.extract import batched_get_hiddens
from steering_vectors import train_steering_vector
from transformers import AutoModelForCausalLM, AutoTokenizer


class Peers:
    """Both packages on one checkpoint and the same pairs.

    Args:
        checkpoint: Directory of the model.
        work: `pairs` (base and steered text of each), `batch_size`, `threads`.
    """

    def __init__(self, checkpoint: str, work: dict):
        torch.set_num_threads(work["threads"])
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.pairs = [tuple(pair) for pair in work["pairs"]]
        self.batch_size = work["batch_size"]
        self.found: dict[str, np.ndarray] = {}
        self.encoded = [
            self.tokenizer(texts, return_tensors="pt", padding=True)
            for start in range(0, len(self.pairs), self.batch_size)
            for texts in zip(*self.pairs[start : start + self.batch_size], strict=True)
        ]

    def tokens(self) -> list[list[list[int]]]:
        """Token ids of every base and steered text, for the asking process to compare."""
        return [self.tokenizer(list(pair))["input_ids"] for pair in self.pairs]

    @torch.no_grad()
    def forwards(self) -> None:
        """Two bare forward passes per batch, tokenised in advance."""
        for batch in self.encoded:
            self.model(**batch)

    def steering_vectors(self) -> None:
        """Mean difference at the last token, by steering-vectors."""
        samples = [(steered, base) for base, steered in self.pairs]
        vector = train_steering_vector(
            self.model, self.tokenizer, samples, read_token_index=-1, batch_size=self.batch_size
        )
        layers = sorted(vector.layer_activations)
        rows = [vector.layer_activations[layer].numpy() for layer in layers]
        self.found["steering-vectors"] = np.stack(rows)

    def repeng(self) -> None:
        """First principal direction of the differences at the last token, by repeng.

        A batch holds as many texts as the others' two: base and steered lie side by side in it.
        """
        entries = [DatasetEntry(positive=steered, negative=base) for base, steered in self.pairs]
        ControlVector.train(self.model, self.tokenizer, entries, batch_size=self.batch_size)

    def repeng_mean(self) -> None:
        """Mean difference of what repeng extracts; its last layer lies behind the final norm."""
        layers = list(range(self.model.config.num_hidden_layers))
        texts = [text for base, steered in self.pairs for text in (steered, base)]
        hidden = batched_get_hiddens(self.model, self.tokenizer, texts, layers, self.batch_size)
        means = [(hidden[layer][::2] - hidden[layer][1::2]).mean(axis=0) for layer in layers]
        self.found["repeng"] = np.stack(means)


def main(checkpoint: str, work: str, vectors: str) -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    # What the packages print must not get between the answers.
    os.dup2(2, 1)
    peers = Peers(checkpoint, json.loads(Path(work).read_text()))
    commands = {
        "tokens": peers.tokens,
        "two forwards": peers.forwards,
        "steering-vectors": peers.steering_vectors,
        "repeng": peers.repeng,
        "repeng mean": peers.repeng_mean,
        "save": lambda: np.savez(vectors, **peers.found),
    }
    for line in sys.stdin:
        print(json.dumps(commands[line.strip()]()), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

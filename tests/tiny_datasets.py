"""A small data set that no model made, with something in every field."""

from dataclasses import asdict

from psr_lens.dataset import SteeringDataset
from psr_lens.examples import Example
from psr_lens.models import RawText
from psr_lens.models.chat import Rendering
from psr_lens.models.numerics import Fingerprint
from psr_lens.prompts import PromptPair, make_pairs
from psr_lens.seen_prompts import SeenPrompts


def made_up_dataset() -> SteeringDataset:
    """Examples in every split: paraphrases, negatives, options and a date for a chat template."""
    asked = {"sea": ["A whale?", "A squid?"], "land": ["An otter?"], "air": ["An owl?"]}
    chats = make_pairs(asked, "Sing.", paraphrases=["Be a singer.", "Do not talk, sing."])
    raw = PromptPair(
        *(RawText("é"), RawText("Sing. é"), "La\u2028la."),
        group="sea",
        metadata={"page": [1, 2.5, None, {"a": True}]},
    )
    seen = SeenPrompts("<s>Hi", "<s>Sing. Hi", "Be nice.", "")
    options = Rendering({"thinking": False}, "2026-03-07")
    positives = tuple(
        Example(
            pair,
            (1, 2, i),
            (1, 9, 2, i),
            (5, 6 + i),
            ((1, 8, 2, i), (1, 7, 2, i)),
            finished=i % 2 == 0,
            rendering=options,
            region_length=2,
            seen=seen,
            response_text=f"La {i}.",
        )
        for i, pair in enumerate(chats)
    )
    negatives = (
        Example(chats[0], (1, 2, 0), (1, 9, 2, 0), (), alpha=0.0),
        Example(raw, (3,), (4, 3), (5,), alpha=-0.25),
    )
    fingerprint = Fingerprint(1, 2, 300, "float32", (1.0, 2.0), ((0.5, 0.25), (0.125, 1.0)))
    record = asdict(fingerprint) | {"norms": [1.0, 2.0], "coordinates": [[0.5, 0.25], [0.125, 1.0]]}
    return SteeringDataset(
        positives + negatives,
        {"sea": "train", "land": "dev", "air": "test", "elsewhere": "test"},
        {
            "responses_from": "tiny",
            "sampled": 4,
            "temperature": 0.5,
            "seed": 7,
            "date": "2026-03-07",
        },
        {
            "name": "tiny",
            "revision": None,
            "chat_template": "0123456789abcdef",
            "template_options": {"thinking": False},
            "fingerprint": record,
        },
    )

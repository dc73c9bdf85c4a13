"""Peak memory of one delta extraction, or of the faithfulness lab, in a process of its own.

python -m benchmarks.memory deltas|lab CHECKPOINT BACKEND EXAMPLES PROMPT RESPONSE BATCH_SIZE
"""

import resource
import sys
from pathlib import Path

import torch

from benchmarks.models import make_examples
from psr_lens.deltas import iter_deltas
from psr_lens.faithfulness import measure_faithfulness
from psr_lens.models import load_model
from psr_lens.steering import ConstantSteering


def main(job: str, checkpoint: str, backend: str, *numbers: str) -> None:
    """Print the peak resident memory in MiB."""
    count, prompt, response, batch_size = map(int, numbers)
    model = load_model(Path(checkpoint), backend=backend, device="cpu")
    examples = make_examples(count, prompt, response)
    if job == "lab":
        zeros = torch.zeros(model.n_layers, model.d_model)
        steering = ConstantSteering(zeros, range(model.n_layers))
        measure_faithfulness(model, steering, examples, batch_size=batch_size)
    else:
        for _ in iter_deltas(model, examples, batch_size=batch_size):
            pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kibibytes, but bytes on a Mac.
    print(peak / 2 ** (20 if sys.platform == "darwin" else 10))


if __name__ == "__main__":
    main(*sys.argv[1:])

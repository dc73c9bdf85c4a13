"""What the library computes on fixed seeds, written down, and compared with what it computes now.

    python -m scripts.recorded_outputs            # compare; exit code 1 if anything differs
    python -m scripts.recorded_outputs --write    # write tests/data/recorded_outputs.json anew
    python -m scripts.recorded_outputs --only "demo-gpt2, hooked"

For changes that should change no number. Golden numbers do not say what is right, as the tests do, but
only that nothing was lost. Another processor or version of torch rounds differently, and training step
by step passes that on: compare on the machine that wrote the file, or first write it anew from the code
before the change. What is computed is in `scripts/recorded`.
"""

import argparse
import sys
import time
import warnings
from importlib.metadata import version

from scripts.recorded.given import SETUPS
from scripts.recorded.quantities import compute
from scripts.recorded.record import FILE, compare_records, read_record, write_record


def versions() -> dict[str, str]:
    """What rounding depends on."""
    return {name: version(name) for name in ("torch", "transformer-lens", "transformers", "numpy")}


def main() -> int:
    """Compute, then write or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the file anew")
    parser.add_argument("--only", choices=[setup.name for setup in SETUPS], help="one setup alone")
    given = parser.parse_args()
    if given.write and given.only:
        parser.error("--write writes the whole file: leave --only out")
    # Prompts without an effect and training without a gain are recorded, not reported.
    warnings.simplefilter("ignore", UserWarning)
    start = time.perf_counter()
    found = compute([setup for setup in SETUPS if given.only in (None, setup.name)])
    took = f"{time.perf_counter() - start:.0f} s"
    if given.write:
        write_record(found, FILE, versions())
        print(
            f"{found.count()} values written to {FILE} ({FILE.stat().st_size // 1000} kB, {took})"
        )
        return 0
    recorded, made_with = read_record(FILE)
    result = compare_records(recorded.only(f"{given.only} / " if given.only else ""), found)
    for line in result.differences:
        print(line)
    for name, own in versions().items():
        if made_with.get(name) != own:
            print(f"note: recorded with {name} {made_with.get(name)}, computed with {own}")
    print(
        f"{len(result.differences)} quantities differ, {result.agreeing} values agree ({took}; the "
        f"closest call is at {result.closest_call:.0%} of its tolerance: {result.where or 'none'})"
    )
    return 1 if result.differences else 0


if __name__ == "__main__":
    sys.exit(main())

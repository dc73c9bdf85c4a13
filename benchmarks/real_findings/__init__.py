"""What is found on a real chat model: the numbers behind `docs/real-model.md`.

    python -m benchmarks.real_findings                       # everything, in under three hours on two cores
    python -m benchmarks.real_findings --only french         # one instruction
    python -m benchmarks.real_findings --page-only           # the page from the numbers

It goes from part to part and may be stopped at any time: what is finished is skipped when it runs again.
Answers and fits are kept in `real-findings/`, numbers in `benchmarks/findings/smollm2/`, with the log.
"""

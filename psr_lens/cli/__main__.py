"""`python -m psr_lens.cli`."""

from psr_lens.cli import main

if __name__ == "__main__":
    main()

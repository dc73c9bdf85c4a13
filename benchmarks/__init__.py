"""Speed against plain loops and peers: `make bench`, or `python -m benchmarks.speed --help`."""

"""What amplified decoding costs, beside what it is usually done with: `python -m benchmarks` (or `make bench`)."""

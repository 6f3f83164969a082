"""Fetch one model: `python -m diffamp.stages.models NAME`, a name in `models:` of params.yaml."""

import sys

from diffamp import params, paths
from diffamp.sources import fetch


def main(name: str) -> None:
    fetch(name, params.load().models[name], paths.model(name))


if __name__ == "__main__":
    main(sys.argv[1])

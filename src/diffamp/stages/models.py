"""Fetch every model of params.yaml: `python -m diffamp.stages.models`."""

from diffamp import params, paths
from diffamp.sources import fetch


def main() -> None:
    for name, source in params.load().models.items():
        fetch(name, source, paths.model(name))


if __name__ == "__main__":
    main()

"""One module per heavy stage of dvc.yaml, each a process of its own."""

import gc
import sys

# a stage's process is about to import its libraries, whose million objects would be walked through again and again: a
# quarter of the time of the start. `diffamp.runtime.setup` turns collection on again (fetching a model does without).
if sys.argv[0] == "-m":
    gc.disable()

#!/bin/bash
# One GPU. The command is the same on a laptop; a second start continues the run where it was.
set -euo pipefail
TEXT=${1:-prepared} # what lucidlm prepare wrote, or the texts themselves
RUN=${2:-runs/large}

if [ -f "$RUN/run.toml" ]; then
    lucidlm train --resume --out "$RUN"
else
    lucidlm train "$TEXT" --out "$RUN" --preset modern-350m --epochs 1 --batch-tokens 262144 --compile
fi

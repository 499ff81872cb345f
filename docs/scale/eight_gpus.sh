#!/bin/bash
# Eight GPUs of one machine. torchrun starts one process for each, and all again if one is lost.
set -euo pipefail
TEXT=${1:-prepared} # what lucidlm prepare wrote
RUN=${2:-runs/large}
LAUNCH=(torchrun --standalone --nproc-per-node 8 --max-restarts 3)
LAYOUT=(--replicas 8) # not stored in the run: a resumed run needs it too

if [ -f "$RUN/run.toml" ]; then
    "${LAUNCH[@]}" -m lucidlm train --resume --out "$RUN" "${LAYOUT[@]}"
else
    "${LAUNCH[@]}" -m lucidlm train "$TEXT" --out "$RUN" --preset modern-1.5b --epochs 1 \
        --batch-tokens 524288 --compile "${LAYOUT[@]}"
fi
"${LAUNCH[@]}" -m lucidlm evaluate "$RUN"

#!/usr/bin/env bash
# The README's two main tables anew, and which of their figures still hold (expected.yaml). What is done is not done again.
#
#   pipelines/reproduce.sh DATA OUTPUT
#
# DATA: folder with the collections squad (make_squad.py) and, if it is to be run too, nq-qed. A row takes 13 to 22 minutes of a core.
set -euo pipefail
data=$1 output=$2 here=$(dirname "$0")
collections=(squad)
methods="soft-prompt lora qpeft-r qpeft-a qpeft-a-soft qpeft-a-lora"
mkdir -p "$output"
METHODS=$methods RATES_qpeft_a=0.003 TRAIN="--dtype bfloat16 --epochs 4 --patience 2" RERANK="--dtype bfloat16" \
  "$here/study.sh" squad "$data/squad" "$output/squad"
if [ -d "$data/nq-qed" ]; then
  collections+=(nq-qed)
  if [ ! -d "$output/unread/corpus" ]; then
    python "$here/split_dev.py" "$data/nq-qed" "$output/split"
    python "$here/split_unread.py" "$output/split" "$output/unread"
    cp -r "$data/nq-qed/corpus" "$output/unread"
  fi
  METHODS=$methods RATES_qpeft_a=0.003 RATES_qpeft_a_soft=0.003 \
    TRAIN="--dtype bfloat16 --epochs 2 --schedule linear" RERANK="--dtype bfloat16" \
    "$here/study.sh" nq-qed "$output/unread" "$output/nq-qed"
fi
python "$here/check_figures.py" "$output" --only "${collections[@]}"

#!/usr/bin/env bash
# A BEIR collection through Pyserini's prebuilt index, in one pipe: BM25, rerank, evaluate. Another collection: BEIR=nfcorpus ...
#
#   pipelines/beir-scifact.sh --model meta-llama/Llama-2-7b-chat-hf        (hard prompt)
#   pipelines/beir-scifact.sh --adapter my-adapter
set -euo pipefail
beir=${BEIR:-scifact}
index=beir-v1.0.0-$beir.flat topics=beir-v1.0.0-$beir-test
search=()
# There, each query is a passage of the collection too.
case $beir in arguana | quora) search=(--remove-query) ;; esac

qpeft bm25 --index "$index" --topics "$topics" "${search[@]}" |
  qpeft rerank --index "$index" --topics "$topics" "$@" |
  qpeft evaluate --qrels "$topics" -m nDCG@10 -m R@100

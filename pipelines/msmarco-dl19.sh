#!/usr/bin/env bash
# MS MARCO passages, TREC Deep Learning 2019: Pyserini's prebuilt index, BM25's top 100 reranked, nDCG@10 and AP.
# Index, topics and qrels are fetched once by Pyserini (about 2.5 GB).
#
#   pipelines/msmarco-dl19.sh OUTPUT --model meta-llama/Llama-2-7b-chat-hf        (hard prompt)
#   pipelines/msmarco-dl19.sh OUTPUT --adapter my-adapter
set -euo pipefail
output=$1
shift
mkdir -p "$output"
bm25=$output/run.msmarco-v1-passage.bm25.dl19.txt reranked=$output/run.msmarco-v1-passage.reranked.dl19.txt

qpeft bm25 --index msmarco-v1-passage --topics dl19-passage --k1 0.82 --b 0.68 --output "$bm25"
qpeft rerank "$bm25" --index msmarco-v1-passage --topics dl19-passage "$@" --output "$reranked" --resume
qpeft evaluate --qrels dl19-passage -m nDCG@10 "$bm25" "$reranked"
qpeft evaluate --qrels dl19-passage -l 2 -m AP -m R@100 "$bm25" "$reranked"  # binary measures of DL19 count from grade 2

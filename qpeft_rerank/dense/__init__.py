"""The dense first stage: texts become vectors, a Faiss index finds the nearest.

`config` says how a text is put to a model, `inputs` does it, `causal` (RepLLaMA, LLaRA) and `bidirectional`
(BERT, sentence-transformers) turn token ids into vectors, `encoder` opens one of them by name, `description`
says which it was. `vectors` keeps the vectors of a corpus as files, `index` builds a Faiss index of them and
`search` searches it. `repllama` trains an encoder; before that, `llara` adapts a language model, on `texts`.
"""

"""The models: the only layer that knows what a tensor is.

`config` says what an adapter is, `inputs` turns (query, passage) into token ids, `selection` and `hints` make
the query-dependent hint vectors, `likelihood` scores, `base` loads the frozen causal language model,
`adapter` keeps the trained part in a folder. `published` is the layout of the published research code, bit
for bit.
"""

"""The models: the only layer that knows what a tensor is.

`config` says what an adapter is, `inputs` turns (query, passage) into token ids, `batch` pads them to one
tensor, `selection` and `hints` make the query-dependent hint vectors, `likelihood` scores with `row_head` as
its output layer, `explain` tells how a score came about; `rankllama` scores with a linear layer.
`scorer` is what the two share, `lora` what either can train in the model, `methods` knows them by name.
`base` loads the frozen causal language model, `adapter` keeps the trained part in a folder, `names` finds
folders of either on the hub. `published` is the layout of the published research code, bit for bit.
"""

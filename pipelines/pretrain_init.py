"""Starting weights that can already copy: a previous-token head and two induction heads in random weights.

Copying from the context is what query likelihood lives on. From purely random weights it appears only after
several million tokens of repeated text; planted, it is there from the first step, and training sharpens it
and fits the rest to it. The circuit is the known one (Olsson et al., "In-context learning and induction
heads", 2022): a head of layer 0 writes into each position which token came before; heads of layer 1 look for
positions whose *previous* token is the current one, and raise the token found there.
"""

from __future__ import annotations

import math

import torch
from transformers import LlamaForCausalLM

# Standard deviation of the embeddings: large beside one optimizer step, so that nothing planted is lost.
SCALE = 0.25


@torch.no_grad()
def plant_copying(model: LlamaForCausalLM, seed: int) -> None:
    """Overwrite embeddings, final norm and parts of the attention of layers 0 and 1 (two heads or more)."""
    config = model.config
    width, head = config.hidden_size, config.hidden_size // config.num_attention_heads
    half = head // 2
    draw = torch.Generator().manual_seed(seed)
    # Radians per position, by rotary pair.
    speeds = config.rope_parameters["rope_theta"] ** -(torch.arange(half) / half)

    # Dimension 0 is the same for all tokens (a bias). The others are split into a place for the token itself
    # and one for the token before it, which embeddings leave empty.
    basis = torch.cat(
        [torch.zeros(1, width - 1), torch.linalg.qr(torch.randn(width - 1, width - 1, generator=draw))[0]]
    )
    before, own = basis[:, :head], basis[:, head:]
    embeddings = model.model.embed_tokens.weight
    coordinates = torch.randn(len(embeddings), own.shape[1], generator=draw)
    embeddings.copy_(SCALE * math.sqrt(width / own.shape[1]) * coordinates @ own.T)
    embeddings[:, 0] = 2 * SCALE
    model.model.norm.weight.fill_(0.03 / SCALE)  # first logits stay small

    # Layer 0, head 0: query and key depend on the bias alone; the fast rotary pairs, turned by one step, peak
    # one back.
    first, fast, strength = model.model.layers[0].self_attn, 8, 4.5
    query, key = torch.zeros(head), torch.zeros(head)
    query[:fast] = strength
    key[:fast] = strength * speeds[:fast].cos()
    key[half : half + fast] = strength * speeds[:fast].sin()
    first.q_proj.weight[:head, 0], first.k_proj.weight[:head, 0] = query, key
    first.v_proj.weight[:head] = own[:, :head].T
    first.o_proj.weight[:, :head] = 1.5 * SCALE * before

    # Layer 1, heads 0 and 1: "the token before that position is my token", over the slow rotary pairs, which
    # hardly turn within a passage; what is found there is written where embeddings live, so that the tied
    # output raises that token.
    second = model.model.layers[1].self_attn
    slow = torch.nonzero(speeds < 0.004).flatten()
    slow = torch.cat([slow, slow + half])
    for number in range(2):
        part = slice(number * head, (number + 1) * head)
        read = torch.arange(len(slow)) + number * (head - len(slow))
        second.q_proj.weight[part] *= 0.1
        second.k_proj.weight[part] *= 0.1
        second.q_proj.weight[slow + number * head] = 2 * own[:, :head].T[read]
        second.k_proj.weight[slow + number * head] = 2 * before.T[read]
        second.v_proj.weight[part] = own[:, part].T
        second.o_proj.weight[:, part] = 3 * SCALE * own[:, part]

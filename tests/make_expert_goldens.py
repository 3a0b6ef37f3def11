"""Writes tests/golden/experts.txt: loss and gradient of a tiny granitemoe by transformers and PyTorch's autograd.

The authority is GraniteMoeForCausalLM; what is added to its loss (balance over experts, with shares over the sequences so far,
router z-loss, z-loss of the head) is written from the papers over the logits it gives. Weights and ids are formulas
that test_model.c repeats. Run with a Python that has torch and transformers. Each line: a name, then numbers: `loss` (mean
over rows), `aux` (balance and router z-loss), then for every tensor, under its GGUF name, every 23rd element of the gradient.
"""
import math
import os

import torch
import transformers

C, L, H, G, D, F, V, E, USED, T, ROWS = 32, 2, 4, 2, 8, 24, 41, 5, 2, 12, 24
BALANCE, ROUTER_Z, HEAD_Z = 0.05, 0.01, 0.001
torch.set_default_dtype(torch.float64)

count = 0


def values(*shape, std, mean=0.0):
    """The next tensor of the table: element i of tensor k is mean + std * (2 frac(43758.5453 sin(12.9898 i + k)) - 1)."""
    global count
    i = torch.arange(math.prod(shape))
    x = 43758.5453 * torch.sin(12.9898 * i + count)
    count += 1
    return (mean + std * (2 * (x - torch.floor(x)) - 1)).to(torch.float32).to(torch.float64).reshape(shape)


def halves(w, heads):
    """Rows 2i + j of a head, as GGUF has them, to rows j D/2 + i, as transformers has them."""
    return w.reshape(heads, D // 2, 2, C).transpose(1, 2).reshape(heads * D, C)


def pairs(w, heads):
    return w.reshape(heads, 2, D // 2, C).transpose(1, 2).reshape(heads * D, C)


config = transformers.GraniteMoeConfig(
    vocab_size=V, hidden_size=C, intermediate_size=F, num_hidden_layers=L, num_attention_heads=H, num_key_value_heads=G,
    num_local_experts=E, num_experts_per_tok=USED, embedding_multiplier=6.0, attention_multiplier=0.125,
    residual_multiplier=0.5, logits_scaling=0.5, tie_word_embeddings=True, rms_norm_eps=1e-5, max_position_embeddings=64,
    rope_theta=100.0, rope_parameters={"rope_type": "default", "rope_theta": 100.0}, attn_implementation="eager",
    experts_implementation="eager")
model = transformers.GraniteMoeForCausalLM(config)
table = []  # GGUF name, parameter, from its gradient to ours


def put(name, parameter, ours, to=lambda w: w, back=lambda g: g, part=None):
    with torch.no_grad():
        (parameter if part is None else parameter[:, part[0]:part[1]]).copy_(to(ours))
    table.append((name, parameter, back, part))


put("token_embd.weight", model.model.embed_tokens.weight, values(V, C, std=0.5))
for n, layer in enumerate(model.model.layers):
    a, m = layer.self_attn, layer.block_sparse_moe
    name = f"blk.{n}."
    put(name + "attn_norm.weight", layer.input_layernorm.weight, values(C, std=0.3, mean=1.0))
    put(name + "attn_q.weight", a.q_proj.weight, values(H * D, C, std=0.5), lambda w: halves(w, H), lambda w: pairs(w, H))
    put(name + "attn_k.weight", a.k_proj.weight, values(G * D, C, std=0.5), lambda w: halves(w, G), lambda w: pairs(w, G))
    put(name + "attn_v.weight", a.v_proj.weight, values(G * D, C, std=0.5))
    put(name + "attn_output.weight", a.o_proj.weight, values(C, H * D, std=0.3))
    put(name + "ffn_norm.weight", layer.post_attention_layernorm.weight, values(C, std=0.3, mean=1.0))
    put(name + "ffn_gate_inp.weight", m.router.weight, values(E, C, std=0.5))
    put(name + "ffn_gate_exps.weight", m.experts.gate_up_proj, values(E, F, C, std=0.5), part=(0, F))
    put(name + "ffn_up_exps.weight", m.experts.gate_up_proj, values(E, F, C, std=0.5), part=(F, 2 * F))
    put(name + "ffn_down_exps.weight", m.experts.down_proj, values(E, C, F, std=0.3))
put("output_norm.weight", model.model.norm.weight, values(C, std=0.3, mean=1.0))

routers = []
for layer in model.model.layers:
    layer.block_sparse_moe.router.register_forward_hook(lambda m, i, out: routers.append(out[0].reshape(-1, E)))
ids = torch.tensor([(7 * i + i * i) % V for i in range(ROWS)]).reshape(-1, T)
targets = torch.tensor([(5 * i + 3) % V for i in range(ROWS)])
logits = model(ids).logits.reshape(-1, V)
loss = torch.nn.functional.cross_entropy(logits, targets)
aux = 0
for z in routers:
    used = torch.zeros_like(z).scatter(1, z.topk(USED).indices, 1.0).reshape(-1, T, E).sum(1).cumsum(0)  # [sequences,E]
    share = used / used.sum(1, keepdim=True)
    aux = aux + BALANCE * E * (share[:, None] * torch.softmax(z, -1).reshape(-1, T, E)).sum(2).mean() + ROUTER_Z * (torch.logsumexp(z, -1) ** 2).mean()
(loss + aux + HEAD_Z * (torch.logsumexp(logits, -1) ** 2).mean()).backward()
path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden", "experts.txt")
with open(path, "w") as f:
    print("loss", f"{loss.item():.9g}", file=f)
    print("aux", f"{aux.item():.9g}", file=f)
    for name, parameter, back, part in table:
        g = parameter.grad if part is None else parameter.grad[:, part[0]:part[1]]
        print(name, *(f"{x:.7g}" for x in back(g).reshape(-1)[::23].tolist()), file=f)

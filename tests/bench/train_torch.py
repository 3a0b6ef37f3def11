"""PyTorch's side of `make bench-train-peers`: the GPT-2 124M shape on random tokens, on the CPU.

    train_torch.py BATCH SEQ STEPS [THREADS]

What a careful user would write: bf16 autocast (oneDNN), fused attention, fused AdamW, torch.compile where a C++ compiler
is found (COMPILE=0 leaves it out), vocabulary padded to 50304, the head tied. Prints a line for every step that ends in
"N tokens/s"; the first ones compile.
"""
import os
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

C, L, H, V, CTX = 768, 12, 12, 50304, 1024


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.up, self.down = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x):
        B, T, _ = x.shape
        q, k, v = (t.view(B, T, H, C // H).transpose(1, 2) for t in self.qkv(self.norm1(x)).split(C, dim=2))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(a.transpose(1, 2).reshape(B, T, C))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(V, C), nn.Embedding(CTX, C)
        self.blocks = nn.ModuleList(Block() for _ in range(L))
        self.norm = nn.LayerNorm(C)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids, targets):
        x = self.words(ids) + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.words.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def main():
    batch, seq, steps = (int(a) for a in sys.argv[1:4])
    torch.set_num_threads(int(sys.argv[4]) if len(sys.argv) > 4 else 2)
    torch.manual_seed(1)
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    step_of = torch.compile(model) if os.environ.get("COMPILE", "1") != "0" else model
    for step in range(steps):
        ids = torch.randint(0, 50257, (batch, seq + 1))
        start = time.time()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = step_of(ids[:, :-1], ids[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        print(f"step {step + 1} loss {loss.item():.4f}: {batch * seq / (time.time() - start):.1f} tokens/s", flush=True)


main()

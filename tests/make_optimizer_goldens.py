"""Writes tests/golden/optimizers.txt: weights after six steps of published optimizers on gradients given by a formula.

Authorities: torch.optim (AdamW, SGD, Adafactor, Muon), and the authors' or best-known packages of the others:
schedulefree, lion-pytorch, torch_optimizer (Lamb). Run with Python that has torch and these; test_optimizer.c reads the file.
Each line: optimizer, tensor, then every 37th weight.
"""
import torch, schedulefree, lion_pytorch, torch_optimizer

to = torch.Tensor.to  # Muon asks for bf16: its products in f32 here, so that they can be compared
torch.Tensor.to = lambda self, *a, **k: to(self, *a, **{**k, "dtype": torch.float32} if k.get("dtype") == torch.bfloat16 else k)
STEPS, LR, DECAY = 6, 0.01, 0.1
SHAPES = {"blk.0.ffn_up.weight": (48, 32, 1), "blk.0.ffn_down.weight": (32, 48, 2), "blk.0.attn_norm.weight": (1, 32, 3)}


def weights(rows, cols, k):
    i = torch.arange(rows * cols, dtype=torch.float64)
    w = torch.cos(0.37 * i + k)
    return w.reshape(rows, cols) if rows > 1 else w


def gradient(rows, cols, k, step):
    i = torch.arange(rows * cols, dtype=torch.float64)
    g = torch.frac(torch.sin(12.9898 * i + 78.233 * step + k) * 43758.5453) * 0.01
    return g.reshape(rows, cols) if rows > 1 else g


def groups(params):  # norms do not decay
    return [{"params": [p for n, p in params.items() if "norm" not in n], "weight_decay": DECAY},
            {"params": [p for n, p in params.items() if "norm" in n], "weight_decay": 0.0}]


def muon(params):
    hidden = [p for p in params.values() if p.ndim == 2]
    rest = [p for p in params.values() if p.ndim == 1]
    return [torch.optim.Muon(hidden, lr=LR, weight_decay=DECAY, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=LR, betas=(0.9, 0.95), weight_decay=0.0)]


def sgd(params):  # PyTorch's SGD adds the decay to the gradient; decoupled here, so it is taken apart
    class Decoupled(torch.optim.SGD):
        def step(self):
            before = {p: p.detach().clone() for p in params.values()}
            super().step()
            with torch.no_grad():
                for n, p in params.items():
                    if "norm" not in n:
                        p.sub_(LR * DECAY * before[p])
    return Decoupled(params.values(), lr=LR, momentum=0.9, nesterov=True)


MAKERS = {
    "adamw": lambda p: torch.optim.AdamW(groups(p), lr=LR, betas=(0.9, 0.95)),
    "muon": muon,
    "lion": lambda p: lion_pytorch.Lion(groups(p), lr=LR, betas=(0.9, 0.99)),
    "adafactor": lambda p: torch.optim.Adafactor(groups(p), lr=LR),
    "sgd": sgd,
    # without decay: this one leaves the bias of the means in, which the ratio takes out again, but not beside a decay
    "lamb": lambda p: torch_optimizer.Lamb(p.values(), lr=LR, betas=(0.9, 0.95), eps=1e-8, clamp_value=1e9, debias=False),
    "schedule-free": lambda p: schedulefree.AdamWScheduleFree(groups(p), lr=LR, betas=(0.9, 0.95), warmup_steps=0),
}

with open("tests/golden/optimizers.txt", "w") as out:
    for name, make in MAKERS.items():
        dtype = torch.float32
        params = {n: torch.nn.Parameter(weights(*s).to(dtype)) for n, s in SHAPES.items()}
        made = make(params)
        made = made if isinstance(made, list) else [made]
        for o in made:
            if hasattr(o, "train"):
                o.train()
        for step in range(1, STEPS + 1):
            for n, s in SHAPES.items():
                params[n].grad = gradient(*s, step).to(dtype)
            for o in made:
                o.step()
        for n, p in params.items():
            values = p.detach().double().flatten()[::37].tolist()
            out.write(f"{name} {n} " + " ".join(f"{v:.9g}" for v in values) + "\n")

"""Makes tests/golden/training.txt: the losses of fifty steps of tiny models in PyTorch, which test_agree.c holds ./train to.

The authorities are transformers (its models, its forward pass, its gradients by autograd), torch.nn.utils.clip_grad_norm_,
torch.optim.AdamW and torch.optim.Muon. What both sides share is the start: weights come from a run of ./train of one step at
a rate of 1e-30, too small to move a bit of one, by `./run --export hf`; texts come from our generator of stories. All that
decides a step is written here a second time from its description: the order of sequences (Philox, learn.h), documents and
their masks, the schedule, which tensors decay, the rates of muP, the objective.

Every run is computed in float32 and in float64; how far these two lie apart is what rounding alone may do. The file:

    run NAME OPTIONS     what ./train is to be given besides the texts
    f64-f32 X            largest difference between the two, over all losses
    step K LOSS          of float64
    valid LOSS           after the last step, nats per token

    python3 tests/make_training_goldens.py [name...]      (packages torch, transformers; after `make` and `make build/release/stories`;
    with names nothing is written)
"""
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile

import torch
import transformers as tf

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "golden", "training.txt")
ROOT = os.path.dirname(HERE)
TRAIN, RUN, STORIES = (os.path.join(ROOT, p) for p in ("train", "run", "build/release/stories"))
STEPS, T, B, SEED, EOS, BASE_WIDTH = 50, 64, 256, 7, 256, 256
TO, FLOAT = torch.Tensor.to, torch.float32
# Stories whose paragraphs are documents: short enough that most sequences hold several. As in test_agree.c.
TEXTS = "%s --bytes 20000 -s 5 --out a; sed 's/^$/<|endoftext|>/' a >corpus.txt; " \
        "%s --bytes 3000 -s 6 --out a; sed 's/^$/<|endoftext|>/' a >held.txt"

SHAPE = "--size 1M --width 64 --layers 2 --heads 4 --kv-heads 2 --ffn 96"
MOE = "--size 1M --width 64 --layers 2 --heads 4 --kv-heads 2 --ffn 32 --experts 6 --experts-used 2"
PLAIN = dict(shape=SHAPE, optimizer="adamw", schedule="wsd", decay=0.4, shape_of_decay="linear", lr=0.004, warmup=2560, beta1=0.9, beta2=0.95,
             eps=1e-8, weight_decay=0.1, clip=1.0, tied=True, z_loss=0.0, balance="none", balance_coef=0.0, router_z=0.0)
# Clips are such that some steps are cut and others not (the script says how many); checked below.
ROWS = {
    "granite": dict(PLAIN, family="granite", schedule="power", lr=0.01, power_a=12.0, weight_decay=0.3, clip=3.0),
    "granite-muon": dict(PLAIN, family="granite", optimizer="muon", shape_of_decay="1-sqrt", clip=3.0),
    "llama": dict(PLAIN, family="llama", schedule="cosine", tied=False),
    "llama-muon": dict(PLAIN, family="llama", optimizer="muon", lr=0.002, weight_decay=0.3),
    "qwen3": dict(PLAIN, family="qwen3", z_loss=0.01, beta2=0.99, eps=1e-6),
    "granitemoe": dict(PLAIN, family="granitemoe", shape=MOE, balance="global", balance_coef=0.1, router_z=0.01, clip=3.0),
    "granitemoe-sequence": dict(PLAIN, family="granitemoe", shape=MOE, balance="sequence", balance_coef=0.1, router_z=0.01, clip=3.0),
}


def options(row):
    """As ./train wants them."""
    o = f"--family {row['family']} {row['shape']} --tokenizer byte --seq {T} --batch-tokens {B} --steps {STEPS} --seed {SEED} --guard 0"
    o += f" --optimizer {row['optimizer']} --schedule {row['schedule']} --lr {row['lr']} --warmup {row['warmup']}"
    o += f" --beta1 {row['beta1']} --beta2 {row['beta2']} --eps {row['eps']} --weight-decay {row['weight_decay']} --clip {row['clip']}"
    o += " --tied" if row["tied"] else " --no-tied"
    if row["schedule"] != "cosine":
        o += f" --decay {row['decay']} --decay-shape {row['shape_of_decay']}"
    if "power_a" in row:
        o += f" --power-a {row['power_a']} --power-c 1"  # the rate in proportion to the batch, as the paper has it
    if row["z_loss"]:
        o += f" --z-loss {row['z_loss']}"
    if "experts" in row["shape"]:
        o += f" --balance {row['balance']} --balance-coef {row['balance_coef']} --router-z {row['router_z']}"
    return o


# ---- the order of the data ------------------------------------------------------------------------------------------

def philox(seed, stream, counter):
    """Philox4x32-10 (Salmon et al. 2011): 64 bits of the second and first word."""
    low = 0xFFFFFFFF
    c = [counter & low, counter >> 32, stream & low, stream >> 32]
    k = [seed & low, seed >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & low, a >> 32 ^ c[3] ^ k[1], a & low]
        k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
    return c[1] << 32 | c[0]


def permute(seed, stream, index, n):
    """A Feistel network of eight rounds, walked until the value is below n."""
    half = 1
    while 1 << 2 * half < n:
        half += 1
    mask, x = (1 << half) - 1, index
    while True:
        left, right = x >> half, x & mask
        for i in range(1, 9):
            left, right = right, left ^ philox(seed, stream ^ i << 56, right) & mask
        x = left << half | right
        if x < n:
            return x


def tokens_of(path):
    """Documents lie between marker lines; each ends in EOS. The line end before a marker belongs to it."""
    out = []
    for d in open(path, "rb").read().split(b"<|endoftext|>\n"):
        d = d.removesuffix(b"\n") if d else d
        out += list(d) + [EOS] if d else []
    return out


def sequence(tokens, s):
    windows = len(tokens) // T
    epoch, index = divmod(s, windows)
    place = philox(SEED, 0x6C6F616400000000, epoch) * len(tokens) >> 64
    at = place + permute(SEED, 0x6C6F616500000000 + epoch, index, windows) * T
    ring = [tokens[(at + i) % len(tokens)] for i in range(T + 1)]
    return ring[:T], ring[1:]


def windows_of(tokens):
    """Every token is predicted once: rows of (before, token), filled up with what is not scored."""
    before = [EOS] + tokens[:-1]
    pad = -len(tokens) % T
    before, after = before + [0] * pad, tokens + [-100] * pad
    return [(before[i:i + T], after[i:i + T]) for i in range(0, len(after), T)]


# ---- the model ------------------------------------------------------------------------------------------------------

def load(folder, dtype):
    m = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager")
    return m.train()


def logits_of(model, ids):
    """[b,T,V]. A row sees the rows of its document before it, and counts positions from its beginning."""
    ids = torch.tensor(ids)
    starts = ids == EOS  # an end mark is the first token of what follows
    starts[:, 0] = True
    document, row = starts.cumsum(1), torch.arange(T)
    sees = (document[:, :, None] == document[:, None, :]) & (row[:, None] >= row[None, :])
    first = torch.where(starts, row, 0).cummax(1).values
    dtype = next(model.parameters()).dtype
    mask = torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)[:, None]
    return model(input_ids=ids, attention_mask=mask, position_ids=row - first, use_cache=False).logits


def balance_of(row, logits, k):
    """Of one layer: E sum f P of each sequence, with the shares of the batch up to its end, or its own."""
    E = logits.shape[-1]
    P = logits.softmax(-1).reshape(-1, T, E)
    used = torch.zeros_like(P).scatter(2, logits.reshape(-1, T, E).topk(k, dim=-1).indices, 1.0)
    counts = used.sum(1).detach() / k
    shares = counts.cumsum(0) / T / torch.arange(1, len(P) + 1)[:, None] if row["balance"] == "global" else counts / T
    return (E * (shares * P.mean(1)).sum(1)).mean()


def objective(model, row, batch):
    """The loss that is told, and what is made smaller."""
    routers = []
    hooks = [m.register_forward_hook(lambda m, x, y: routers.append(y[0]))
             for n, m in model.named_modules() if n.endswith(".router")]
    out = logits_of(model, [b[0] for b in batch])
    for h in hooks:
        h.remove()
    targets = torch.tensor([b[1] for b in batch]).flatten()
    told = torch.nn.functional.cross_entropy(out.flatten(0, 1), targets)
    all_ = told + row["z_loss"] * out.logsumexp(-1).square().mean()
    assert bool(routers) == ("experts" in row["shape"])
    for logits in routers:
        even = balance_of(row, logits, model.config.num_experts_per_tok)
        all_ = all_ + row["balance_coef"] * even + row["router_z"] * logits.logsumexp(-1).square().mean()
    return told, all_


# ---- the steps ------------------------------------------------------------------------------------------------------

def rate(row, n):
    """Of the step from n tokens to n + B (learn.h): what rises is read at its end, what falls at its beginning."""
    total, warm, peak = STEPS * B, row["warmup"], row["lr"]

    def curve(n):
        return min(peak, B / 4096 * row["power_a"] * n ** -0.51) if row["schedule"] == "power" else peak
    if n + B < warm:
        return curve(warm) * (n + B) / warm
    at = max(n, warm)
    if row["schedule"] == "cosine":
        return peak * (1 + math.cos(math.pi * (at - warm) / (total - warm))) / 2
    start = total - row["decay"] * total
    u = max(0, (at - start) / (total - start))
    return curve(min(at, start)) * (1 - math.sqrt(u) if row["shape_of_decay"] == "1-sqrt" else 1 - u)


def optimizers(model, row):
    """Groups carry `scale`, the tensor's own factor of the rate: under muP hidden matrices learn at 1 / (width / 256)."""
    mup, decay = row["family"].startswith("granite"), row["weight_decay"]
    width = model.config.hidden_size / BASE_WIDTH if mup else 1
    named = dict(model.named_parameters())
    table = {n for n in named if "embed_tokens" in n or "lm_head" in n}
    hidden = [p for n, p in named.items() if p.ndim >= 2 and n not in table]
    groups = [dict(params=[named[n] for n in table], weight_decay=decay, scale=1.0),
              dict(params=[p for p in named.values() if p.ndim == 1], weight_decay=0.0, scale=1.0)]
    adam = dict(lr=0.0, betas=(row["beta1"], row["beta2"]), eps=row["eps"], foreach=False)
    if row["optimizer"] == "adamw":
        return [torch.optim.AdamW(groups + [dict(params=hidden, weight_decay=decay, scale=1 / width)], **adam)]
    # Of the base width under muP, .2 sqrt(256) sqrt(max(1, out / in)), with the decay of AdamW's rate; else Moonshot's form.
    size = 0.2 * math.sqrt(BASE_WIDTH)
    group = dict(params=hidden, scale=size, weight_decay=decay / width / size) if mup else dict(params=hidden, scale=1.0, weight_decay=decay)
    return [torch.optim.AdamW(groups, **adam),
            torch.optim.Muon([group], lr=0.0, momentum=0.95, nesterov=True, adjust_lr_fn="original" if mup else "match_rms_adamw")]


def learn(row, folder, dtype, report):
    torch.manual_seed(0)
    model = load(folder, dtype)
    keep_precision(dtype)
    tokens, held, made, losses, norms = tokens_of("corpus.txt"), tokens_of("held.txt"), optimizers(model, row), [], []
    for step in range(STEPS):
        told, all_ = objective(model, row, [sequence(tokens, step * B // T + i) for i in range(B // T)])
        model.zero_grad()
        all_.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), row["clip"])))
        for o in made:
            for g in o.param_groups:
                g["lr"] = rate(row, step * B) * g["scale"]
            o.step()
        losses.append(told.item())
    with torch.no_grad():
        windows, total = windows_of(held), 0.0
        for w in windows:
            logits = logits_of(model, [w[0]])
            total += torch.nn.functional.cross_entropy(logits[0], torch.tensor(w[1]), reduction="sum").item()
    if report:
        several = sum(EOS in sequence(tokens, s)[0][1:] for s in range(STEPS * B // T))
        cut = sum(x > row["clip"] for x in norms)
        print(f"  gradient norms {min(norms):.3g} to {max(norms):.3g}: {cut} of {STEPS} steps clipped, {several} of {STEPS * B // T} sequences hold several documents")
        assert 0 < cut < STEPS and several > 20, "the golden would test nothing of that"
    keep_precision(FLOAT)
    return losses + [total / len(held)]


def keep_precision(dtype):
    """All of a run is in its dtype: Muon asks for bf16 in its products, and models for f32 in norms, softmax and routers."""
    torch.Tensor.to = lambda x, *a, **k: x.clone() if k.get("dtype") == torch.bfloat16 else TO(x, *a, **k)
    torch.Tensor.float = lambda x: TO(x, dtype)
    torch.float32 = dtype


def ours(name, row):
    """Not for the golden: what ./train says now."""
    done = subprocess.run(f"{TRAIN} corpus.txt --valid held.txt {options(row)} --samples 0 -t 1 -o out", shell=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in open("out/log.jsonl")]
    shutil.rmtree("out")
    return [r["loss"] for r in rows if "loss" in r] + [[r["val_loss"] for r in rows if "val_loss" in r][-1]]


def make(name, row, out):
    start = f"{TRAIN} corpus.txt --valid held.txt {options(row)} --steps 1 --lr 1e-30 --warmup -1 --decay 0 --weight-decay 0 --samples 0 -t 1 -o start-{name}"
    for command in (start, f"{RUN} -m start-{name}/model.gguf --export hf --dtype f32 -o {name}"):
        done = subprocess.run(command, shell=True, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    print(f"{name}: {options(row)}")
    f32, f64 = (learn(row, name, t, t == torch.float64) for t in (FLOAT, torch.float64))
    apart = max(abs(a - b) for a, b in zip(f32, f64))
    print(f"  {f64[0]:.6f} ... {f64[-2]:.6f}, valid {f64[-1]:.6f}; f32 lies {apart:.2g} from f64, ./train "
          f"{max(abs(a - b) for a, b in zip(f64, ours(name, row))):.2g}")
    out.write(f"run {name} {options(row)}\nf64-f32 {apart:.2g}\n")
    out.writelines(f"step {i + 1} {x:.9f}\n" for i, x in enumerate(f64[:-1]))
    out.write(f"valid {f64[-1]:.9f}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        subprocess.run(TEXTS % (STORIES, STORIES), shell=True, check=True, stderr=subprocess.DEVNULL)
        with open(os.devnull if sys.argv[1:] else GOLDEN, "w") as golden:  # some by name: only the comparison
            for name in sys.argv[1:] or ROWS:
                make(name, ROWS[name], golden)

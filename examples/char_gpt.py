"""A character-level GPT that writes a checkpoint after every step.

The text is the language reference that every Python carries for `help()`. The model is small and
its steps are short, so saving the model and the optimizer each time takes about as long as
learning does. Saving every hundredth step trains the same model, bit for bit:

    python -m stepscope.examples.char_gpt
    python -m stepscope.examples.char_gpt --checkpoint-every 100
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, RandomSampler

from stepscope.profiler import profile

CONTEXT = 64
WIDTH = 128
HEADS = 4
LAYERS = 4
CHECKPOINT = Path(tempfile.gettempdir(), "stepscope-char-gpt.pt")


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Every stretch of CONTEXT characters, with the same stretch one character later."""

    def __init__(self, text: str) -> None:
        self.alphabet = sorted(set(text))
        codes = {character: code for code, character in enumerate(self.alphabet)}
        self.text = torch.tensor([codes[character] for character in text])

    def __len__(self) -> int:
        return len(self.text) - CONTEXT

    def __getitem__(self, start: int) -> tuple[Tensor, Tensor]:
        stretch = self.text[start : start + CONTEXT + 1]
        return stretch[:-1], stretch[1:]


class Block(nn.Module):
    """One transformer layer: causal self-attention, then a two-layer network per character."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Let each position look at those before it."""
        batch, length, width = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, length, 3, HEADS, width // HEADS)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class CharGPT(nn.Module):
    """Predicts the next character at every position of a window."""

    def __init__(self, alphabet: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(alphabet, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, alphabet)

    def forward(self, codes: Tensor) -> Tensor:
        """Score every character of the alphabet as the next one, at every position."""
        x = self.characters(codes) + self.positions.weight[: codes.shape[1]]
        scores: Tensor = self.head(self.norm(self.blocks(x)))
        return scores


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint-every", type=int, default=1, help="steps between two saves")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="file to save to")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", type=Path, default=Path("char_gpt.profile.json"))
    parser.add_argument("--no-profile", action="store_true", help="run the bare loop")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Train and print one closing line."""
    args = parse(argv)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # the matrices are too small to be worth sharing

    dataset = Windows("\n".join(topics.values()))
    sampler = RandomSampler(dataset, num_samples=args.steps * args.batch_size)
    loader = DataLoader(dataset, batch_size=args.batch_size, sampler=sampler)
    model = CharGPT(len(dataset.alphabet))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    step, ticks = 0, [time.perf_counter()]
    with profile(args.profile, enabled=not args.no_profile) as prof:
        for codes, following in prof.steps(loader):
            loss = F.cross_entropy(model(codes).flatten(0, 1), following.flatten())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            if step % args.checkpoint_every == 0:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save({"step": step, **state}, args.checkpoint)
            if step % max(1, args.steps // 10) == 0:
                print(f"step {step}/{args.steps} loss {loss.item():.6f}")
            ticks.append(time.perf_counter())

    warm_up = min(10, step // 2)
    median = statistics.median(b - a for a, b in pairwise(ticks[warm_up:]))
    print(
        f"steps={step} seconds={ticks[-1] - ticks[0]:.2f} ms_per_step={1000 * median:.2f} "
        f"loss={loss.item():.6f}"
    )


if __name__ == "__main__":
    main()

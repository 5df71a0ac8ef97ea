"""Held-out loops whose samples come late: tiles, recordings, characters, new workers."""

from __future__ import annotations

import http.client
import os
import random
import subprocess
import sys
import wave
from collections.abc import Iterator, Sized
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info

from ground_truth.loop import planted
from ground_truth.parts import (
    CLASSES,
    ENDLESS,
    Pair,
    Vectors,
    chosen,
    folder,
    forever,
    mlp,
    sgd,
    train,
    train_step,
)

TILE_SERVER = """
import http.server, random, sys, threading, time

class Tiles(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        time.sleep(0.04)
        self.send_response(200)
        self.send_header("Content-Length", str(len(tiles)))
        self.end_headers()
        self.wfile.write(tiles)

    def log_message(self, *ignored):
        pass

tiles = random.Random(300).randbytes(int(sys.argv[1]))
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tiles)
print(server.server_port, flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
"""
SIDE, TILES = 32, 12


class TileStream(IterableDataset[Pair]):
    """Batches of satellite tiles and their masks, a share of which is asked of the server."""

    def __init__(self, port: int, share: float) -> None:
        self.port, self.share = port, share
        self.cached = random.Random(301).randbytes(TILES * 4 * SIDE * SIDE)

    def __iter__(self) -> Iterator[Pair]:
        worker = get_worker_info()
        region = worker.id if worker else 0
        server = http.client.HTTPConnection("127.0.0.1", self.port)
        for number in count():
            tiles = self.cached
            if chosen(number, self.share):
                server.request("GET", f"/{region}/{number}")
                tiles = server.getresponse().read()
            bands = torch.frombuffer(bytearray(tiles), dtype=torch.uint8)
            bands = bands.view(TILES, 4, SIDE, SIDE)
            yield bands[:, :3].float() / 255, bands[:, 3] // 128


@planted("data_loading.network", held_out=True)
def tile_server(severity: float) -> Iterator[None]:
    """Segmentation: two workers ask a tile server, over a connection each that they keep."""
    torch.manual_seed(302)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(16, 2, 1),
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, foreach=True)
    command = [sys.executable, "-S", "-c", TILE_SERVER, str(TILES * 4 * SIDE * SIDE)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as server:
        try:
            assert server.stdout
            stream = TileStream(int(server.stdout.readline()), severity)
            for x, y in DataLoader(stream, batch_size=None, num_workers=2):
                optimizer.zero_grad(set_to_none=True)
                loss = nn.functional.cross_entropy(net(x), y.long())
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                yield
        finally:
            server.kill()


FRAMES, RECORDINGS = 160_000, 160


@cache
def recordings() -> list[str]:
    """Ten seconds of sound each, 16 bits at 16 kHz, all of them on the disk."""
    place, chance = folder() / "wavs", np.random.default_rng(303)
    place.mkdir()
    for number in range(RECORDINGS):
        with (place / f"utt{number:04}.wav").open("wb") as file:
            with wave.open(file, "wb") as sound:
                sound.setnchannels(1)
                sound.setsampwidth(2)
                sound.setframerate(16_000)
                sound.writeframes(chance.bytes(2 * FRAMES))
            file.flush()
            os.fsync(file.fileno())
    return sorted(str(path) for path in place.iterdir())


class SpokenWords(Dataset[Pair]):
    """Recordings whose every 64th frame is taken; a share of them lies on the disk only."""

    def __init__(self, share: float) -> None:
        self.paths, self.share = recordings(), share
        self.resident = np.random.default_rng(304).bytes(2 * FRAMES)

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Pair:
        frames = self.resident
        if chosen(index, self.share):
            frames = self.frames(self.paths[index * 37 % RECORDINGS])
        signal = np.frombuffer(frames, np.int16)[::64]
        return torch.from_numpy(signal / np.float32(32768))[None], torch.tensor(index % CLASSES)

    @staticmethod
    def frames(path: str) -> bytes:
        with open(path, "rb") as file:  # noqa: PTH123
            with wave.open(file, "rb") as sound:
                frames = sound.readframes(sound.getnframes())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # larger than memory
        return frames


@planted("data_loading.storage", held_out=True)
def cold_recordings(severity: float) -> Iterator[None]:
    """Keyword spotting: a worker reads recordings of 320 KB that are in no cache."""
    torch.manual_seed(305)
    model = nn.Sequential(
        nn.Conv1d(1, 24, 20, stride=10),
        nn.ReLU(),
        nn.Conv1d(24, 32, 8, stride=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(2),
        nn.Flatten(),
        nn.Linear(64, CLASSES),
    )
    yield from train(DataLoader(SpokenWords(severity), 24, num_workers=1), model)


ALPHABETS, DRAWINGS, WAYS, SHOTS, QUERIES = 60, 20, 5, 5, 10
PIXELS = 28 * 28


@cache
def drawings() -> Path:
    """A folder for each character, in it twenty drawings, one bit a pixel."""
    root, chance = folder() / "drawings", np.random.default_rng(306)
    for character in range(ALPHABETS):
        place = root / f"character{character:03}"
        place.mkdir(parents=True)
        for drawing in range(DRAWINGS):
            (place / f"{drawing:02}.bits").write_bytes(chance.bytes(PIXELS // 8))
    return root


class Episodes(Dataset[Tensor]):
    """Few-shot tasks (ways, shots + queries, pixels); so many drawings of a way are files."""

    def __init__(self, from_files: int) -> None:
        self.root, self.from_files = drawings(), from_files
        self.packed = np.random.default_rng(307).integers(
            0, 256, (ALPHABETS, DRAWINGS, PIXELS // 8), np.uint8
        )

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Tensor:
        chance = random.Random(index)
        ways = []
        for character in chance.sample(range(ALPHABETS), WAYS):
            place, taken = self.root / f"character{character:03}", self.from_files
            order = chance.sample(range(DRAWINGS), SHOTS + QUERIES)
            files = [np.fromfile(place / f"{n:02}.bits", np.uint8) for n in order[:taken]]
            ways.append(np.stack([*files, *self.packed[character, order[taken:]]]))
        return torch.from_numpy(np.unpackbits(np.stack(ways), axis=2))


@planted("data_loading.small_files", held_out=True)
def drawn_characters(severity: float) -> Iterator[None]:
    """Meta-learning: a worker opens a file of 98 bytes for every drawing of six tasks a step."""
    torch.manual_seed(308)
    embed = nn.Sequential(nn.Linear(PIXELS, 96), nn.ReLU(), nn.Linear(96, 32))
    optimizer = torch.optim.Adam(embed.parameters(), lr=1e-3, foreach=True)
    truth = torch.arange(WAYS).repeat_interleave(QUERIES).repeat(6)
    episodes = Episodes(round((SHOTS + QUERIES) * severity))
    for tasks in forever(DataLoader(episodes, 6, num_workers=1)):
        points = embed(tasks.float())  # (tasks, ways, drawings, 32)
        prototypes = points[:, :, :SHOTS].mean(2)
        far = torch.cdist(points[:, :, SHOTS:].flatten(1, 2), prototypes)
        loss = nn.functional.cross_entropy(-far.flatten(0, 1), truth)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield


class HardClasses(Sampler[int], Sized):
    """An epoch of twelve batches, in which classes of high loss come more often."""

    def __init__(self, labels: Tensor) -> None:
        self.labels, self.losses = labels, torch.ones(CLASSES)

    def __len__(self) -> int:
        return 12 * 64

    def __iter__(self) -> Iterator[int]:
        yield from torch.multinomial(self.losses[self.labels], len(self), True).tolist()

    def learn(self, y: Tensor, losses: Tensor) -> None:
        self.losses.mul_(0.9).index_add_(0, y, losses, alpha=0.1)


@planted("data_loading.worker_startup", held_out=True, period=12)
def loader_per_epoch(severity: float) -> Iterator[None]:
    """Writes `DataLoader(...)` in the loop over epochs of twelve steps, with eight workers."""
    dataset = Vectors()
    sampler = HardClasses(dataset.y)
    model = mlp()
    optimizer = sgd(model)
    kept = DataLoader(dataset, 64, sampler=sampler, num_workers=8, persistent_workers=True)
    again = forever(kept)
    for epoch in count():
        if chosen(epoch, severity):
            batches = iter(DataLoader(dataset, 64, sampler=sampler, num_workers=8))
        else:
            batches = again  # type: ignore[assignment]
        for _ in range(12):
            batch = next(batches)
            sampler.learn(batch[1], train_step(model, optimizer, batch))
            yield
        del batches

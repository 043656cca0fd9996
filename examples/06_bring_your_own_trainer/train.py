"""Train a model of one's own on a baked curriculum: torch and streaming, no ncamix.

    baked/0-automata, baked/1-code  --StreamingDataset, in stored order-->  batch t
    batch t, its loss mask, the rate of batch t in baked/plan.json          -->  a step
    entering a stage: what plan.json says to draw anew is drawn anew

Run `ncamix compile ... --bake` first, see README.md. Losses are means over the targets that are
trained, in nats per token.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from streaming import StreamingDataset
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

WIDTH, LAYERS, HEADS = 64, 2, 4


class OwnModel(nn.Module):
    """A small causal transformer: ids [N, L] -> logits [N, L, rows]."""

    def __init__(self, rows: int, length: int) -> None:
        super().__init__()
        self.embedding, self.place = nn.Embedding(rows, WIDTH), nn.Embedding(length, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(WIDTH), False)
        self.head = nn.Linear(WIDTH, rows, bias=False)
        self.register_buffer("ahead", torch.ones(length, length, dtype=torch.bool).triu(1))
        nn.init.normal_(self.place.weight, std=0.02)
        self.draw_embeddings()

    def draw_embeddings(self) -> None:
        for part in (self.embedding, self.head):
            nn.init.normal_(part.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embedding(ids) + self.place.weight[: ids.shape[1]]
        return self.head(self.layers(hidden, mask=self.ahead))


def train(baked: Path) -> list[dict[str, float | str]]:
    """Train through all stages; a row a batch."""
    plan = json.loads((baked / "plan.json").read_text())
    torch.manual_seed(plan["seeds"]["init"])
    model = OwnModel(plan["vocabulary"]["rows"], plan["stages"][0]["sequence_length"])
    rows: list[dict[str, float | str]] = []
    for index, stage in enumerate(plan["stages"]):
        if "embeddings" in ((stage["enter"] or {}).get("reinitialize") or []):
            model.draw_embeddings()
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-4)
        curve, size = stage["learning_rate_curve"], stage["batch_size"]
        folder = str(baked / f"{index}-{stage['name']}")
        dataset = StreamingDataset(
            local=folder, num_canonical_nodes=1, shuffle=False, batch_size=size
        )
        for t, batch in enumerate(DataLoader(dataset, batch_size=size, collate_fn=list)):
            ids = torch.from_numpy(np.stack([row["tokens"] for row in batch]).astype(np.int64))
            masks = np.stack([row.get("loss_mask", np.ones(ids.shape[1])) for row in batch])
            trained = torch.from_numpy(masks[:, 1:]).bool()
            rate = np.interp((t + 0.5) / stage["num_batches"], curve["progress"], curve["rate"])
            for group in optimizer.param_groups:
                group["lr"] = float(rate)
            logits = model(ids[:, :-1])
            loss = F.cross_entropy(logits[trained], ids[:, 1:][trained])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            told = {"stage": stage["name"], "batch": t, "targets": int(trained.sum())}
            rows.append({**told, "rate": float(rate), "loss": loss.item()})
    return rows


if __name__ == "__main__":
    baked, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.write_text("".join(json.dumps(row) + "\n" for row in train(baked)))

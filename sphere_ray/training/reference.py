"""The reference table: token ids of every pair and their log-probs under the frozen reference.

The reference phase writes it, one part per worker; training reads it and needs no second model.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset
import pyarrow.parquet as pq
import torch

from sphere_ray.errors import SphereError, TooFewPairsError
from sphere_ray.records import PreferencePair
from sphere_ray.schema import from_table
from sphere_ray.training.batches import Indices, Tensors, collate
from sphere_ray.training.deepspeed import (
    build_config,
    partitioned_loading,
    shard_for_inference,
)
from sphere_ray.training.encoding import EncodedPair, PairEncoder, encode_pairs
from sphere_ray.training.messages import ReferenceDone, ReferenceProgress, ReferenceRequest
from sphere_ray.training.policy import check_prefix_sharing, completion_logps, load_model
from sphere_ray.training.workers import Host, Worker, guarded

WHOLE = "reference.json"
"""Beside the parts once all of them are written: a `ReferenceDone`."""

_IDS = pa.list_(pa.int32())
_LOGPS = pa.list_(pa.float32())
SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("prompt_ids", _IDS),
        ("chosen_ids", _IDS),
        ("rejected_ids", _IDS),
        ("chosen_logps", _LOGPS),
        ("rejected_logps", _LOGPS),
    ]
)

_FILLER = EncodedPair(pair_id="", prompt_ids=(0,), chosen_ids=(0,), rejected_ids=(0,))

Logps = tuple[Sequence[float], Sequence[float]]


class ReferenceTable:
    """All pairs in the order of their ids, whichever worker wrote them."""

    def __init__(self, path: str) -> None:
        """Read every part under `path`."""
        # The driver writes its manifest beside them at this moment.
        parts = sorted(str(part) for part in Path(path).glob("part-*.parquet"))
        table = pa.dataset.dataset(parts, format="parquet").to_table(columns=SCHEMA.names)
        self._table = table.sort_by("pair_id").combine_chunks()

    def __len__(self) -> int:
        """Number of pairs."""
        return int(self._table.num_rows)

    def tokens(self) -> Indices:
        """Tokens of both rows of each pair (`EncodedPair.tokens`)."""
        prompt, chosen, rejected = (
            pa.compute.list_value_length(self._table[name]).to_numpy().astype(np.int64)
            for name in ("prompt_ids", "chosen_ids", "rejected_ids")
        )
        tokens: Indices = 2 * prompt + chosen + rejected
        return tokens

    def pair(self, index: int) -> EncodedPair:
        """Token ids of one pair."""
        return EncodedPair(
            pair_id=self._table["pair_id"][index].as_py(),
            prompt_ids=self._values("prompt_ids", index),
            chosen_ids=self._values("chosen_ids", index),
            rejected_ids=self._values("rejected_ids", index),
        )

    def logps(self, index: int) -> Logps:
        """Reference log-probs of the chosen and the rejected tokens of one pair."""
        return self._values("chosen_logps", index), self._values("rejected_logps", index)

    def _values(self, column: str, index: int) -> Any:
        return self._table[column][index].values.to_numpy()


def write_part(path: Path, pairs: Sequence[EncodedPair], logps: Sequence[Logps]) -> None:
    """Write one worker's part; it appears by rename."""
    columns = [
        [pair.pair_id for pair in pairs],
        [pair.prompt_ids for pair in pairs],
        [pair.chosen_ids for pair in pairs],
        [pair.rejected_ids for pair in pairs],
        [chosen for chosen, _ in logps],
        [rejected for _, rejected in logps],
    ]
    table = pa.Table.from_arrays(
        [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial)
    partial.replace(path)


def run_worker(request: ReferenceRequest, host: Host) -> ReferenceDone | SphereError:
    """Compute this worker's part; a deliberate error is returned, so that it is not retried.

    The first worker reports `ReferenceProgress`, and `ReferenceDone` when all parts are written;
    workers that are started anew find that noted, and repeat nothing.
    """
    return guarded(request, host, _compute)


def _compute(request: ReferenceRequest, worker: Worker, host: Host) -> ReferenceDone:
    whole = Path(request.output_dir) / WHOLE
    if all(worker.gather(whole.is_file())):
        done = ReferenceDone(**json.loads(whole.read_text(encoding="utf-8")))
        if worker.rank == 0:
            host.report(done)
        return done
    pairs, dropped = _encode_share(request, worker)
    counts = worker.gather((len(pairs), dropped, sum(pair.tokens for pair in pairs)))
    usable, discarded = (sum(each[0] for each in counts), Counter[str]())
    for _, share, _ in counts:
        discarded.update(share)
    if usable < request.settings.min_pairs:
        raise TooFewPairsError(
            f"only {usable} pairs can be trained on (training.min_pairs: "
            f"{request.settings.min_pairs}; dropped: {dict(discarded)}); roll out more problems"
        )
    # Under ZeRO-3 a forward is collective, so every worker makes as many as the busiest.
    micro = request.settings.micro_batch_size
    rows = micro * -(-max(number for number, _, _ in counts) // micro)
    ordered = sorted(pairs, key=lambda pair: pair.tokens)
    work = [_FILLER] * (rows - len(ordered)) + ordered
    logps: list[Logps] = []
    model = _load(request, worker)
    shared = request.settings.shares_prefixes
    worker.agree(lambda: check_prefix_sharing(model, work[-1], worker.device, shared=shared))
    began = time.monotonic()
    for start in range(0, rows, micro):
        tensors = collate(work[start : start + micro], shared=shared).to(worker.device)
        logps.extend(_pair_logps(model, work[start : start + micro], tensors))
        if worker.rank == 0:
            host.report(ReferenceProgress(done=min(len(logps) * worker.world, usable)))
    part = Path(request.output_dir) / f"part-{worker.rank:05d}.parquet"
    write_part(part, ordered, logps[rows - len(ordered) :])
    seconds = worker.gather(time.monotonic() - began)
    done = ReferenceDone(
        pairs=usable,
        dropped=dict(discarded),
        tokens=sum(tokens for _, _, tokens in counts),
        seconds=max(seconds),
    )
    if worker.rank == 0:
        partial = whole.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(done)), encoding="utf-8")
        partial.replace(whole)
        host.report(done)
    return done


def _encode_share(
    request: ReferenceRequest, worker: Worker
) -> tuple[list[EncodedPair], Counter[str]]:
    # A phase's directory also holds its manifest.
    table = pa.dataset.dataset(
        request.pairs_path, format="parquet", exclude_invalid_files=True
    ).to_table()
    share = table.take(pa.array(range(worker.rank, table.num_rows, worker.world), pa.int64()))
    encoder = PairEncoder(request.model_dir)
    return encode_pairs(from_table(share, PreferencePair), encoder, request.settings.max_length)


def _load(request: ReferenceRequest, worker: Worker) -> Callable[..., Any]:
    config = build_config(request.settings, request.placement)
    with partitioned_loading(config):
        model = load_model(request.model_dir, request.settings)
    if config["zero_optimization"]["stage"] == 3:
        return shard_for_inference(model, config)
    module: torch.nn.Module = model
    return module.to(worker.device).eval()


@torch.no_grad()
def _pair_logps(
    model: Callable[..., Any], pairs: Sequence[EncodedPair], tensors: Tensors
) -> list[Logps]:
    rows = completion_logps(model, tensors).cpu().numpy()
    return [
        (chosen[: len(pair.chosen_ids)], rejected[: len(pair.rejected_ids)])
        for pair, chosen, rejected in zip(
            pairs, rows[: len(pairs)], rows[len(pairs) :], strict=True
        )
    ]

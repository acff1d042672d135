"""Writing the reference table: every worker encodes and scores its own pairs, in rounds."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sphere_ray.config.training import Attention
from sphere_ray.method.gates import IMPLAUSIBLE, is_implausible
from sphere_ray.records import PreferencePair
from sphere_ray.schema import from_table
from sphere_ray.shards import Shards
from sphere_ray.training.deepspeed import load_for_inference
from sphere_ray.training.encoding import PairEncoder, encode_pairs
from sphere_ray.training.messages import ReferenceDone, ReferenceProgress, ReferenceRequest
from sphere_ray.training.policy import load_model
from sphere_ray.training.reference_table import Logps, new_part, part_path
from sphere_ray.training.workers import Worker
from sphere_ray.trees.pairs import EncodedPair, collate
from sphere_ray.trees.scoring import TokenScorer, check_prefix_sharing, completion_logps

WHOLE = "reference.json"
"""Lies beside the parts once all of them are written: a `ReferenceDone`."""

CHUNK = 1024
"""Pairs that a worker holds at a time; enough to sort them into forwards of similar lengths."""

_FILLER = EncodedPair(pair_id="", prompt_ids=(0,), chosen_ids=(0,), rejected_ids=(0,))

Score = Callable[[Sequence[EncodedPair]], Sequence[Logps]]
"""The log-probs of some pairs in one forward."""


def compute_reference(request: ReferenceRequest, worker: Worker) -> ReferenceDone:
    """Load the reference model and write the table, unless it is complete.

    The first worker reports `ReferenceProgress`.

    Raises:
        ModelError: the model cannot be loaded or trained.
    """
    whole = Path(request.output_dir) / WHOLE
    if all(worker.gather(whole.is_file())):
        return ReferenceDone(**json.loads(whole.read_text(encoding="utf-8")))
    device, attention = worker.host.device, request.settings.attention
    scorer = load_for_inference(
        lambda: TokenScorer(load_model(request.model_dir, request.settings)), request, device
    )
    score = partial(_pair_logps, scorer, device=device, attention=attention)
    check = partial(check_prefix_sharing, scorer, device=device, attention=attention)
    done = write_table(request, worker, score, check)
    if worker.rank == 0:
        new = whole.with_suffix(".partial")
        new.write_text(json.dumps(asdict(done)), encoding="utf-8")
        new.replace(whole)
    worker.gather(None)  # no worker may look for the table before it is there
    return done


def write_table(
    request: ReferenceRequest,
    worker: Worker,
    score: Score,
    check: Callable[[EncodedPair], None],
) -> ReferenceDone:
    """Write this worker's part; a round encodes, scores and appends at most `CHUNK` pairs.

    `check` is called once, on each worker with a pair of its own. Here the log-probs of all pairs
    are known, whoever wrote their sides, so that implausible ones are dropped. A table may have few
    pairs, or none: whether they are enough to train on is for the caller to say.
    """
    if worker.rank == 0:
        for stale in Path(request.output_dir).glob("part-*"):
            stale.unlink()
    worker.gather(None)
    began, micro = time.monotonic(), request.settings.micro_batch_size
    dropped, scored, kept, tokens, checked = Counter[str](), 0, 0, 0, False
    with new_part(part_path(request.output_dir, worker.rank)) as append:
        for pairs, lost in _rounds(request, worker):
            counts = worker.gather(len(pairs))
            # Under ZeRO-3 a forward is collective, so every worker makes as many as the busiest.
            rows = micro * -(-max(counts) // micro)
            work = [_FILLER] * (rows - len(pairs)) + pairs
            if work and not checked:
                worker.agree(partial(check, work[-1]))
                checked = True
            logps: list[Logps] = []
            for start in range(0, rows, micro):
                logps.extend(score(work[start : start + micro]))
                done = min(len(logps) * worker.world, sum(counts))
                worker.report(ReferenceProgress(done=scored + done))
            known = zip(pairs, logps[rows - len(pairs) :], strict=True)
            plausible = [each for each in known if _is_plausible(each[1], request)]
            append([pair for pair, _ in plausible], [values for _, values in plausible])
            scored += sum(counts)
            kept += len(plausible)
            tokens += sum(pair.tokens for pair in pairs)
            dropped += lost
            dropped += Counter({IMPLAUSIBLE: len(pairs) - len(plausible)})
    shares = worker.gather((dropped, kept, tokens, time.monotonic() - began))
    total = sum((lost for lost, *_ in shares), Counter[str]())
    return ReferenceDone(
        pairs=sum(kept for _, kept, _, _ in shares),
        dropped=dict(total),
        tokens=sum(tokens for _, _, tokens, _ in shares),
        seconds=max(seconds for *_, seconds in shares),
    )


def _is_plausible(logps: Logps, request: ReferenceRequest) -> bool:
    chosen, rejected = (sum(side) / len(side) for side in logps)
    return not is_implausible(chosen, rejected, request.max_logprob_gap)


def _rounds(
    request: ReferenceRequest, worker: Worker
) -> Iterator[tuple[list[EncodedPair], Counter[str]]]:
    """Usable pairs of this worker by length, and what was dropped; as many rounds for all."""
    shards = Shards(*request.pairs_paths)
    rows = [shards.of_rank(rank, worker.world) for rank in range(worker.world)]
    chunks = shards.read(rows[worker.rank], chunk=CHUNK)
    encoder = PairEncoder(request.model_dir)
    for _ in range(-(-max(map(len, rows)) // CHUNK)):
        table = next(chunks, None)
        pairs = from_table(table, PreferencePair) if table is not None else []
        kept, dropped = encode_pairs(pairs, encoder, request.settings.max_length)
        yield sorted(kept, key=lambda pair: pair.tokens), dropped


@torch.no_grad()
def _pair_logps(
    scorer: Callable[..., Any],
    pairs: Sequence[EncodedPair],
    *,
    device: torch.device,
    attention: Attention,
) -> list[Logps]:
    rows = completion_logps(scorer, collate(pairs, device, attention)).cpu().numpy()
    return [
        (chosen[: len(pair.chosen_ids)], rejected[: len(pair.rejected_ids)])
        for pair, chosen, rejected in zip(
            pairs, rows[: len(pairs)], rows[len(pairs) :], strict=True
        )
    ]

"""The rewards of all steps of a chain in one pass without the cache: what stepwise scores equal."""

from sphere_ray.engines.process_reward import ProcessRewardScorer


async def score_chain(
    engine: ProcessRewardScorer, question: str, steps: tuple[str, ...]
) -> tuple[float, ...]:
    ids = engine.ids(question, list(steps))
    rows = await engine._rows(ids, cached_prefix=False)
    assert len(rows) == len(ids)
    tags = [place for place, token in enumerate(ids) if token == engine.format().tag_id]
    assert len(tags) == len(steps)
    return tuple(float(rows[place][1]) for place in tags)

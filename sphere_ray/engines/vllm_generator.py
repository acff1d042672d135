"""Proposes steps with vLLM: token ids in and out, n samples, stops at a boundary."""

from functools import lru_cache, partial
from typing import Any

from vllm import AsyncEngineArgs, SamplingParams, TokensPrompt
from vllm.sampling_params import RequestOutputKind

from sphere_ray.compat import vllm as compat
from sphere_ray.config.engines import EngineSpec
from sphere_ray.engines.engine import Request
from sphere_ray.engines.tokens import end_ids, load_tokenizer, prompt_ids, text_of
from sphere_ray.engines.vllm_engine import VllmEngine, engine_args
from sphere_ray.errors import EngineError, RequestError
from sphere_ray.method.ports import GenerateRequest
from sphere_ray.records import Candidate, StopReason

PROMPT_CACHE = 4096
SEED_MASK = (1 << 62) - 1
"""vLLM adds the sample's index to the seed; the sum must stay a signed 64-bit number."""


def generator_args(spec: EngineSpec) -> AsyncEngineArgs:
    """Arguments of a generating vLLM engine."""
    pool, on_cpu = spec.pool, spec.pool.gpus == 0
    shares = on_cpu if pool.share_prompts is None else pool.share_prompts
    scheduler = compat.sharing_scheduler(on_cpu=on_cpu) if shares else None
    return engine_args(spec, runner="generate", scheduler_cls=scheduler)


def sampling_params(
    request: GenerateRequest, *, max_tokens: int, deterministic: bool, ends: tuple[int, ...] = ()
) -> SamplingParams:
    """vLLM's sampling parameters of a request; the seed is sent in deterministic pools only.

    `ends` are ids that end an answer; vLLM knows only those of the model's configuration.
    """
    return SamplingParams(
        n=request.n,
        temperature=request.temperature,
        top_p=request.top_p,
        max_tokens=max_tokens,
        stop=list(request.stop) or None,
        stop_token_ids=list(ends),
        include_stop_str_in_output=True,
        detokenize=bool(request.stop),  # text is made here, of ids; vLLM needs its own for stops
        seed=request.seed & SEED_MASK if deterministic else None,
        logprobs=0,  # that of the sampled token alone
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


class VllmGenerator(VllmEngine):
    """The port `Generator`, and an `Engine`."""

    def __init__(self, spec: EngineSpec) -> None:
        """Remember what to start."""
        super().__init__(spec, generator_args(spec))
        self._tokenizer: Any = None
        self._ends: tuple[int, ...] = ()

    async def start(self) -> None:
        """See `Engine.start`."""
        self._tokenizer = load_tokenizer(self.spec.path, self.spec.model.revision)
        self._ends = end_ids(self._tokenizer, self.spec.path)
        self._prompt_ids = lru_cache(PROMPT_CACHE)(partial(prompt_ids, self._tokenizer))
        await super().start()

    async def handle(self, request: Request) -> tuple[Candidate, ...]:
        """See `Engine.handle`."""
        if not isinstance(request, GenerateRequest):
            raise EngineError(f"a generator was sent a {type(request).__name__}")
        return await self.generate(request)

    async def generate(self, request: GenerateRequest) -> tuple[Candidate, ...]:
        """See `Generator.generate`; `max_tokens` shrinks to the room the prompt leaves."""
        llm = self.running()
        prompt = [*self._prompt_ids(request.messages), *request.prefix_ids]
        if max(request.prefix_ids, default=0) >= llm.model_config.get_vocab_size():
            # Ids of another model's tokenizer are refused here, before they reach a worker.
            raise RequestError("a prefix has token ids outside the model's vocabulary")
        room = self.spec.model.max_model_len - len(prompt)
        if room < 1:
            raise RequestError(
                f"a prompt of {len(prompt)} tokens leaves no room within max_model_len "
                f"({self.spec.model.max_model_len})"
            )
        params = sampling_params(
            request,
            max_tokens=min(request.max_tokens, room),
            deterministic=self.spec.pool.deterministic,
            ends=self._ends,
        )
        output = await self.last_output(
            llm.generate(
                TokensPrompt(prompt_token_ids=prompt),
                params,
                self.next_id(),
                priority=request.priority,
            )
        )
        samples = sorted(output.outputs, key=lambda sample: sample.index)
        if len(samples) != request.n:
            raise EngineError(f"{len(samples)} samples came back instead of {request.n}")
        return tuple(self._candidate(sample) for sample in samples)

    def _candidate(self, sample: Any) -> Candidate:
        token_ids = tuple(sample.token_ids)
        return Candidate(
            # vLLM's own text is cut behind the stop string, which may lie inside the last token.
            text=text_of(self._tokenizer, token_ids),
            token_ids=token_ids,
            logprob=sample.cumulative_logprob / max(len(token_ids), 1),
            stop_reason=_stop_reason(sample),
        )


def _stop_reason(sample: Any) -> StopReason:
    if sample.finish_reason == "length":
        return StopReason.LENGTH
    if sample.finish_reason != "stop":
        raise RequestError(f"vLLM ended a sample with {sample.finish_reason!r}")
    # A stop string is named; an end-of-sequence token is None or its id.
    return StopReason.BOUNDARY if isinstance(sample.stop_reason, str) else StopReason.END

"""vLLM's scheduler, with the end of a prompt computed once for all samples of it.

vLLM's prefix cache shares whole blocks. So each of n samples computes the tokens of its prompt that
follow its last full block: half a block on average, and with short chains a third of all tokens.
Here one sample computes them. The others start one step later on a copy of its last block, which is
vLLM's own copy on write (vLLM uses it where its hashes are finer than its blocks).

Meanwhile other requests may take the free slots, even at lower priority. Exception: when fewer than
half the slots are busy, only as many prompts start as their samples will fill; any more would delay
those samples.
"""

from typing import Any, TypeAlias

from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.request import Request, RequestStatus

Prompt: TypeAlias = tuple[bytes, tuple[int, ...]]
"""The hash of all full blocks of a prompt, and the tokens after them."""


class PromptSharingScheduler(Scheduler):
    """For engines that schedule a step when the last one is done, as on CPUs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See vLLM's."""
        super().__init__(*args, **kwargs)
        groups = self.kv_cache_config.kv_cache_groups
        self._shares = (
            self.connector is None
            and len(groups) == 1
            and type(groups[0].kv_cache_spec) is FullAttentionSpec
        )
        # Requests whose blocks hold a prompt, or will hold it after this step.
        self._holders: dict[Prompt, Request] = {}
        # About the step that is being scheduled: prompts that it begins, whether fewer than half
        # the slots were busy before it, and samples passed over because of a missing prompt.
        self._begun: set[Prompt] = set()
        self._few = True
        self._held_back = 0

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """See vLLM's."""
        self._few = len(self.running) < self.max_num_running_reqs // 2
        self._held_back = 0
        self._begun.clear()
        return super().schedule(*args, **kwargs)

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        """Whether a waiting request may start: not while another request computes its prompt."""
        if not super()._handle_blocked_waiting_request(request):
            return False
        prompt = self._prompt_of(request)
        if prompt is None:
            return True
        holder = self._holder_of(prompt)
        if prompt in self._begun or (
            holder is not None and holder.num_computed_tokens < request.num_tokens - 1
        ):
            self._held_back += 1
            return False
        filled = len(self.running) + self._held_back >= self.max_num_running_reqs
        return holder is not None or not (self._few and filled)

    def _get_local_prefix_cache_hit(self, request: Request) -> tuple[KVCacheBlocks, int, int, bool]:
        """The blocks on which a request starts, and how many of its tokens they hold."""
        prompt = self._prompt_of(request)
        holder = None if prompt is None else self._holder_of(prompt)
        if holder is None:
            if prompt is not None:
                self._begun.add(prompt)
            return super()._get_local_prefix_cache_hit(request)
        # Each computes the last token itself: its first sample is drawn from the logits there.
        known = request.num_tokens - 1
        (held,) = self.kv_cache_manager.get_blocks(holder.request_id).blocks
        blocks = list(held[: known // self.block_size + 1])
        return self.kv_cache_manager.create_kv_cache_blocks((blocks,)), known, 0, False

    def _update_after_schedule(self, scheduler_output: SchedulerOutput) -> None:
        """Remember the holder of each prompt: the last to start, for it will stay longest."""
        super()._update_after_schedule(scheduler_output)
        self._holders = {prompt: held for prompt, held in self._holders.items() if _holds(held)}
        started = [new.req_id for new in scheduler_output.scheduled_new_reqs]
        for request_id in [*started, *scheduler_output.scheduled_cached_reqs.resumed_req_ids]:
            request = self.requests[request_id]
            if (prompt := self._prompt_of(request)) is not None:
                self._holders[prompt] = request

    def _holder_of(self, prompt: Prompt) -> Request | None:
        holder = self._holders.get(prompt)
        return holder if holder is not None and _holds(holder) else None

    def _prompt_of(self, request: Request) -> Prompt | None:
        """The prompt of a request without output, if it has an end that can be shared."""
        ids = request.prompt_token_ids
        if (
            not self._shares
            or ids is None
            or request.num_tokens != len(ids)
            or request.max_tokens == 1  # its blocks are gone before another could start on them
            or (len(ids) - 1) % self.block_size == 0
            or not self.kv_cache_manager.prefix_cache_lookup_enabled(request)
            # These enter the hashes of full blocks, but not the tokens after them.
            or request.has_encoder_inputs
            or request.prompt_embeds is not None
            or request.lora_request is not None
            or request.cache_salt is not None
        ):
            return None
        hashes = request.block_hashes
        return hashes[-1] if hashes else b"", tuple(ids[len(hashes) * self.block_size :])


class PromptSharingAsyncScheduler(PromptSharingScheduler, AsyncScheduler):
    """For engines that schedule a step while the one before runs."""


def _holds(request: Request) -> bool:
    """Whether a request has blocks: one that ended or was preempted has none."""
    return request.status is RequestStatus.RUNNING

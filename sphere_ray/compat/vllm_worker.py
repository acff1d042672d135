"""An addition to vLLM's worker: it loads the weights of another directory in place."""

from typing import Any

from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)


class WeightExchange:
    """Mixed into vLLM's worker (`worker_extension_cls`), and called by name through an RPC."""

    reload_weights: Any
    model_runner: Any

    def exchange_weights(self, path: str) -> None:
        """Load the weights in `path` into the running model.

        vLLM 0.32 does not touch a tied output layer, because no weights of its own arrive. On CPUs
        that layer then keeps a packed copy of the old weights.
        """
        self.reload_weights(weights_path=path)
        modules = list(self.model_runner.get_model().modules())
        heads = [module for module in modules if isinstance(module, ParallelLMHead)]
        inputs = [
            module
            for module in modules
            if isinstance(module, VocabParallelEmbedding) and module not in heads
        ]
        if heads and self.model_runner.model_config.hf_config.tie_word_embeddings:
            (head,), (embedding,) = heads, inputs
            head.tie_weights(embedding)
            head.quant_method.process_weights_after_loading(head)

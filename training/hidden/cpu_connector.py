"""vLLM's hidden-states connector for a CPU engine: it makes plain copies where the original uses CUDA.

Loaded by the engine itself through `kv_connector_module_path`. To be removed when vLLM's own connector
runs without CUDA streams, events and pinned memory.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1 import example_hidden_states_connector as theirs


class _Copied:
    """Takes the part of a CUDA event: a plain copy is complete when it returns."""

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass


class CpuHiddenStatesConnector(theirs.ExampleHiddenStatesConnector):  # type: ignore[misc]
    """Writes the hidden states of each finished request to a file, from a CPU engine."""

    def _submit_async_write(self, pending: Any) -> None:
        if not self._is_tp_rank_zero:
            return
        blocks = torch.tensor(pending.block_ids, dtype=torch.long)
        offsets = torch.arange(self._block_size, dtype=torch.long)
        slots = (blocks[:, None] * self._block_size + offsets).flatten()
        copied = theirs.extract_from_kv_cache(self._kv_cache, slots, len(pending.token_ids)).clone()
        tensors = {"hidden_states": copied, "token_ids": pending.token_ids.clone()}
        done = _Copied()
        self._req_copy_events[pending.req_id] = done
        future = self._executor.submit(
            self._write_tensors, tensors, done, pending.filename, self._lock_fds.pop(pending.req_id, None)
        )
        self._req_futures[pending.req_id] = future
        future.add_done_callback(lambda over: self._on_write_done(pending.req_id, over))

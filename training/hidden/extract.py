"""Extracts the target's hidden states from a vLLM server into files, ahead of the trainer and in its order.

speculators' trainer asks for a sample when one of its loader workers needs it. So each worker has one
request in flight, and polls a lock every 0.1 s. Here many requests are in flight, the server writes each file
under the name that the trainer looks for, and a waiting thread sleeps on the lock itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
from safetensors import SafetensorError, safe_open

from harness.config.cells import ServerSpec
from harness.config.engine_arguments import replaced
from harness.engine.server import Server
from harness.text.redaction import without_keys
from training.errors import BadRecipe
from training.recipe import Recipe
from training.trainer import warm_start

TRIES = 3
ENDED = "extraction-ended"
"""This file appears in the folder when no more samples will come."""
MISSING = ".missing"
"""The suffix, instead of `.safetensors`, of a sample whose hidden states could not be extracted."""


@dataclasses.dataclass
class Progress:
    """Counts the rows of an extraction."""

    wanted: int
    done: int = 0
    """Rows that the present server is done with, and those that had a file already."""
    written: int = 0
    """Rows that this run wrote, by however many servers."""
    tokens: int = 0
    """Of the rows written."""
    missing: int = 0
    """Rows whose hidden states could not be extracted."""
    in_flight: int = 0


def text_config(target: str) -> dict[str, Any]:
    """The part of the target's config.json that describes its language model."""
    config = json.loads((Path(target) / "config.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = config.get("text_config", config)
    return found


def layers_of(recipe: Recipe, target: str) -> tuple[int, ...]:
    """The target's layers that the drafter sees.

    They are those of the drafter that the training starts from, which speculators keeps whatever it is told;
    else the recipe's, else the three that speculators chooses.

    Raises:
        BadInput: the recipe names others than that drafter has.
    """
    wanted, start = recipe.hidden_states.layers, recipe.train.from_pretrained
    kept = warm_start.layers(start) if start else None
    if kept and wanted and kept != wanted:
        raise BadRecipe(
            f"hidden_states.layers: {list(wanted)}, but {start} was trained with {list(kept)}, and stays so: "
            "leave the key out, or train a new drafter"
        )
    count: int = text_config(target)["num_hidden_layers"]
    if found := kept or wanted:
        if max(found) > count:
            raise BadRecipe(f"hidden_states.layers: the target has {count} layers, and none is {max(found)}")
        return found
    return (2, count // 2, count - 3)


def extracted_layers(recipe: Recipe, target: str) -> tuple[int, ...]:
    """The layers that the drafter sees, then the last hidden state, which it learns to predict."""
    return (*layers_of(recipe, target), text_config(target)["num_hidden_layers"])


def server_spec(
    recipe: Recipe, base: ServerSpec, *, target: str, folder: Path, cpu: bool, shared: bool
) -> ServerSpec:
    """The server that extracts into `folder`, made from the one that answers prompts."""
    ids = list(extracted_layers(recipe, target))
    connector: dict[str, Any] = {
        "kv_connector": "ExampleHiddenStatesConnector",
        "kv_role": "kv_producer",
        "kv_connector_extra_config": {"shared_storage_path": str(folder), "allow_custom_save_path": True},
    }
    if cpu:
        connector |= {
            "kv_connector": "CpuHiddenStatesConnector",
            "kv_connector_module_path": "training.hidden.cpu_connector",
        }
    args = {**base.args, "kv_transfer_config": connector}
    if shared and not cpu:
        args["gpu_memory_utilization"] = recipe.hidden_states.gpu_memory
    args = replaced(args, recipe.hidden_states.args)
    env = dict(base.env)
    if not cpu:
        # Otherwise the engine imports all of vLLM again while the trainer waits. vLLM itself starts a new
        # interpreter if CUDA is in use already.
        env.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "fork")
    speculative = {
        "method": "extract_hidden_states",
        "num_speculative_tokens": 1,
        "draft_model_config": {"hf_config": {"eagle_aux_hidden_state_layer_ids": ids}},
    }
    return dataclasses.replace(
        base, args=args, env=env, speculative=speculative, drafter="hidden-states", k=1
    )


def trainers_order(lengths: Sequence[int], *, split: int, recipe: Recipe) -> list[int]:
    """Row numbers in the order in which the first epoch, then the validation, will ask for them."""
    from speculators.train.distributed_batch_sampler import MultipackDistributedBatchSamplerV2  # noqa: PLC0415

    train, order = recipe.train, list[int]()
    gpus, longest = train.gpus, train.total_seq_len
    for base, part, seed in ((0, lengths[:split], train.seed), (split, lengths[split:], 0)):
        ranks = [
            list(
                MultipackDistributedBatchSamplerV2(
                    longest, list(part), num_replicas=gpus, rank=rank, seed=seed
                )
            )
            for rank in range(gpus)
        ]
        for step in zip(*ranks, strict=True):
            order += [base + int(row) for batch in step for row in batch]
        order += sorted(set(range(base, base + len(part))).difference(order))
    return order


class ServerGone(Exception):  # noqa: N818
    """The server does not answer any more. The files written so far stay."""


@dataclasses.dataclass(kw_only=True)
class Extractor:
    """Writes `hs_<row>.safetensors` for rows that are not there yet."""

    rows: Callable[[int], Sequence[int]]
    """Gives the token ids of a row by its number."""
    server: Server
    """One started from `server_spec`."""
    folder: Path
    """The folder that the server writes to."""
    concurrency: int
    progress: Progress
    stop: Callable[[], bool]
    """Called before each row. Once it is true, the requests in flight end and no others start."""

    def run(self, order: Iterable[int]) -> None:
        """Extract the rows of `order`, in that order.

        Raises:
            ServerGone: the server does not answer any more; run again with another one.
        """
        try:
            asyncio.run(self._run(iter(order)))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _run(self, left: Iterator[int]) -> None:
        # A thread for each request: it sleeps in the kernel until the writer lets go of the lock.
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="lock") as threads:
            session = aiohttp.ClientSession(
                base_url=self.server.url,
                headers=self.server.http.headers,
                proxy=self.server.http.proxy,
                timeout=aiohttp.ClientTimeout(total=self.server.spec.request_timeout_s),
                connector=aiohttp.TCPConnector(limit=0),
            )
            async with session, asyncio.TaskGroup() as group:
                for _ in range(self.concurrency):
                    group.create_task(self._work(left, session, threads))

    async def _work(
        self, left: Iterator[int], session: aiohttp.ClientSession, threads: ThreadPoolExecutor
    ) -> None:
        progress = self.progress
        for row in left:
            if self.stop():
                return
            path = self.folder / f"hs_{row}.safetensors"
            if not path.exists():
                ids = list(self.rows(row))
                progress.in_flight += 1
                try:
                    written = await self._one(ids, path, session, threads)
                finally:
                    progress.in_flight -= 1
                if written:
                    progress.written += 1
                    progress.tokens += len(ids)
                else:
                    path.with_suffix(MISSING).touch()
                    progress.missing += 1
            progress.done += 1

    async def _one(
        self, ids: list[int], path: Path, session: aiohttp.ClientSession, threads: ThreadPoolExecutor
    ) -> bool:
        part = path.with_suffix(".part")
        body = {
            "model": self.server.model,
            "prompt": ids,
            "max_tokens": 1,
            "temperature": 0,
            "kv_transfer_params": {"hidden_states_path": str(part)},
        }
        for attempt in range(TRIES):
            try:
                async with session.post("/v1/completions", json=body) as answer:
                    await answer.read()
                    answer.raise_for_status()
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(threads, _await_written, part)
                check(part, tokens=len(ids))
            except (aiohttp.ClientConnectionError, TimeoutError) as error:
                raise ServerGone(f"no answer from the server: {without_keys(str(error))}") from None
            except (aiohttp.ClientError, OSError, ValueError, KeyError):
                await asyncio.sleep(0.2 * 2**attempt)
            else:
                part.rename(path)
                return True
        return False


def _await_written(part: Path) -> None:
    """Sleep until the engine has released its lock on the file."""
    lock = part.with_name(part.name + ".lock")
    with contextlib.suppress(FileNotFoundError):
        handle = os.open(lock, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
        finally:
            os.close(handle)
        lock.unlink()


def check(path: Path, *, tokens: int) -> None:
    """Check that a file is whole and holds the hidden states of so many tokens.

    Raises:
        ValueError: it is not, or does not.
        OSError: it is not there.
    """
    try:
        with safe_open(path, "np") as file:
            found = file.get_slice("hidden_states").get_shape()[0]
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file of ours: {error}") from None
    if found != tokens:
        raise ValueError(f"{path}: {found} tokens, not {tokens}")


def finished(folder: Path, *, ended: bool) -> None:
    """Tell the trainer whether more files will come."""
    sign = folder / ENDED
    if ended:
        sign.touch()
    else:
        sign.unlink(missing_ok=True)
        for lost in folder.glob(f"*{MISSING}"):
            lost.unlink()

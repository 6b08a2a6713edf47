"""A found model, made ready to embed a corpus: its files are checked, then its backend is loaded."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from steps.common.backends import Backend, check_task, choose_prompt
from steps.common.backends.load import check_asked
from steps.common.backends.tokens import without_limits
from steps.common.backends.torch import find_input, find_prompt, find_tasks
from steps.common.embeddings.chunks import Chunker, chunk_room
from steps.common.embeddings.job import Options
from steps.common.embeddings.origin import Origin
from steps.common.engines.conf import EncodeConf
from steps.common.model import load as models
from steps.common.model.facts import normalizes
from steps.common.model.find import FoundModel, download
from steps.common.model.recipe import Recipe, describe_recipe
from steps.common.model.reference import digest
from steps.common.model.saved import saved_modules, saved_prompts, saved_tokenizer
from steps.common.vectors import check_dim


@dataclass(frozen=True)
class Loaded:
    """What computes with a found model, and what is done with its vectors."""

    conf: EncodeConf
    found: FoundModel
    # Where its files are.
    folder: Path
    backend: Backend
    # Of long texts, where these are cut into pieces.
    chunker: Chunker | None
    options: Options
    # Its share of the plan.
    plan: dict[str, Any]

    @cached_property
    def recipe(self) -> Recipe:
        """How a worker elsewhere gets the backend that was loaded here."""
        embedding = self.conf.embedding
        return describe_recipe(
            *(self.found, self.folder, self.backend, self.conf.backend),
            prompt_name=embedding.prompt_name,
            task=embedding.task,
        )

    def describe_origin(self, plan: dict[str, Any], commit: str | None) -> Origin:
        """What the parts say of the model and the settings that made them, by the whole plan."""
        facts = self.found.describe()
        return Origin(
            model_id=self.found.logged.model_id,
            hub_id=facts["hub_id"] or None,
            revision=facts["revision"] or None,
            registered_version=self.found.registered,
            model_digest=plan["model"]["files"],
            backend=f"{plan['backend']['name']}/{plan['backend']['precision']}",
            prompt=plan["model"]["prompt"] or None,
            options=plan["embedding"],
            git_commit=commit,
        )

    def close(self) -> None:
        self.backend.close()


def check_model_files(conf: EncodeConf, found: FoundModel) -> tuple[Path, dict]:
    """Check the files of a found model before it is loaded: returns their folder, and their share of the plan.

    Raises UserError for an embedding or chunks that the model does not have.
    """
    dim, longest = found.tags.get("dimension", ""), found.tags.get("max_seq_length", "")
    if dim.isdecimal():
        check_dim(conf.embedding.truncate_dim, int(dim))
    folder = download(found)
    facts: dict[str, str | None] = {"files": digest(folder)}
    saved = saved_prompts(folder)
    if saved is not None:
        facts["prompt"] = choose_prompt(*saved, conf.embedding.prompt_name)
    modules = saved_modules(folder)
    if modules is not None and not {"Router", "Asym"} & set(modules):
        check_task([], conf.embedding.task)
    tokenizer = saved_tokenizer(folder)
    if conf.corpus.long_text == "chunk" and tokenizer is not None and saved is not None and longest.isdecimal():
        fast = without_limits(tokenizers.Tokenizer.from_file(str(tokenizer)))
        chunk_room(fast, facts["prompt"] or "", int(longest), conf.corpus.chunk_overlap)
    return folder, {"model": facts}


def load(conf: EncodeConf, found: FoundModel, folder: Path) -> Loaded:
    """Load a found model from its folder; raises UserError as load_backend, and for a task that it does not have."""
    settings, embedding = conf.backend, conf.embedding
    check_asked(settings)
    native = models.load_native(folder)
    prompt, task = find_prompt(native, embedding.prompt_name), embedding.task
    check_task(find_tasks(native), task)
    chunks = conf.corpus.long_text == "chunk"
    chunker = Chunker(find_input(native, task), prompt, conf.corpus.chunk_overlap) if chunks else None
    backend = models.load_backend(found, folder, native, settings, prompt_name=embedding.prompt_name, task=task)
    cut = embedding.truncate_dim is not None
    options = Options(
        dtype=embedding.dtype,
        truncate_dim=embedding.truncate_dim,
        # The model's own Normalize comes before the cut.
        normalize=embedding.normalize or (cut and normalizes(native)),
        rows_per_part=conf.rows_per_part,
        keep_text=conf.keep_text,
        format=conf.output_format,
        row_per_chunk=chunks and conf.corpus.chunk_pooling == "none",
        normalize_mean=normalizes(native),
    )
    plan = {
        "model": {"files": digest(folder), "prompt": prompt},
        "backend": {
            **{name: getattr(backend, name) for name in ("name", "precision", "digest")},
            "device": backend.device.partition(":")[0],
        },
    }
    return Loaded(conf, found, folder, backend=backend, chunker=chunker, options=options, plan=plan)

"""The node `model` of log_model's config, explained in conf/model/_base.yaml."""

from dataclasses import dataclass


@dataclass
class ModelConf:
    name: str
    revision: str | None
    path: str | None
    package: str | None
    weights_sha256: str | None
    trust_remote_code: bool
    prompts: dict[str, str]
    default_prompt_name: str | None
    expected_facts: dict[str, str]

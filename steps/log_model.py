"""log_model: record a sentence-transformers model and its signature as an MLflow LoggedModel.

Reads   the model that conf/model names: an installed package, a folder or the Hub.
Writes  a LoggedModel (native flavor, signature, input example, pinned requirements, lineage tags) and
        reference.json, the embeddings of the examples by the source model, for validate to compare with; with
        serving.embeddings_api=true a second LoggedModel, embeddings_api, that answers OpenAI's embeddings call.

    mlflow run . -e log_model -P model=all-MiniLM-L6-v2
    python -m steps.log_model model=all-MiniLM-L6-v2
"""

from omegaconf import DictConfig, OmegaConf

from steps.common import inputs, project, summary
from steps.common.source import find_source


def main(cfg: DictConfig) -> None:
    spec = cfg.model
    path = inputs.local_path(spec.path, "model.path") if spec.path is not None else None
    source = find_source(
        name=spec.name,
        revision=spec.revision,
        path=path,
        package=spec.package,
        weights_sha256=spec.weights_sha256,
        trust_remote_code=spec.trust_remote_code,
    )
    with project.run("log_model", *project.resolve(cfg)) as run:
        import mlflow

        from steps.common import model as models

        project.logger.info("loading %s from %s", source.name, source.folder)
        prompts = OmegaConf.to_container(spec.prompts)
        model = models.load_source(
            source,
            trust_remote_code=spec.trust_remote_code,
            prompts=prompts,
            default_prompt_name=spec.default_prompt_name,
        )
        examples = list(cfg.examples)
        embeddings = models.embed_examples(model, examples)
        signature = models.build_signature(examples, embeddings)
        print(f"signature\n{signature}", flush=True)
        logged = models.log(
            model,
            source,
            signature=signature,
            examples=examples,
            name=cfg.artifact_name,
            expected_facts=OmegaConf.to_container(spec.expected_facts),
        )
        api = (
            models.log_embeddings_api(model, logged, source.name, spec.trust_remote_code, examples[0])
            if cfg.serving.embeddings_api
            else None
        )
        reference = {"sentences": examples, "embeddings": summary.as_json(embeddings.tolist())}
        mlflow.log_dict(reference, "reference.json")
        summary.show(
            "log_model",
            {
                "run_id": run.info.run_id,
                "model_id": logged.model_id,
                "model_uri": f"runs:/{run.info.run_id}/{cfg.artifact_name}",
                **({"embeddings_api": f"models:/{api.model_id}"} if api else {}),
                "source": f"{source.name}@{source.revision or 'local'}",
                "weights_sha256": source.weights_sha256,
                **models.facts(model),
            },
            project.next_command("validate", run, run_id=run.info.run_id),
        )


if __name__ == "__main__":
    project.launch("log_model", main)

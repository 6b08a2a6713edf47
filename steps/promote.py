"""promote: make a registered version the champion, by hand.

Reads   a registered model (name) and one of its versions: a number, or an alias such as previous.
Writes  its alias champion, and previous for the version that had it; descriptions and tags of both, and of the model.
Refuses a version that failed its validation, one that is champion already, and one that does not exist.

    mlflow run . -e promote -P name=sentence-embeddings -P version=7 -P reason="read its misses, all fine"
    mlflow run . -e promote -P name=sentence-embeddings -P version=previous -P reason="search got slower"
    python -m steps.promote name=sentence-embeddings version=previous reason="search got slower"
"""

from steps.common.errors import UserError
from steps.common.launch.call import Call
from steps.common.launch.config import PromoteConf
from steps.common.launch.process import launch


def open_inputs(call: Call[PromoteConf]) -> None:
    """Raises UserError for a reason that says nothing."""
    if not call.conf.reason.strip():
        raise UserError('reason is empty. Say why this version should be champion: -P reason="<why>".')


if __name__ == "__main__":
    launch("promote", open_inputs, manual=__doc__)

# The second half: what computes.

import mlflow

from steps.common.launch import summary
from steps.common.launch.commands import next_command
from steps.common.model import registry
from steps.common.tracking import notes
from steps.common.tracking import run as runs
from steps.common.tracking.run import tag_upstream


def main(call: Call[PromoteConf], opened: None) -> None:
    conf = call.conf
    with runs.run("promote", call.config, call.as_yaml) as run:
        promotion = registry.promote(conf.name, conf.version, conf.reason)
        found, uri = promotion.champion, f"models:/{conf.name}@{registry.CHAMPION}"
        replaced = f"{conf.name}/{promotion.replaced}" if promotion.replaced else "none"
        tag_upstream(found.run_id, found.logged.model_id)
        mlflow.set_tags({"promoted": found.registered, "replaced": replaced, "reason": conf.reason})
        use = next_command("encode", run, run_id=uri, corpus="texts.csv")
        run.describe(*notes.of_promotion(found, replaced, conf.reason, uri, use))
        summary.show(
            "promote",
            {
                "run_id": run.info.run_id,
                "model_id": found.logged.model_id,
                "champion": found.registered,
                "replaced": replaced,
                "because": conf.reason,
                "load": f'mlflow.sentence_transformers.load_model("{uri}")',
            },
            next_command("encode", run, run_id=uri, corpus="sample"),
        )

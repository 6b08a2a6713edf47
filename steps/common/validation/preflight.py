"""Find in seconds what validate would otherwise find after its work."""

from steps.common.model import registry
from steps.common.ports import listen
from steps.common.tracking import server
from steps.common.validation.environment import check_uv
from steps.common.validation.rules import ValidateConf


def check_deployment(conf: ValidateConf) -> None:
    """Raises UserError where the port, uv or the model registry that the config asks for is not there."""
    if conf.serving.enabled:
        listen(conf.serving.port, "serving.port").close()
    if conf.fresh_environment:
        check_uv()
    if conf.register is not None:
        registry.check_name(conf.register)
        server.check_registry()

"""Find in seconds what validate would otherwise find after its work."""

from steps.common.validation.rules import ServingConf


def check_deployment(serving: ServingConf, fresh_environment: bool, register: str | None) -> None:
    """Find in seconds what validate would otherwise find after its work: no port, no uv, no model registry.

    Raises:
        UserError: one of them is missing.
    """
    if serving.enabled:
        from steps.common.validation.serving import check_port

        check_port(serving.port)
    if fresh_environment:
        from steps.common.validation.environment import check_uv

        check_uv()
    if register is not None:
        from steps.common.model import registry
        from steps.common.tracking import server

        registry.check_name(register)
        server.check_registry()

"""Find in seconds what validate would otherwise find after its work."""


def check_deployment(serving, fresh_environment: bool, register: str | None) -> None:
    """Find in seconds what validate would otherwise find after its work: no port, no uv, no model registry.

    Args:
        serving: the node of that name of validate's config.

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
        from steps.common.model.registry import check_available

        check_available(register)

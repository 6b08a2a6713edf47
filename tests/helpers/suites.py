"""Suites as a config gives them."""

# Those of the pairs of the fixture `read_pairs`: in their order, but for two neighbours.
COSINES = [0.1, 0.2, 0.3, 0.4, 0.6, 0.5]


def spec(**given):
    """What a config says of a suite, but for what is given."""
    from steps.common.quality.spec import SuiteSpec

    columns = {name: name for name in ("sentence1", "sentence2", "score", "query", "relevant")}
    named = {"kind": "sts", "split": "test", "document_id": "id", "document": "text", "rows": 500, "seed": 0}
    values = dict.fromkeys(SuiteSpec.__dataclass_fields__) | columns | named | {"references": {}, "threshold": 0.0}
    return SuiteSpec(**(values | given))


def read_suite(path, **given):
    """The suite that a file holds."""
    from steps.common.quality import kinds

    (suite,) = kinds.read_suites([spec(path=path, **given)])
    return suite

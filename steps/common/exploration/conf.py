"""The node of explore's config that decides the map, explained in conf/explore.yaml."""

from dataclasses import dataclass, field
from enum import StrEnum


class Method(StrEnum):
    """How vectors become places on the map."""

    pca = "pca"
    tsne = "tsne"


@dataclass
class MapConf:
    method: Method
    points: int = field(metadata={"min": 1})
    colour: str | None

"""A backend for each role that a text may have: none, query, document."""

from collections.abc import Callable, Collection, Mapping

from steps.common.backends import Backend
from steps.common.quality import scoring
from steps.common.quality.columns import Role

# Names of the prompts that models have for a role; the library's encode_query and encode_document take the same.
PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}


class ByRole:
    """What embeds texts in a role (a scoring.EncodeAs), with the prompt and the route that encode_query and
    encode_document of the library take: a backend for each, each loaded once."""

    def __init__(
        self,
        load: Callable[[str | None, str | None], Backend],
        prompts: Mapping[str, str],
        default: str | None,
        tasks: Collection[str] = (),
    ):
        """
        Args:
            load: gives the backend for a prompt's name and a task, None for the model's defaults.
            prompts: those the model has. default: the name of its default prompt, if it has one.
            tasks: those it has routes for.
        """
        self._load, self._prompts, self._default = load, prompts, self._text(prompts, default)
        self._tasks = tasks
        self._loaded: dict[tuple[str | None, str | None], Backend] = {(None, None): load(None, None)}

    @staticmethod
    def _text(prompts: Mapping[str, str], name: str | None) -> str:
        return (prompts.get(name) or "") if name else ""

    def __call__(self, role: Role) -> scoring.Encode:
        name = next((name for name in PROMPTS.get(role or "", ()) if name in self._prompts), None)
        # Most models have empty prompts for every role.
        if self._text(self._prompts, name) == self._default:
            name = None
        asked = (name, role if role in self._tasks else None)
        if asked not in self._loaded:
            self._loaded[asked] = self._load(*asked)
        encode = self._loaded[asked].encode
        return lambda texts: encode(list(texts))

    @property
    def key(self) -> str:
        """name/precision."""
        backend = self._loaded[None, None]
        return f"{backend.name}/{backend.precision}"

    @property
    def digest(self) -> str | None:
        return self._loaded[None, None].digest

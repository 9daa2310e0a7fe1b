"""JSON of users' values and of messages: by msgspec, or by Pydantic if an annotation or a value is one of Pydantic's.

Pydantic is imported only if the user has imported it. An annotation that contains a type of Pydantic's is read and
written by Pydantic as a whole: ``list[Model]``, ``dict[str, Model] | None``.
"""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What a decoder raises for bytes that are not JSON of its type. RecursionError is msgspec's for very deep nesting."""

T = TypeVar("T")
_PACKAGES = frozenset({"pydantic", "pydantic_core", "pydantic_extra_types", "annotated_types"})


class Mismatch(msgspec.ValidationError):
    """A value that does not fit its annotation. Each of ``errors`` has a ``field`` (``items[0]``) and a ``message``."""

    def __init__(self, errors: Sequence[dict[str, str]]) -> None:
        super().__init__("; ".join(f"{e['field']}: {e['message']}" if e["field"] else e["message"] for e in errors))
        self.errors = list(errors)


class Adapter:
    """Reads and writes the values of one annotation with Pydantic.

    Raises TypeError, with a sentence, for an annotation that Pydantic does not accept.
    """

    __slots__ = ("_adapter", "_wrong")

    def __init__(self, annotation: Any) -> None:
        try:
            from pydantic import PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter, ValidationError
        except ImportError as error:
            raise TypeError(f"its constraints need Pydantic 2: {error}") from error
        if any(isinstance(part, msgspec.Meta) for part in _parts(annotation, set())):
            raise TypeError("Meta is msgspec's; beside Pydantic's types write Field(...)")
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        except (PydanticUserError, PydanticUndefinedAnnotation) as error:
            text = str(error).partition("\n")[0].partition(". Set `arbitrary")[0]
            structs = [p.__name__ for p in _parts(annotation, set()) if _is_struct(p)]
            if structs:
                text = f"a model cannot stand inside of a Struct, nor beside one ({', '.join(structs)})"
            raise TypeError(f"Pydantic cannot read it: {text}") from error
        self._wrong = ValidationError

    def decode(self, data: bytes) -> Any:
        """The value in a JSON text. Raises `msgspec.DecodeError` if it is not JSON, and `Mismatch`."""
        try:
            return self._adapter.validate_json(data)
        except self._wrong as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            if first["type"] == "json_invalid":
                raise msgspec.DecodeError(first["msg"]) from None
            raise _mismatch(error) from None

    def convert(self, value: Any) -> Any:
        """The value made of texts or Python objects. Raises `Mismatch`."""
        try:
            return self._adapter.validate_python(value)
        except self._wrong as error:
            raise _mismatch(error) from None

    def encode(self, value: Any) -> bytes:
        """JSON of a value, by alias, with exactly the members of the annotation. Raises `Mismatch`."""
        try:
            value = self._adapter.validate_python(value, from_attributes=True)
        except self._wrong as error:
            raise _mismatch(error) from None
        return self._adapter.dump_json(value, by_alias=True)


def _mismatch(error: Any) -> Mismatch:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return Mismatch([{"field": _field(e["loc"]), "message": _message(e)} for e in found])


def _message(error: Any) -> str:
    return "is required" if error["type"] == "missing" else str(error["msg"])


def _field(location: tuple[str | int, ...]) -> str:
    """``("items", 0, "name")`` as ``items[0].name``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def is_model(kind: Any) -> bool:
    """True for a model or a dataclass of Pydantic."""
    return isinstance(kind, type) and hasattr(kind, "__pydantic_validator__")


def is_constraint(extra: Any) -> bool:
    """True for an argument of ``Annotated`` that is Pydantic's, such as ``Field(ge=1)``."""
    return type(extra).__module__.partition(".")[0] in _PACKAGES


def is_pydantic(annotation: Any) -> bool:
    """True if an annotation is, or contains, a model, a type or a constraint of Pydantic."""
    if not _PACKAGES & sys.modules.keys():
        return False
    return any(_is_theirs(part) for part in _parts(annotation, set()))


def _is_theirs(part: Any) -> bool:
    if not isinstance(part, type):
        return is_constraint(part)
    theirs = part.__module__.partition(".")[0] in _PACKAGES
    return theirs or is_model(part) or hasattr(part, "__get_pydantic_core_schema__")


def _parts(annotation: Any, seen: set[Any]) -> Iterator[Any]:
    """Every type in an annotation and in its fields, and every further argument of ``Annotated``."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        kind, *extras = typing.get_args(annotation)
        yield from extras
        yield from _parts(kind, seen)
    elif origin is not None and origin is not Literal:
        for argument in (origin, *typing.get_args(annotation)):
            yield from _parts(argument, seen)
    elif hasattr(annotation, "__value__"):  # type X = ...
        yield from _parts(annotation.__value__, seen)
    elif hasattr(annotation, "__supertype__"):  # NewType
        yield from _parts(annotation.__supertype__, seen)
    elif isinstance(annotation, type) and annotation not in seen:
        seen.add(annotation)
        yield annotation
        if not is_model(annotation) and _has_fields(annotation):
            for field in _hints(annotation).values():
                yield from _parts(field, seen)


def _is_struct(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, msgspec.Struct)


def _has_fields(kind: type) -> bool:
    return (
        issubclass(kind, msgspec.Struct)
        or dataclasses.is_dataclass(kind)
        or typing.is_typeddict(kind)
        or hasattr(kind, "__attrs_attrs__")
        or (issubclass(kind, tuple) and hasattr(kind, "_fields"))
    )


def _hints(kind: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except (NameError, TypeError):
        return {}  # decoding says what is wrong with it


def adapter_for(annotation: Any) -> Adapter | None:
    """The adapter for an annotation of Pydantic's; None for any other. Raises TypeError."""
    try:
        return _remembered(annotation)
    except TypeError:  # it cannot be hashed, or is wrong
        return Adapter(annotation) if is_pydantic(annotation) else None


@lru_cache(maxsize=1024, typed=True)
def _remembered(annotation: Any) -> Adapter | None:
    return Adapter(annotation) if is_pydantic(annotation) else None


def decoder(annotation: Any) -> msgspec.json.Decoder[Any] | Adapter:
    """A decoder of JSON to that type, with ``decode(bytes)``. Raises TypeError for a type unknown to both libraries."""
    return adapter_for(annotation) or msgspec.json.Decoder(annotation)


def decode(data: bytes, annotation: Any) -> Any:
    """The value in a JSON text. Raises `msgspec.DecodeError` if it is not JSON, and `msgspec.ValidationError`."""
    adapter = adapter_for(annotation)
    return msgspec.json.decode(data, type=annotation) if adapter is None else adapter.decode(data)


def decode_or_none(decoder: msgspec.json.Decoder[T], data: bytes) -> T | None:
    """The value in a JSON text of any sender, or None if it is not JSON of the decoder's type. Never raises."""
    try:
        return decoder.decode(data)
    except UNREADABLE:
        return None


def _encode_foreign(value: Any) -> msgspec.Raw:
    """JSON of a value that msgspec does not know: one of Pydantic's."""
    dump = getattr(value, "model_dump_json", None)
    if dump is not None:
        return msgspec.Raw(dump(by_alias=True).encode())
    if is_constraint(value):
        return msgspec.Raw(sys.modules["pydantic_core"].to_json(value))
    raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")


encode = msgspec.json.Encoder(enc_hook=_encode_foreign).encode
"""JSON of a value, as bytes; models of Pydantic by alias. Raises TypeError for a type that neither library knows."""
encode_any = msgspec.json.Encoder(enc_hook=str).encode
"""JSON of a value, as bytes; values of types that msgspec does not know as their text."""

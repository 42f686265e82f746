"""What comes with a message: pictures, in base64. What one is, its bytes say and nobody else."""

import binascii
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema, field_validator

from relay.chat.pictures import kind_of
from relay.core.validation import printable
from relay.llm.messages import Image

MAX_ATTACHMENTS: Final = 5
MAX_BYTES: Final = 5 * 1024 * 1024
MAX_BASE64: Final = (MAX_BYTES + 2) // 3 * 4
_MAX_NAME: Final = 255
# So small that other threads get their turn: one call holds the interpreter until it returns.
_STRETCH: Final = 64 * 1024
_ALIASES: Final = {"image/jpg": "image/jpeg"}


def picture(value: Any) -> Image:
    """Return base64 (RFC 4648, 4) as the picture that it is; ValueError says why it is none."""
    if not isinstance(value, str):
        raise ValueError("must be a picture in base64")
    if len(value) > MAX_BASE64:
        raise ValueError(f"has more than {MAX_BYTES} bytes")
    if value.startswith("data:"):
        raise ValueError("must be base64 alone, without data:…,")
    data = _decoded(value)
    if len(data) > MAX_BYTES:
        raise ValueError(f"has more than {MAX_BYTES} bytes")
    return Image(kind_of(data), data)


def _decoded(text: str) -> bytes:
    parts = []
    try:
        for place in range(0, len(text), _STRETCH):
            stretch = text[place : place + _STRETCH]
            if "=" in stretch and place + _STRETCH < len(text):
                raise ValueError
            parts.append(binascii.a2b_base64(stretch, strict_mode=True))
    except ValueError:  # binascii.Error among them, and what is not ASCII
        raise ValueError("is not base64 (RFC 4648, section 4, with its padding and without line breaks)") from None
    return b"".join(parts)


class Attachment(BaseModel):
    """A picture: PNG, JPEG, GIF or WebP.

    ``data`` is base64 of at most 5 × 1024 × 1024 bytes. ``media_type`` may be left out; one that the bytes contradict
    is refused. ``name`` is for the sender: it is neither kept nor shown to a model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    data: Annotated[
        Image,
        BeforeValidator(picture),
        WithJsonSchema({"type": "string", "contentEncoding": "base64", "maxLength": MAX_BASE64}),
    ]
    media_type: Annotated[str, Field(max_length=100, examples=["image/png"])] | None = None
    name: Annotated[str, Field(max_length=_MAX_NAME)] | None = None

    @field_validator("media_type")
    @classmethod
    def _as_it_is(cls, value: str | None, info: ValidationInfo) -> str | None:
        found: Image | None = info.data.get("data")
        if value is None or found is None:
            return value
        said = value.lower()
        if _ALIASES.get(said, said) != found.media_type:
            raise ValueError(f"contradicts the bytes, which are {found.media_type}")
        return value

    @field_validator("name")
    @classmethod
    def _in_one_line(cls, value: str | None) -> str | None:
        return None if value is None else printable(value)

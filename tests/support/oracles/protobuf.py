"""The tunnel message of protobuf's own library: the oracle our codec is measured against.

The schema is built at run time, so that neither ``protoc`` nor generated code is
needed. It follows the schema of guide V3; field names are those of our ``Message``.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError as OracleError

from tailrace.wire import Message, MessageType

__all__ = ["OracleError", "oracle_decode", "oracle_encode"]

_Field = descriptor_pb2.FieldDescriptorProto

_FIELDS = (
    ("type", 1, _Field.TYPE_ENUM, _Field.LABEL_OPTIONAL),
    ("stream_id", 2, _Field.TYPE_INT32, _Field.LABEL_OPTIONAL),
    ("ignorable", 3, _Field.TYPE_BOOL, _Field.LABEL_OPTIONAL),
    ("payload", 4, _Field.TYPE_BYTES, _Field.LABEL_OPTIONAL),
    ("service_id", 5, _Field.TYPE_STRING, _Field.LABEL_OPTIONAL),
    ("available_service_ids", 6, _Field.TYPE_STRING, _Field.LABEL_REPEATED),
    ("connection_id", 7, _Field.TYPE_UINT32, _Field.LABEL_OPTIONAL),
)


def _message_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="tunnel.proto", package="oracle", syntax="proto3"
    )
    message = file.message_type.add(name="Message")
    kinds = message.enum_type.add(name="Type")
    for kind in MessageType:
        kinds.value.add(name=kind.name, number=kind.value)
    for name, number, kind, label in _FIELDS:
        field = message.field.add(name=name, number=number, type=kind, label=label)
        if kind == _Field.TYPE_ENUM:
            field.type_name = ".oracle.Message.Type"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("oracle.Message"))


_Oracle = _message_class()


def oracle_encode(message: Message) -> bytes:
    """Encode with protobuf, deterministically."""
    fields = message._asdict() | {"payload": bytes(message.payload)}
    encoded: bytes = _Oracle(**fields).SerializeToString(deterministic=True)
    return encoded


def oracle_decode(body: bytes) -> Message:
    """Decode with protobuf.

    Raises:
        OracleError: protobuf refuses the bytes.
    """
    read = _Oracle.FromString(body)
    return Message(
        type=read.type,
        stream_id=read.stream_id,
        service_id=read.service_id,
        connection_id=read.connection_id,
        payload=read.payload,
        available_service_ids=tuple(read.available_service_ids),
        ignorable=read.ignorable,
    )

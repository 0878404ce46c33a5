"""Usage: make_reference.py, in an environment with `kserve`; writes `open-inference.binpb` (see README.md)."""

from __future__ import annotations

import sys
from pathlib import Path

from google.protobuf import descriptor_pb2
from kserve.protocol.grpc import grpc_predict_v2_pb2


def camel(name: str) -> str:
    """A field's JSON name, as protoc makes it."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def named(message: descriptor_pb2.DescriptorProto) -> None:
    for field in message.field:
        field.json_name = camel(field.name)
    for nested in message.nested_type:
        named(nested)


def main() -> None:
    file = descriptor_pb2.FileDescriptorProto()
    file.ParseFromString(grpc_predict_v2_pb2.DESCRIPTOR.serialized_pb)
    for kept in (file.message_type, file.service[0].method):
        for item in [item for item in kept if item.name.startswith("RepositoryModel")]:
            kept.remove(item)
    for message in file.message_type:
        named(message)
    target = Path(__file__).with_name("open-inference.binpb")
    target.write_bytes(descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString(deterministic=True))


if __name__ == "__main__":
    sys.exit(main())

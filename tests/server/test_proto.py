"""The proto file: buf finds nothing in it that would break a client of the published one; the stubs are generated from it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from protos import open_inference_pb2 as pb

HERE = Path(__file__).parent
PROTO = HERE.parent.parent / "protos" / "open_inference.proto"
PUBLISHED = HERE / "published" / "open-inference.binpb"
BUF = Path(sys.executable).with_name("buf")


def buf(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HOME": str(folder), "XDG_CACHE_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    return subprocess.run(
        [str(BUF), *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The proto file as buf reads it."""
    folder = tmp_path / "module"
    folder.mkdir()
    shutil.copy(PROTO, folder)
    built = buf(folder, "build", ".", "--exclude-source-info", "-o", "image.binpb")
    assert built.returncode == 0, built.stderr
    return folder / "image.binpb"


def breaking(image: Path, against: Path, rules: str) -> list[str]:
    config = json.dumps({"version": "v2", "breaking": {"use": [rules]}})
    done = buf(image.parent, "breaking", image.name, "--against", str(against), "--config", config)
    assert done.returncode in (0, 100), done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("rules", ["PACKAGE", "WIRE_JSON"])
def test_nothing_breaks_clients_of_the_published_protocol(image: Path, rules: str) -> None:
    assert breaking(image, PUBLISHED, rules) == []


def test_buf_would_find_what_breaks(image: Path, tmp_path: Path) -> None:
    broken = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes())
    request = next(m for m in broken.file[0].message_type if m.name == "ModelInferRequest")
    next(f for f in request.field if f.name == "id").number = 99
    changed = image.with_name("changed.binpb")
    changed.write_bytes(broken.SerializeToString())
    assert any('"id"' in line and "ModelInferRequest" in line for line in breaking(changed, PUBLISHED, "WIRE_JSON"))


def test_the_stubs_are_those_of_the_file(image: Path) -> None:
    def read(data: bytes) -> descriptor_pb2.FileDescriptorProto:
        file = descriptor_pb2.FileDescriptorProto.FromString(data)
        file.name = ""
        file.DiscardUnknownFields()  # buf's own notes
        pending = list(file.message_type)
        while pending:
            message = pending.pop()
            pending += message.nested_type
            for field in message.field:
                field.ClearField("json_name")  # protoc leaves it to the reader
        return file

    built = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes()).file[0]
    assert read(built.SerializeToString()) == read(pb.DESCRIPTOR.serialized_pb)

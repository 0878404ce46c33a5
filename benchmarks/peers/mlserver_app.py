"""MLServer: a runtime of its own kind, in the server's process. `mlserver start FOLDER` (`benchmarks.servers` writes it)."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.engine import Engine, models


class Peer(MLModel):  # type: ignore[misc]
    async def load(self) -> bool:
        self._engine = Engine(next(model for model in models() if model["name"] == self.name))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        outputs = self._engine({tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs})
        encoded = [NumpyCodec.encode_output(name, array) for name, array in outputs.items()]
        return InferenceResponse(model_name=self.name, outputs=encoded)

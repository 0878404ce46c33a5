"""What Serve's fallback proxy imports of ours: the hooks that Serve calls in it, not what a replica consists of."""

import subprocess
import sys

import pytest

from deployments.runtime_env import HOST_ENVIRONMENT, RUN_FOLDER, host_runtime_env

LOOK = """
import sys
from server import ingress

class Servicer:
    def __getattr__(self, name):
        return lambda *args: None

class Server:
    handlers = []
    def add_generic_rpc_handlers(self, handlers):
        self.handlers += handlers
    add_registered_method_handlers = lambda self, *args: None

assert ingress.middlewares() == []
ingress.add_grpc_services(Servicer(), Server())
assert len(Server.handlers) == 1
ours = {"server.replica", "server.settings", "server.fast_http", "budgets", "variants.catalog", "variants.engines", "ml_dtypes"}
assert not ours & sys.modules.keys(), ours & sys.modules.keys()
"""


def test_the_fallback_proxy_has_nothing_of_a_replica():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", LOOK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("embedded", [True, False])
def test_hosts_get_their_environment_from_the_cluster_or_by_themselves(monkeypatch, embedded):
    monkeypatch.delenv(RUN_FOLDER, raising=False)
    if embedded:
        monkeypatch.setenv(RUN_FOLDER, "/tmp/run")
    assert host_runtime_env() == ({} if embedded else {"env_vars": HOST_ENVIRONMENT})

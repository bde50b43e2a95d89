"""A cluster whose Redis is reached by TLS, and whose PostgreSQL stands behind a pooler in transaction mode."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster import running_cluster
from tests.tls import make_authority, tls_proxy
from tests.transaction_pooler import transaction_pooler

pytestmark = pytest.mark.slow


def test_a_file_is_worked_off_through_tls_and_a_pooler(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("#: preset = idle\na red fox\na blue boat\n", "utf-8")
    authority = make_authority(tmp_path / "authority", "localhost", "127.0.0.1")
    with (
        running_cluster(tmp_path, VGEN_LOG_LEVEL="WARNING") as cluster,
        transaction_pooler(cluster.postgres.port) as pooler,
        tls_proxy(authority, cluster.redis.port) as proxy,
    ):
        cluster.env["VGEN_BROKER_URL"] = f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs={authority.ca}"
        cluster.env["VGEN_DATABASE_URL"] = cluster.database_url.replace(
            f":{cluster.postgres.port}/", f":{pooler.port}/"
        )
        cluster.env["VGEN_DATABASE_LISTEN_URL"] = cluster.database_url  # through the pooler nothing is heard
        cluster.start_worker()

        done = cluster.vgen("submit", str(file), "--wait")

        assert done.returncode == 0, done.stderr + cluster.log
        assert cluster.job_states() == {"succeeded": 2}
        # No warning of a library, about TLS or the user, that nobody who runs a worker can act on
        assert "warning" not in cluster.log.casefold()
        checks = {
            check["name"]: check["message"] for check in json.loads(cluster.vgen("doctor", "--json").stdout)["checks"]
        }
        assert "by TLS, certificate verified" in checks["broker"]
        assert "a pooler such as PgBouncer" in checks["database"]
        assert pooler.prepared == []
        assert cluster.stop_worker() == 0

"""A session of Spark: the one there is, or a new one, with what it needs looked for first."""

import contextlib
import importlib.util
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from steps.common.errors import UserError, first_line

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

logger = logging.getLogger("steps")

# Least version of Java that Spark 4 runs on.
JAVA = 17

# Seconds to wait for a master or a server of Spark Connect to take a connection. Spark itself tries for a minute and more.
PATIENCE = 5

# Settings of a session that is started here, which the log of a step takes the place of.
QUIET = {"spark.ui.showConsoleProgress": "false", "spark.log.level": "OFF"}


def connect(master: str) -> tuple["SparkSession", bool]:
    """The session to work in, and whether it was started here; `master` is that of a new one.

    Raises UserError, within seconds, where pyspark or Java is missing, or the master does not answer.
    """
    if importlib.util.find_spec("pyspark") is None:
        raise UserError(f"engine=spark needs pyspark, which is not installed here. Type: {_install('-r spark.txt')}")
    warnings.filterwarnings("ignore", message="PySpark does not yet fully support pandas")
    # It shows as JSON what is raised here as well.
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None:
        return active, False
    builder = SparkSession.builder.appName("encode")
    remote = master if master.startswith("sc://") else os.environ.get("SPARK_REMOTE")
    if remote:
        _check_reachable(remote)
        builder = builder.remote(remote)
    elif "PYSPARK_GATEWAY_PORT" not in os.environ:
        # Not by spark-submit, which has begun a JVM and given it a master.
        _find_java()
        _check_reachable(master)
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        builder = builder.master(master)
        for name, value in QUIET.items():
            builder = builder.config(name, value)
    try:
        return builder.getOrCreate(), True
    except Exception as error:  # noqa: BLE001 - Py4J, gRPC and pyspark have errors of their own
        raise UserError(f"no Spark session can be started with {remote or master}: {first_line(error)}.") from error


def _install(what: str) -> str:
    """The command that installs a package into this environment, which mlflow makes without pip."""
    has_pip = importlib.util.find_spec("pip") is not None
    return f"{sys.executable} -m pip install {what}" if has_pip else f"uv pip install --python {sys.executable} {what}"


def _find_java() -> None:
    """Raises UserError where there is no Java that Spark runs on, by JAVA_HOME or PATH."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    remedy = f"Install Java {JAVA} or newer (apt-get install openjdk-{JAVA}-jre-headless), or set JAVA_HOME to it."
    if java is None:
        raise UserError(f"engine=spark needs Java, and there is no java in PATH. {remedy}")
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60).stderr
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"engine=spark needs Java, and {java} cannot be run: {first_line(error)}. {remedy}") from None
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    if found is None or int(found[1]) < JAVA:
        version = found[1] if found else f"an unknown version ({first_line(ValueError(said))})"
        raise UserError(f"engine=spark needs Java {JAVA} or newer; {java} is {version}. {remedy}")


def _check_reachable(master: str) -> None:
    """Raises UserError where nothing listens at any address of a master; one that names no address is not checked."""
    scheme, _, rest = master.removeprefix("k8s://").partition("://")
    default = {"spark": 7077, "sc": 15002, "https": 443, "http": 80}.get(scheme)
    if default is None:
        return
    reasons = []
    for address in rest.partition("/")[0].partition(";")[0].split(","):
        host, _, port = address.partition(":")
        try:
            with contextlib.closing(socket.create_connection((host, int(port or default)), PATIENCE)):
                return
        except (OSError, ValueError) as error:
            reasons.append(f"{address}: {getattr(error, 'strerror', None) or first_line(error)}")
    raise UserError(
        f"Spark's master {master} cannot be reached ({'; '.join(reasons)}). Check engine.master, or start it: sbin/start-master.sh"
    )


def describe(spark: "SparkSession") -> tuple[str, str | None]:
    """The master of a session, and the address of its page; None where it has none or, with Spark Connect, it is not told."""
    page = None
    with contextlib.suppress(Exception):
        page = spark.sparkContext.uiWebUrl
    return spark.conf.get("spark.master", "unknown") or "unknown", page

"""`reproduce ui`: MLflow's own pages, opened on a reproduction's runs.

Where MLFLOW_TRACKING_URI is a server, only its address is needed. A database gets a server of its
own on this machine, for as long as the command runs.
"""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import webbrowser
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_gen.harness.reports import tracking
from lit_gen.harness.reports.mirror import FILES, GRIDS, drawn
from lit_gen.harness.spec import UserError, find, nearest

START = 90.0  # seconds a server may take; two cores that are busy training need twenty
VIEWS = {"charts": "lit_gen_charts", "table": "lit_gen_table"}  # their keys in MLflow's addresses
COLUMNS = ("verdict", "claim", "progress", "status", "seed")
MANY = 40  # runs; beyond that, charts begin with the first 20


def show(name: str | None, port: int | None = None, browse: bool = True) -> int:
    """Opens the experiment of that name, or the list of all, and serves it until Ctrl-C.

    Returns:
        The exit status: 0, also after Ctrl-C, which is how it is meant to end.

    Raises:
        UserError: no MLflow, no store, no such experiment, or no server at that port.
    """
    uri = tracking.resolve(None)
    database = tracking.database(uri)
    if database and not database.is_file():
        raise UserError(
            f"There is no MLflow database {database} yet.\n"
            "`reproduce NAME` makes one, `reproduce sync` fills it from records that are there."
        )
    if name and ("/" in name or name.endswith((".yaml", ".yml"))):
        name = find(name).name
    client = tracking.connect(uri)
    shown = places(client, name)
    if not uri.startswith("http"):
        with _server(uri, port) as (address, server):
            _open(address, shown, browse)
            print("Ctrl-C stops the server.", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                raise UserError(f"MLflow's server ended by itself (status {server.wait()}).")
        return 0
    if port is not None:
        raise UserError(
            f"--port is of a server to start; MLFLOW_TRACKING_URI names one that runs: "
            f"{tracking.public(uri)}. Leave one of the two out."
        )
    _open(tracking.public(uri).rstrip("/"), shown, browse)
    return 0


def places(client: Any, name: str | None) -> dict[str, str]:
    """What there is to see, and the part of its address that follows the server's."""
    known = {found.name: found for found in client.search_experiments()}
    known = {n: found for n, found in known.items() if found.experiment_id != "0"}
    if not known:
        raise UserError(
            "MLflow has no runs of lit_gen yet.\n`reproduce NAME` makes some, `reproduce sync` "
            "uploads those that are there."
        )
    if name is None and len(known) > 1:
        return {"experiments": "/#/experiments"}
    if name is not None and name not in known:
        raise UserError(
            f"MLflow has no experiment {name!r}.{nearest(name, known)} "
            f"It has: {', '.join(sorted(known))}. `reproduce sync` uploads runs that are missing."
        )
    found = known[name] if name else next(iter(known.values()))
    query = {what: {"workflowType": "machine_learning"} for what in VIEWS}
    query["charts"]["compareRunsMode"] = "CHART"
    with contextlib.suppress(Exception):  # a server may forbid it: then as MLflow shows them
        _arrange(client, found)
        for what, key in VIEWS.items():
            query[what]["viewStateShareKey"] = key
    page = f"/#/experiments/{found.experiment_id}/runs?"
    return {what: page + urllib.parse.urlencode(parts) for what, parts in query.items()}


def _arrange(client: Any, experiment: Any) -> None:
    """Charts and columns, as MLflow keeps shared views: in tags of the experiment."""
    runs = client.search_runs([experiment.experiment_id])
    for what, key in VIEWS.items():
        view = json.dumps(arrangement(runs, what), sort_keys=True).encode()
        packed = "deflate;" + base64.b64encode(zlib.compress(view, 9)).decode()
        tag = f"mlflow.sharedViewState.{key}"
        if experiment.tags.get(tag) != packed:
            client.set_experiment_tag(experiment.experiment_id, tag, packed)


def arrangement(runs: list, what: str) -> dict[str, Any]:
    """A view: of `charts`, the claimed metrics first, then samples, pictures and the other curves.

    The table's runs are folded into their cells. Charts come with a flat list, by name, because
    MLflow draws no folded runs.
    """

    def logged(kind: str) -> set[str]:
        return {k for run in runs if run.data.tags.get("kind") == kind for k in run.data.metrics}

    last = {GRIDS: 0}  # step of each kind of image
    for run in runs:
        for name, steps in drawn(json.loads(run.data.tags.get(FILES, "{}"))).items():
            last[name] = max(last.get(name, 0), *steps)
    claimed = sorted(logged("reference"))
    curves = sorted(k for k in logged("run") - {*claimed} if not k.startswith("system/"))
    sections: dict[str, list[dict]] = {
        "Claims": [_line(name, runs) for name in claimed],
        "Samples": [_images(GRIDS, last[GRIDS])],
        "Pictures": [_images(name, last[name]) for name in sorted(last.keys() - {GRIDS})],
        "Curves": [_line(name, runs) for name in curves],
    }
    charts = [
        {
            "uuid": f"{section} {i}",
            "metricSectionId": section,
            "runsCountToCompare": 20,
            "deleted": False,
            "isGenerated": False,
        }
        | chart
        for section, members in sections.items()
        for i, chart in enumerate(members)
    ]
    columns = [*(f"tags.`{name}`" for name in COLUMNS), *(f"metrics.`{m}`" for m in claimed)]
    flat = what == "charts"
    return {
        "searchFilter": "tags.kind != 'cell'" if flat else "",
        "orderByKey": "tags.`mlflow.runName`" if flat else "attributes.start_time",
        "orderByAsc": flat,
        "selectedColumns": columns,
        "columnOrder": ["attributes.`Run Name`", *columns],
        "columnWidths": {"attributes.`Run Name`": 400},
        "runsHiddenMode": "SHOWALL" if len(runs) <= MANY else "FIRST_20_RUNS",
        "compareRunCharts": charts,
        "compareRunSections": [
            {"uuid": name, "name": name, "display": True, "isReordered": True}
            | ({} if name == "Curves" else {"columns": 1, "cardHeight": 460})
            for name in sections
            if sections[name] or name != "Pictures"
        ],
        "isAccordionReordered": True,
    }


def _images(name: str, step: int) -> dict[str, Any]:
    return {"type": "IMAGE", "imageKeys": [name], "step": step, "showRunParams": False}


def _line(name: str, runs: list) -> dict[str, Any]:
    positive = all(run.data.metrics.get(name, 1) > 0 for run in runs)
    return {
        "type": "LINE",
        "metricKey": name,
        "selectedMetricKeys": [name],
        "displayName": name,
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "scaleType": "log" if positive else "linear",
        "xAxisScaleType": "linear",
        "lineSmoothness": 0,
        "range": {},
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def _open(server: str, places: dict[str, str], browse: bool) -> None:
    for what, place in places.items():
        print(f"{what}: {server}{place}", flush=True)
    seen = sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    if browse and seen and sys.stdout.isatty():
        webbrowser.open(server + next(iter(places.values())))


# --- a server of one's own


@contextlib.contextmanager
def _server(uri: str, port: int | None) -> Iterator[tuple[str, subprocess.Popen]]:
    """Serves a database on loopback, and ends the server with all of its workers.

    Raises:
        UserError: the port is taken, or the server does not come up.
    """
    port = _free(port)
    folder = (tracking.database(uri) or Path("mlflow.db").resolve()).parent
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", uri,
        "--artifacts-destination", str(folder / "mlartifacts"),
    ]  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    environment = (
        tracking.ENVIRONMENT | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | os.environ
    )
    numbers = (signal.SIGTERM, signal.SIGHUP)  # the second when a terminal is closed
    before = {n: signal.signal(n, lambda number, _: sys.exit(128 + number)) for n in numbers}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            _healthy(address, process, log)
            yield address, process
        finally:
            _end(process)
            for number, handler in before.items():
                signal.signal(number, handler)


def _free(port: int | None) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port or 0))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "ports go from 1 to 65535"
            raise UserError(
                f"Port {port} cannot be used: {reason}. Give another --port, or none."
            ) from error
        return probe.getsockname()[1]


def _healthy(address: str, process: subprocess.Popen, log: Any) -> None:
    deadline = time.monotonic() + START
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{address}/health", timeout=5)
            return
        late = time.monotonic() > deadline
        if process.poll() is not None or late:
            log.seek(0)
            last = (log.read().strip().splitlines() or ["it said nothing"])[-1]
            how = f"did not answer within {START:.0f} s" if late else "did not start"
            raise UserError(f"MLflow's server {how}: {last[:300]}")
        time.sleep(0.2)


def _end(process: subprocess.Popen) -> None:
    """The server and its workers, a process group; the second signal is for those it left."""
    for number, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)

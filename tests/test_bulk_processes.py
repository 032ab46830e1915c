"""The same bytes on any number of devices and processes, on any executor and cluster."""

import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import bulk_jobs
import pytest
from bulk_jobs import content
from subprocesses import run_python

pytestmark = pytest.mark.slow
HERE = pathlib.Path(__file__).parent


QUICK = {"initializer": bulk_jobs.compile_quickly}


def in_subprocess(code, **environment):
    run_python(f"import bulk_jobs; bulk_jobs.compile_quickly(); {code}", **environment)


def devices(count):
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    in_subprocess(f"bulk_jobs.generate_all({str(folder)!r})", **devices(1))
    return content(folder)


@pytest.mark.parametrize("count", [2, 8])
def test_any_number_of_devices(count, on_one_device, tmp_path):
    in_subprocess(f"bulk_jobs.generate_all({str(tmp_path)!r})", **devices(count))
    assert content(tmp_path) == on_one_device


def test_two_processes_and_shards(on_one_device, tmp_path):
    def shard(i):
        in_subprocess(f"bulk_jobs.generate_all({str(tmp_path)!r}, shard=({i}, 2))", **devices(1))

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(shard, range(2)))
    assert content(tmp_path) == on_one_device


def test_a_pool_of_processes(on_one_device, tmp_path):
    with concurrent.futures.ProcessPoolExecutor(2, bulk_jobs.context(), **QUICK) as pool:
        bulk_jobs.generate_all(tmp_path, executor=pool)
    assert content(tmp_path) == on_one_device


def test_loky(on_one_device, tmp_path):
    loky = pytest.importorskip("loky")
    with loky.ProcessPoolExecutor(2, **QUICK) as pool:
        bulk_jobs.generate_all(tmp_path, executor=pool)
    assert content(tmp_path) == on_one_device


def test_mpi(on_one_device, tmp_path):
    pytest.importorskip("mpi4py")
    found = shutil.which(
        "mpiexec", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    if found is None:
        pytest.skip("needs mpiexec")
    script = tmp_path / "script.py"
    script.write_text(MPI_SCRIPT.format(folder=str(tmp_path / "events")))
    (tmp_path / "events").mkdir()
    command = [found, "-n", "3", sys.executable, "-m", "mpi4py.futures", str(script)]
    environment = {**os.environ, **devices(1), "PYTHONPATH": str(HERE), "JAX_PLATFORMS": "cpu"}
    subprocess.run(command, check=True, timeout=600, env=environment)
    assert content(tmp_path / "events") == on_one_device


MPI_SCRIPT = """
import bulk_jobs
from mpi4py.futures import MPIPoolExecutor

if __name__ == "__main__":
    bulk_jobs.compile_quickly()
    with MPIPoolExecutor(initializer=bulk_jobs.compile_quickly) as pool:
        bulk_jobs.generate_all({folder!r}, executor=pool)
"""


def dask_worker(address, name):
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--name", name,
               "--nthreads", "1", "--no-dashboard", "--no-nanny"]  # fmt: skip
    return subprocess.Popen(command, cwd=HERE, env={**os.environ, "JAX_PLATFORMS": "cpu"},
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip


def test_a_worker_of_a_dask_cluster_is_killed_and_another_added(tmp_path):
    distributed = pytest.importorskip("distributed")
    bulk_jobs.generate(tmp_path / "alone")
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        workers = [dask_worker(cluster.scheduler_address, name) for name in ("one", "two")]
        client.wait_for_workers(2, timeout=120)
        # pauses make the run long enough
        client.run(bulk_jobs.pause_in_blocks, 0.3)

        def replace_a_worker():
            while not list((tmp_path / "events").glob("block*")):
                time.sleep(0.05)
            workers[0].kill()
            workers.append(dask_worker(cluster.scheduler_address, "three"))

        killer = threading.Thread(target=replace_a_worker)
        killer.start()
        bulk_jobs.generate(tmp_path / "events", executor=client.get_executor())
        killer.join()
        client.wait_for_workers(2, timeout=120)
        for worker in workers:
            worker.kill()
            worker.wait()
    assert content(tmp_path / "events") == content(tmp_path / "alone")

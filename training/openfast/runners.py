"""Where jobs run: here, in processes, or on a Ray cluster. Results come in the order of the jobs.

Only a few jobs are under way at a time, so results never pile up before a slow consumer.
"""

from __future__ import annotations

import multiprocessing
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from edge.errors import one_line
from training.errors import TrainingError
from training.openfast.errors import OpenFastError

_AHEAD = 2  # jobs under way per worker
_CONNECT_S = 5.0
Job = TypeVar("Job")
Result = TypeVar("Result")


class Runner(Protocol):
    """Applies a function of a module to each job."""

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield the results in order; an error of a job is raised here."""
        ...


@contextmanager
def open_runner(workers: int, ray_address: str | None) -> Iterator[Runner]:
    """Give what jobs run on: a Ray cluster when it has an address, `workers` processes otherwise.

    One worker is this process. Raises OpenFastError when the cluster does not answer.
    """
    if ray_address is not None:
        with _ray(ray_address) as runner:
            yield runner
    elif workers == 1:
        yield InThisProcess()
    else:
        context = multiprocessing.get_context("spawn")  # libraries here have threads: no fork
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            try:
                yield InProcesses(pool, workers)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


class InThisProcess:
    """Runs a job when its result is asked for."""

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        return map(function, jobs)


class InProcesses:
    """Runs jobs in a pool of processes."""

    def __init__(self, pool: ProcessPoolExecutor, workers: int) -> None:
        self._pool = pool
        self._ahead = _AHEAD * workers

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        try:
            yield from _in_order(
                lambda job: self._pool.submit(function, job),
                lambda future: future.result(),
                jobs,
                self._ahead,
            )
        except BrokenProcessPool:
            raise OpenFastError(
                "a worker process was killed, by lack of memory perhaps; use fewer --workers"
            ) from None


class OnRay:
    """Runs jobs on a Ray cluster whose machines see the same folders."""

    def __init__(self, ray: Any, cpus: int) -> None:
        self._ray = ray
        self._ahead = _AHEAD * cpus

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        remote = self._ray.remote(_call).options(num_cpus=1)
        yield from _in_order(
            lambda job: remote.remote(function, job), self._result, jobs, self._ahead
        )

    def _result(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, TrainingError):
                raise error.cause from None
            if isinstance(error.cause, self._ray.exceptions.RayError):
                problem = str(error.cause).partition("\n")[0]
                raise OpenFastError(
                    f"the Ray cluster cannot run a job: {problem}; install this package on its "
                    "machines"
                ) from None
            raise
        except self._ray.exceptions.RayError as error:
            raise OpenFastError(f"the Ray cluster failed: {one_line(error)}") from None


def _call(function: Callable[[Job], Result], job: Job) -> Result:
    return function(job)


def _in_order(
    submit: Callable[[Job], Any], result: Callable[[Any], Result], jobs: Iterable[Job], ahead: int
) -> Iterator[Result]:
    waiting: deque[Any] = deque()
    for job in jobs:
        waiting.append(submit(job))
        if len(waiting) >= ahead:
            yield result(waiting.popleft())
    while waiting:
        yield result(waiting.popleft())


@contextmanager
def _ray(address: str) -> Iterator[OnRay]:
    try:
        import ray
    except ImportError:
        raise OpenFastError("--ray needs Ray, which is not installed; use --workers") from None
    _refuse_silent(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise OpenFastError(
            f"no Ray cluster at {address}: {one_line(error)}; one that asks for a token needs the "
            "same RAY_AUTH_TOKEN here"
        ) from None
    try:
        yield OnRay(ray, max(1, int(ray.cluster_resources().get("CPU", 1))))
    finally:
        ray.shutdown()


def _refuse_silent(address: str) -> None:
    """Try a HOST:PORT for a moment; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # a word that Ray knows, as "auto"
    try:
        socket.create_connection((host, int(port)), _CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise OpenFastError(
            f"no Ray cluster at {address}: {one_line(error)}; start one with 'ray start --head'"
        ) from None

"""A discrete-event simulation (SimPy) of one server: workers, threads, batches, the bound on what is in work.

What it is made of is in the code of the service: `app/server/gunicorn_worker.py` (connections belong to workers),
`app/api/request/places.py` (so many in work, then 503 after a pause) and `app/pipeline/batch.py` (who leads, what a
batch waits for).
What each step costs is measured (`benchmarks/capacity.py`); no cost is fitted to the loads that the simulation is
compared with.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

from app.api.request.observation import REFUSAL_DELAY_S
from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.manifest.model_manifest import read_manifest
from app.pipeline.batch import RECENT_S

MODEL = "pcam-classification"
BATCH = read_manifest(PROJECT_ROOT / "models" / MODEL / "1.1").batch

Steps = Generator[simpy.Event, Any, Any]


@dataclass(frozen=True)
class Costs:
    """What the steps cost, measured.

    Attributes:
        before_s: CPU time of a request before decoding: reading, routing, password.
        decode_s: CPU time of decoding.
        after_s: CPU time from the scores to the last byte.
        caller_s: what else passes of a request's time: the caller's own work on the same cores, and waking up.
        inference_s: time of a batch by the number of its pictures, from one on.
        change_s: what is added for a batch of another size than the one before: the engine prepares itself anew.
        beside: how much slower a core is while the other works too.
        noise: factors by which single requests were slower or quicker than their mean on an idle server.
    """

    before_s: float
    decode_s: float
    after_s: float
    caller_s: float
    inference_s: Sequence[float]
    change_s: Sequence[float]
    beside: float
    noise: Sequence[float]


class Cores:
    """Cores that share their time among all that runs, as the kernel does.

    Args:
        env: the simulation.
        count: how many cores.
        beside: how much slower each is while more than one works.
    """

    def __init__(self, env: simpy.Environment, count: int, beside: float) -> None:
        self._env, self._count, self._beside = env, count, beside
        self._served = 0.0  # seconds of work that each runner has had since the start
        self._looked_at = 0.0
        self._running: list[tuple[float, int, simpy.Event]] = []
        self._number = self._round = 0

    def work(self, seconds: float) -> simpy.Event:
        """An event that comes when so many seconds of work are done."""
        self._catch_up()
        done, self._number = self._env.event(), self._number + 1
        heapq.heappush(self._running, (self._served + seconds, self._number, done))
        self._plan()
        return done

    def _speed(self) -> float:
        """Work that each runner gets in a second."""
        runners = len(self._running)
        return 1.0 if runners <= 1 else min(1.0, self._count / runners) / self._beside

    def _catch_up(self) -> None:
        self._served += (self._env.now - self._looked_at) * self._speed()
        self._looked_at = self._env.now

    def _plan(self) -> None:
        """Look again when the first of the runners will be done."""
        self._round += 1
        if self._running:
            wait = self._env.timeout(max(0.0, self._running[0][0] - self._served) / self._speed(), self._round)
            wait.callbacks.append(self._look)

    def _look(self, event: simpy.Event) -> None:
        if event.value != self._round:  # something came in between
            return
        self._catch_up()
        done = heapq.heappop(self._running)[2]
        self._plan()
        done.succeed()


@dataclass
class Job:
    """A request in the queue before the engine."""

    leads: simpy.Event
    done: simpy.Event


class Worker:
    """One process: a lock that its threads share (Python's), one engine, one queue."""

    def __init__(self, env: simpy.Environment, cores: Cores, costs: Costs, places: int) -> None:
        self._env, self._cores, self._costs = env, cores, costs
        self._places = places
        self._interpreter = simpy.Resource(env)
        self._in_work = self._arriving = 0
        self._jobs: deque[Job] = deque()
        self._is_led = False
        self._last_load, self._last_ended = 1, -math.inf
        self._came = env.event()
        self.batches: list[int] = []

    def serve(self, noise: float) -> Steps:
        """Answer a request; returns whether it was answered, and not refused."""
        if self._in_work >= self._places:
            yield self._env.timeout(REFUSAL_DELAY_S)
            return False
        self._in_work += 1
        yield self._cores.work(self._costs.caller_s * noise)
        yield from self._run_python(self._costs.before_s * noise)
        self._arriving += 1
        yield self._cores.work(self._costs.decode_s * noise)  # the decoder lets other threads run
        self._arriving -= 1
        job = Job(self._env.event(), self._env.event())
        self._jobs.append(job)
        self._tell()
        if not self._is_led:
            self._is_led = True
            job.leads.succeed()
        yield job.leads | job.done
        if not job.done.triggered:
            yield from self._lead(noise)
        yield from self._run_python(self._costs.after_s * noise)
        self._in_work -= 1
        return True

    def _run_python(self, seconds: float) -> Steps:
        """Run code that only one thread of the process can run at a time."""
        with self._interpreter.request() as turn:
            yield turn
            yield self._cores.work(seconds)

    def _tell(self) -> None:
        came, self._came = self._came, self._env.event()
        came.succeed()

    def _is_complete(self) -> bool:
        if len(self._jobs) >= BATCH.max_size:
            return True
        is_recent = self._env.now - self._last_ended < RECENT_S
        return not self._arriving and (not is_recent or len(self._jobs) >= self._last_load)

    def _lead(self, noise: float) -> Steps:
        """Run the next batch, then hand on the lead."""
        late = self._env.timeout(BATCH.max_delay_ms / 1000)
        while not self._is_complete() and not late.processed:
            yield self._came | late
        batch = [self._jobs.popleft() for _ in range(min(len(self._jobs), BATCH.max_size))]
        size, is_change = len(batch), not self.batches or self.batches[-1] != len(batch)
        self.batches.append(size)
        cost_s = self._costs.inference_s[size - 1] + (self._costs.change_s[size - 1] if is_change else 0.0)
        yield self._cores.work(cost_s * noise)
        for job in batch:
            job.done.succeed()
        self._last_load = len(batch) + len(self._jobs) + self._arriving
        self._last_ended = self._env.now
        self._is_led = bool(self._jobs)
        if self._jobs:
            self._jobs[0].leads.succeed()


@dataclass
class Simulated:
    """What came of a simulated load: waiting times in order, refusals, sizes of the batches."""

    waits_s: list[float] = field(default_factory=list)
    refused: int = 0
    batches: list[int] = field(default_factory=list)


class Server:
    """Workers on the cores of one machine, and the connections that callers hold to them."""

    def __init__(self, costs: Costs, connections: Sequence[int], seed: int, cores: int) -> None:
        self._env = simpy.Environment()
        self._chance = random.Random(seed)
        self._noise = costs.noise
        settings = Settings()
        places = settings.queue_size + BATCH.max_size
        shared = Cores(self._env, cores, costs.beside)
        self._workers = [Worker(self._env, shared, costs, places) for _ in connections]
        self._idle = [worker for worker, count in zip(self._workers, connections, strict=True) for _ in range(count)]
        self._seen = Simulated()

    def run(self, rate_per_s: float, requests: int) -> Simulated:
        """Have so many requests arrive at random, at this mean rate, each on any idle connection."""
        self._env.process(self._arrive(rate_per_s, requests))
        self._env.run()
        self._seen.waits_s.sort()
        self._seen.batches = [size for worker in self._workers for size in worker.batches]
        return self._seen

    def run_closed(self, callers: int, seconds: float) -> float:
        """Have so many callers send one request after the other; returns answers a second."""
        for _ in range(callers):
            self._env.process(self._repeat())
        self._env.run(until=seconds)
        return len(self._seen.waits_s) / seconds

    def _repeat(self) -> Steps:
        while True:
            yield self._env.process(self._call())

    def _arrive(self, rate_per_s: float, requests: int) -> Steps:
        for _ in range(requests):
            yield self._env.timeout(self._chance.expovariate(rate_per_s))
            self._env.process(self._call())

    def _call(self) -> Steps:
        if not self._idle:  # every connection is in use: the caller opens one more
            worker = self._chance.choice(self._workers)
        else:
            place = self._chance.randrange(len(self._idle))
            self._idle[place], self._idle[-1] = self._idle[-1], self._idle[place]
            worker = self._idle.pop()
        began = self._env.now
        if (yield self._env.process(worker.serve(self._chance.choice(self._noise)))):
            self._seen.waits_s.append(self._env.now - began)
        else:
            self._seen.refused += 1
        self._idle.append(worker)

"Runs that are handed to a cluster, as many as ten thousand."
import contextlib
import io
import logging
import tempfile
import time
from pathlib import Path

from distributed import LocalCluster

from hyperiqa_nb.runs import Cluster, ClusterRuns, connect, read_table, run_plan


def imitated(job):
    "What a worker sends of a run that is not done."
    row = {name: str(value) for name, value in job['parameters'].items()}
    return {'files': {}, 'record': {
        'runs': row | {'run_id': job['run_id'], 'variant': job['variant'], 'numerics': '2', 'images': 'test=1'},
        'curves': {'epoch': ['1'], 'loss': ['9.5']},
        'metrics': {'split': ['test'], 'test_crops': ['center'], 'metric': ['srcc'], 'value': ['0.8']},
        'predictions': {'part': ['test'], 'image': ['a.png'], 'prediction': ['61.0']}}}


def machines(count):
    "Plans of imitated runs, each ten times the last, through a local cluster: none is lost, and each costs the same."
    counts, said = [n for n in (10, 100, 1000, 10_000) if n < count] + [count], []
    with tempfile.TemporaryDirectory() as name, LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address='127.0.0.1:0', local_directory=f'{name}/scratch',
            silence_logs=logging.CRITICAL) as local:
        for n in counts:
            plan, start = Path(name)/f'plan{n}.csv', time.perf_counter()
            plan.write_text('variant, dataset, seed\n' + ''.join(f'base, livec, {seed}\n' for seed in range(n)))
            executor = ClusterRuns(Cluster(connect(local.scheduler_address)), imitated)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                assert not run_plan(plan, Path(name)/f'{n}', executor=executor)
            assert read_table(Path(name)/f'{n}', 'runs').seed.nunique() == n
            said.append(f"{n:,} in {time.perf_counter() - start:,.0f} s")
    return 'runs through a local cluster: ' + ', '.join(said)

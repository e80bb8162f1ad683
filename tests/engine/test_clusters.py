"""What each launcher sets, as its documentation gives it, is told apart; what is set by halves is refused in words."""

import dataclasses

import pytest

from semiseg_jax.engine.clusters import Cluster, ClusterError, cluster_from, left_alone, own_devices

# srun -N2 --ntasks-per-node=1, the second task
SLURM = {
    "SLURM_JOB_ID": "70000",
    "SLURM_JOBID": "70000",
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_JOB_NODELIST": "gpu[007-008]",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[007-008]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_GPUS_ON_NODE": "4",
    "CUDA_VISIBLE_DEVICES": "0,1,2,3",
}
# A shell of salloc -n8, which is a step of its own with one task (Slurm's interactive step)
SHELL = SLURM | {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1",
                 "SLURM_STEP_NODELIST": "gpu007", "SLURM_PROCID": "0", "SLURM_NODEID": "0"}  # fmt: skip
# The script of sbatch -N2 -n4, before any srun
BATCH = {
    "SLURM_JOB_ID": "70000", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "gpu[007-008]", "SLURM_NTASKS": "4",
    "SLURM_TASKS_PER_NODE": "2(x2)", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
}  # fmt: skip
OPEN_MPI_4 = {
    "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_UNIVERSE_SIZE": "4",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1,10.108.0.1:34911",
}  # fmt: skip
OPEN_MPI_5 = {
    "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1", "PRTE_LAUNCHED": "1", "PMIX_NAMESPACE": "prterun-node1-4099@1",
    "PMIX_SERVER_URI41": "prterun-node1-4099@0.0;tcp4://127.0.0.1:40123",
}  # fmt: skip
TORCHRUN = {
    "MASTER_ADDR": "10.0.0.5", "MASTER_PORT": "29500", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1", "TORCHELASTIC_RUN_ID": "none",
}  # fmt: skip
PYTORCH_JOB = {"MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456", "WORLD_SIZE": "3", "RANK": "2"}
SKYPILOT = {
    "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.1.0.2\n10.1.0.3\n", "SKYPILOT_NUM_NODES": "2",
    "SKYPILOT_NUM_GPUS_PER_NODE": "8", "SKYPILOT_TASK_ID": "sky-2024-01-01",
}  # fmt: skip
JOBSET = {
    "JOBSET_NAME": "seg", "REPLICATED_JOB_NAME": "workers", "JOB_COMPLETION_INDEX": "2", "NUM_PROCESSES": "4",
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
}  # fmt: skip
KUBEFLOW = {"JAX_COORDINATOR_ADDRESS": "job-node-0-0.job:1234", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
GKE_TPU = {
    "TPU_WORKER_HOSTNAMES": "seg-slice-0-0.seg,seg-slice-0-1.seg,seg-slice-0-2.seg,seg-slice-0-3.seg",
    "TPU_WORKER_ID": "3", "TPU_ACCELERATOR_TYPE": "v5litepod-16", "JOB_COMPLETION_INDEX": "3",
}  # fmt: skip
MULTISLICE = GKE_TPU | {
    "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "seg-slice-0-0.seg:8081",
}  # fmt: skip

FOUND = {
    "srun, one task a node": (SLURM, Cluster("Slurm", "gpu007:61808", 2, 1)),
    "srun, tasks share a node": (
        SLURM | {"SLURM_STEP_NUM_TASKS": "5", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1", "SLURM_PROCID": "3",
                 "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "rack[1-2,7]node[03-04]-ib,big1"},
        Cluster("Slurm", "rack1node03-ib:61808", 5, 3, 2, 1),
    ),
    "srun --gpus-per-task=1": (
        SLURM | {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_LOCALID": "1",
                 "SLURM_GPUS_PER_TASK": "1", "CUDA_VISIBLE_DEVICES": "0"},
        Cluster("Slurm", "gpu007:61808", 4, 1, 2, 1, own_devices=True),
    ),
    "srun --gpu-bind=closest": (
        SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NODEID": "0", "CUDA_VISIBLE_DEVICES": "2,3"},
        Cluster("Slurm", "gpu007:61808", 2, 1, 2, 0, own_devices=True),
    ),
    "a shell of salloc": (SHELL, None),
    "srun --pty, one task": (SHELL | {"SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}, None),
    "the script of sbatch": (BATCH, None),
    "mpirun of Open MPI 4": (OPEN_MPI_4, Cluster("Open MPI", "10.96.0.1:62624", 4, 3, 2, 1)),
    "mpirun over IPv6": (
        OPEN_MPI_4 | {"OMPI_MCA_orte_hnp_uri": "1314521088.0;tcp6://[fe80::b9b:ac5d:9cf0:b858,2620::2]:43370"},
        Cluster("Open MPI", "[fe80::b9b:ac5d:9cf0:b858]:62880", 4, 3, 2, 1),
    ),
    "mpirun of Open MPI 5": (OPEN_MPI_5, Cluster("Open MPI", "127.0.0.1:61443", 2, 1, 2, 1)),
    "Open MPI 5 on two nodes, with an address": (
        OPEN_MPI_5 | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0",
                      "JAX_COORDINATOR_ADDRESS": "node1:8476"},
        Cluster("Open MPI", "node1:8476", 2, 1),
    ),
    "mpirun within Slurm": (BATCH | OPEN_MPI_4, Cluster("Open MPI", "10.96.0.1:62624", 4, 3, 2, 1)),
    "torchrun": (TORCHRUN, Cluster("torchrun", "10.0.0.5:29501", 8, 5, 4, 1)),
    "torchrun in a task of srun": (SLURM | TORCHRUN, Cluster("torchrun", "10.0.0.5:29501", 8, 5, 4, 1)),
    "Kubeflow's PyTorchJob": (PYTORCH_JOB, Cluster("torchrun", "job-master-0:23456", 3, 2)),
    "deepspeed, which tells no number a machine": (
        PYTORCH_JOB | {"LOCAL_RANK": "2"}, Cluster("torchrun", "job-master-0:23456", 3, 2, 0, 2)
    ),
    "torch variables of one process": ({"WORLD_SIZE": "1", "RANK": "0"}, None),
    "an address for what comes later": ({"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}, None),
    "srun, with an address for torch": (
        SLURM | {"MASTER_ADDR": "gpu007", "MASTER_PORT": "29500", "WORLD_SIZE": "8"},
        Cluster("Slurm", "gpu007:61808", 2, 1),
    ),
    "SkyPilot": (SKYPILOT, Cluster("SkyPilot", "10.1.0.2:8476", 2, 1)),
    "SkyPilot, one node": (
        SKYPILOT | {"SKYPILOT_NODE_RANK": "0", "SKYPILOT_NODE_IPS": "10.1.0.2", "SKYPILOT_NUM_NODES": "1"}, None
    ),
    "torchrun by SkyPilot": (SKYPILOT | TORCHRUN, Cluster("torchrun", "10.0.0.5:29501", 8, 5, 4, 1)),
    "a JobSet": (JOBSET, Cluster("JobSet", "seg-workers-0-0.seg:8476", 4, 2)),
    "a JobSet of two jobs": (
        JOBSET | {"REPLICATED_JOB_REPLICAS": "2", "JOB_INDEX": "1", "JOB_COMPLETION_INDEX": "1"},
        Cluster("JobSet", "seg-workers-0-0.seg:8476", 4, 3),
    ),
    "an indexed Job of runs of their own": ({"JOB_COMPLETION_INDEX": "3"}, None),
    "Kubeflow's trainer": (KUBEFLOW, Cluster("JAX", "job-node-0-0.job:1234", 2, 1)),
    "a TPU slice on GKE": (GKE_TPU, Cluster("TPU", "seg-slice-0-0.seg:8476", 4, 3, own_devices=True)),
    "two TPU slices on GKE": (MULTISLICE, Cluster("TPU", "seg-slice-0-0.seg:8476", 8, 7, own_devices=True)),
    "one TPU host": ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
    "a JobSet of a TPU slice": (
        JOBSET | GKE_TPU, Cluster("TPU", "seg-slice-0-0.seg:8476", 4, 3, own_devices=True)
    ),
    "another port": (SLURM | {"JAX_COORDINATOR_PORT": "1234"}, Cluster("Slurm", "gpu007:1234", 2, 1)),
    "another address": (SLURM | {"JAX_COORDINATOR_ADDRESS": "10.0.0.9"}, Cluster("Slurm", "10.0.0.9:8476", 2, 1)),
    "nothing": ({"HOME": "/home/me", "PATH": "/bin"}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_what_a_launcher_sets_is_understood(name):
    environ, expected = FOUND[name]
    assert cluster_from(environ) == expected


def without(environ: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name not in names}


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        (without(SLURM, "SLURM_STEP_NODELIST"), "Slurm started several processes, but SLURM_STEP_NODELIST is missing"),
        (SLURM | {"SLURM_PROCID": "two"}, "SLURM_PROCID is 'two' but must be a whole number"),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1"}, "SLURM_NODEID is 1, but SLURM_STEP_TASKS_PER_NODE=1"),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "one"}, "must be such as 2"),
        (SLURM | {"SLURM_PROCID": "2"}, "this is process 2 of 2, but they are counted from 0"),
        (without(TORCHRUN, "RANK"), "torchrun started several processes, but RANK is missing beside WORLD_SIZE"),
        (without(TORCHRUN, "MASTER_ADDR", "MASTER_PORT"), "MASTER_ADDR, MASTER_PORT is missing"),
        (without(SKYPILOT, "SKYPILOT_NODE_IPS"), "SKYPILOT_NODE_IPS is missing beside SKYPILOT_NODE_RANK"),
        (SKYPILOT | {"SKYPILOT_NUM_NODES": "3"}, "SKYPILOT_NUM_NODES is 3, but SKYPILOT_NODE_IPS has 2 addresses"),
        (without(JOBSET, "NUM_PROCESSES"), "NUM_PROCESSES, the number of its pods, is missing"),
        (without(JOBSET, "JOB_COMPLETION_INDEX"), "JOB_COMPLETION_INDEX is missing"),
        (without(KUBEFLOW, "JAX_PROCESS_ID"), "JAX_PROCESS_ID is missing beside JAX_COORDINATOR_ADDRESS"),
        (without(GKE_TPU, "TPU_WORKER_ID"), "TPU_WORKER_ID is missing"),
        (without(OPEN_MPI_4, "OMPI_COMM_WORLD_LOCAL_SIZE"), "OMPI_COMM_WORLD_LOCAL_SIZE is missing"),
        (OPEN_MPI_5 | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "mpirun -x JAX_COORDINATOR_ADDRESS=HOST:8476"),
        (BATCH | {"WORLD_SIZE": "8", "MASTER_ADDR": "gpu007"}, "RANK, MASTER_PORT is missing"),
    ],
)
def test_variables_that_are_set_by_halves_are_named(environ, said):
    with pytest.raises(ClusterError, match=said):
        cluster_from(environ)


@pytest.mark.parametrize(
    ("environ", "said"),
    [(SHELL, "8 tasks on 2 machine"), (BATCH, "4 tasks on 2 machine"), ({}, ""),
     (SHELL | {"SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}, "")],
)  # fmt: skip
def test_tasks_that_one_process_leaves_unused_are_warned_of(environ, said):
    assert said in left_alone(environ)
    assert bool(said) == ("srun" in left_alone(environ))


@pytest.mark.parametrize(
    ("on_machine", "local", "visible", "expected"),
    [(1, 0, 8, None), (4, 1, 4, [1]), (2, 1, 8, [4, 5, 6, 7]), (4, 3, 1, None), (0, 2, 8, [2]), (4, 0, 0, None)],
)
def test_no_gpu_stays_unused_and_none_is_used_twice(on_machine, local, visible, expected):
    cluster = Cluster("Slurm", "node:1", 8, 0, on_machine, local)
    assert own_devices(cluster, visible) == expected
    assert own_devices(dataclasses.replace(cluster, own_devices=True), visible) is None


def test_gpus_that_processes_cannot_share_evenly_are_refused():
    with pytest.raises(ClusterError, match=r"4 processes share the 6 GPUs .* start 1, 2, 3, 6 processes on each"):
        own_devices(Cluster("Slurm", "node:1", 4, 0, 4, 0), 6)

"""Which launcher started this process together with others, told from the variables that it set.

Launchers say the same in words of their own: how many processes there are, which one this is, where the first one can
be reached, and how many share a machine. `JAX_COORDINATOR_ADDRESS` and `JAX_COORDINATOR_PORT`, which JAX reads too, go
before what a launcher says. TPU VMs outside of Kubernetes set no variables: JAX asks their metadata server.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

Environ = Mapping[str, str]

PORT = 8476  # of the first process, where a launcher names none
_LAST_PORTS = 4096  # the highest ports, of which a job gets one by its number
ALONE = "or --config.distributed.enabled=no lets this process run alone"


class ClusterError(ValueError):
    """A launcher's variables are set by halves, or cannot be."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of a run, and which of them this one is."""

    launcher: str
    coordinator: str  # HOST:PORT of the first process
    processes: int
    process: int
    on_machine: int = 1  # processes that share this machine; 0 = not known
    local: int = 0  # which of those this is
    own_devices: bool = False  # it sees no other's devices

    def __post_init__(self) -> None:
        if not 0 <= self.process < self.processes:
            raise ClusterError(
                f"{self.launcher}: this is process {self.process} of {self.processes}, but they are counted from 0"
            )
        if not re.fullmatch(r".+:\d+", self.coordinator):
            raise ClusterError(
                f"{self.launcher}: the first process is at {self.coordinator!r}, which must be HOST:PORT"
            )


def cluster_from(environ: Environ) -> Cluster | None:
    """The cluster that this process belongs to; None where it is alone.

    Raises `ClusterError` for variables that are set by halves, if no other launcher has set its own.
    """
    problems: list[ClusterError] = []
    for detect in LAUNCHERS:
        try:
            found = detect(environ)
            if found is not None and found.processes > 1:
                return dataclasses.replace(found, coordinator=_address(environ, found.coordinator))
        except ClusterError as error:
            problems.append(error)
    if problems:
        raise problems[0]
    return None


def left_alone(environ: Environ) -> str:
    """What is there beside this one process, of which it makes no use; "" where nothing is."""
    tasks, nodes = (_number(environ, name, 1) for name in ("SLURM_NTASKS", "SLURM_JOB_NUM_NODES"))
    if "SLURM_JOB_ID" not in environ or max(tasks, nodes) < 2:
        return ""
    return (
        f"Slurm gave this job {max(tasks, nodes)} tasks on {nodes} machine(s), but this process was not started as one "
        "of them and works alone: `srun semiseg ...` starts them all"
    )


def own_devices(cluster: Cluster, visible: int) -> list[int] | None:
    """Which of the GPUs that a process sees are its own, so that none stays unused; None = all of them."""
    share, local = cluster.on_machine, cluster.local
    if not visible or share == 1 or cluster.own_devices or (share > 1 and visible == 1):
        return None
    if not share:  # processes that number themselves on their machine have one each
        return [local]
    if visible % share:
        even = ", ".join(str(n) for n in range(1, visible + 1) if visible % n == 0)
        raise ClusterError(
            f"{cluster.launcher}: {share} processes share the {visible} GPUs of this machine, and some would get more "
            f"than others; start {even} processes on each machine (1 uses all GPUs)"
        )
    each = visible // share
    return list(range(local * each, (local + 1) * each))


def _jax(environ: Environ) -> Cluster | None:
    """What Kubeflow's trainer sets, and people by hand."""
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    if not any(name in environ for name in names):
        return None
    _need(environ, "JAX", names)
    processes, process = (_number(environ, name) for name in names[1:])
    return Cluster("JAX", _address(environ, ""), processes, process, *place_of(environ))


def _torchrun(environ: Environ) -> Cluster | None:
    """torchrun, and the launchers that set the variables of torch.distributed."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if not any(name in environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")):
        return None  # MASTER_ADDR alone is often set for what comes later
    if environ.get("WORLD_SIZE") == "1":
        return None
    _need(environ, "torchrun", names)
    port = _number(environ, "MASTER_PORT")
    if "TORCHELASTIC_RUN_ID" in environ:  # torchrun itself listens at that port
        port += 1
    coordinator = f"{_host(environ['MASTER_ADDR'])}:{port}"
    processes, process = (_number(environ, name) for name in ("WORLD_SIZE", "RANK"))
    return Cluster("torchrun", coordinator, processes, process, *place_of(environ))


def place_of(environ: Environ) -> tuple[int, int]:
    """(processes on this machine, which of them this is), as torchrun says it; (1, 0) where it says nothing."""
    local = _number(environ, "LOCAL_RANK", -1)
    return (1, 0) if local < 0 else (_number(environ, "LOCAL_WORLD_SIZE", 0), local)


def _open_mpi(environ: Environ) -> Cluster | None:
    """Processes of mpirun, of Open MPI 4 and 5."""
    names = [f"OMPI_COMM_WORLD_{name}" for name in ("SIZE", "RANK", "LOCAL_SIZE", "LOCAL_RANK")]
    if not any(name in environ for name in names[:2]):
        return None
    _need(environ, "Open MPI", names)
    processes, process, on_machine, local = (_number(environ, name) for name in names)
    host, job = _of_mpirun(environ)
    if on_machine == processes:
        host = "127.0.0.1"
    if not host and "JAX_COORDINATOR_ADDRESS" not in environ:
        raise ClusterError(
            "Open MPI 5 does not tell processes on several machines where the first one runs: start them with "
            f"mpirun -x JAX_COORDINATOR_ADDRESS=HOST:{PORT}, HOST being the first machine"
        )
    return Cluster("Open MPI", f"{_host(host) or 'HOST'}:{_port_of(job)}", processes, process, on_machine, local)


def _of_mpirun(environ: Environ) -> tuple[str, int]:
    """(the machine that mpirun runs on, "" where it does not say so; a number that tells jobs apart)"""
    uri = environ.get("OMPI_MCA_orte_hnp_uri", "")  # 1531576320.0;tcp://10.96.0.1,10.148.0.1:34911
    found = re.match(r"(\d+)\.\d+;(?:tcp://([^,:]+)|tcp6://\[([^,\]]+))", uri)
    if found:
        return found[2] or found[3], int(found[1]) // _LAST_PORTS
    job = re.search(r"-(\d+)@", environ.get("PMIX_NAMESPACE", ""))  # prterun-HOST-1234@1
    return "", int(job[1]) if job else 0


def _slurm(environ: Environ) -> Cluster | None:
    """Tasks of srun. A shell in an allocation, and a batch script, are no such tasks but for one of their own."""
    tasks = _number(environ, "SLURM_STEP_NUM_TASKS", 1)
    if "SLURM_JOB_ID" not in environ or tasks < 2:
        return None
    names = ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
    _need(environ, "Slurm", (*names, "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE"))
    job, process, local, node = (_number(environ, name) for name in names)
    on_machines = _repeated(environ["SLURM_STEP_TASKS_PER_NODE"])
    if node >= len(on_machines):
        raise ClusterError(
            f"Slurm: SLURM_NODEID is {node}, but SLURM_STEP_TASKS_PER_NODE={environ['SLURM_STEP_TASKS_PER_NODE']} "
            f"speaks of {len(on_machines)} machine(s)"
        )
    coordinator = f"{_first_node(environ['SLURM_STEP_NODELIST'])}:{_port_of(job)}"
    seen = environ.get("CUDA_VISIBLE_DEVICES", "")
    own = (
        "SLURM_GPUS_PER_TASK" in environ
        or "gpu" in environ.get("SLURM_TRES_PER_TASK", "")
        or (seen != "" and len(seen.split(",")) < _number(environ, "SLURM_GPUS_ON_NODE", 0))
    )
    return Cluster("Slurm", coordinator, tasks, process, on_machines[node], local, own)


def _repeated(text: str) -> list[int]:
    """ "2(x3),1" -> [2, 2, 2, 1]"""
    found = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in text.split(",")]
    if not all(found):
        raise ClusterError(f"Slurm: SLURM_STEP_TASKS_PER_NODE is {text!r}, which must be such as 2(x3),1")
    return [int(part[1]) for part in found if part for _ in range(int(part[2] or 1))]


def _first_node(nodes: str) -> str:
    """ "gpu[003-004,7]-ib,big1" -> "gpu003-ib" """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0] if first else nodes)


def _tpu(environ: Environ) -> Cluster | None:
    """Hosts of a TPU slice, or of several, on GKE."""
    hosts = (environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES", "")).split(",")
    slices = _number(environ, "MEGASCALE_NUM_SLICES", 1)
    if len(hosts) * slices < 2 or not hosts[0]:
        return None
    needed = ["TPU_WORKER_ID"]
    if slices > 1:
        needed += ["MEGASCALE_SLICE_ID", "MEGASCALE_COORDINATOR_ADDRESS"]
    _need(environ, "TPU", needed)
    process = _number(environ, "TPU_WORKER_ID") + _number(environ, "MEGASCALE_SLICE_ID", 0) * len(hosts)
    first = environ.get("MEGASCALE_COORDINATOR_ADDRESS") or hosts[0]
    return Cluster("TPU", f"{first.partition(':')[0]}:{PORT}", len(hosts) * slices, process, own_devices=True)


def _skypilot(environ: Environ) -> Cluster | None:
    """One process on each node of a SkyPilot task."""
    names = ("SKYPILOT_NODE_RANK", "SKYPILOT_NODE_IPS")
    nodes = _number(environ, "SKYPILOT_NUM_NODES", 1)
    if nodes < 2 and not any(name in environ for name in names):
        return None
    _need(environ, "SkyPilot", names)
    addresses = environ["SKYPILOT_NODE_IPS"].split()
    if "SKYPILOT_NUM_NODES" in environ and len(addresses) != nodes:
        raise ClusterError(
            f"SkyPilot: SKYPILOT_NUM_NODES is {nodes}, but SKYPILOT_NODE_IPS has {len(addresses)} addresses"
        )
    return Cluster("SkyPilot", f"{_host(addresses[0])}:{PORT}", len(addresses), _number(environ, "SKYPILOT_NODE_RANK"))


def _jobset(environ: Environ) -> Cluster | None:
    """Pods of a Kubernetes JobSet, whose names come by its labels (the downward API), and their number from its author.

    An indexed Job alone may be as many runs of their own: it joins by the variables of `_jax`.
    """
    named = ("JOBSET_NAME", "REPLICATED_JOB_NAME")
    if not any(name in environ for name in named):
        return None
    _need(environ, "JobSet", (*named, "JOB_COMPLETION_INDEX"))
    counts = ("NUM_PROCESSES", "JAX_NUM_PROCESSES", "NNODES")
    count = next((name for name in counts if name in environ), "")
    if not count:
        raise ClusterError(
            f"JobSet: NUM_PROCESSES, the number of its pods, is missing; set it in the container's env, {ALONE}"
        )
    processes, jobs = _number(environ, count), _number(environ, "REPLICATED_JOB_REPLICAS", 1)
    if processes % jobs:
        raise ClusterError(f"JobSet: {count} is {processes}, which cannot be shared by {jobs} jobs of equal size")
    process = _number(environ, "JOB_INDEX", 0) * (processes // jobs) + _number(environ, "JOB_COMPLETION_INDEX")
    jobset = environ["JOBSET_NAME"]
    return Cluster("JobSet", f"{jobset}-{environ['REPLICATED_JOB_NAME']}-0-0.{jobset}:{PORT}", processes, process)


# In this order: a launcher may run within what another one gave, such as mpirun within a Slurm job.
LAUNCHERS: Sequence[Callable[[Environ], Cluster | None]] = (
    _jax, _open_mpi, _torchrun, _slurm, _tpu, _skypilot, _jobset,
)  # fmt: skip


def _address(environ: Environ, default: str) -> str:
    """Where the first process can be reached: as JAX is told, or as the launcher says."""
    address = environ.get("JAX_COORDINATOR_ADDRESS") or default
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        host, port = address, str(PORT)
    return f"{host}:{environ.get('JAX_COORDINATOR_PORT') or port}"


def _need(environ: Environ, launcher: str, names: Sequence[str]) -> None:
    missing = [name for name in names if not environ.get(name)]
    if missing:
        there = [name for name in names if name not in missing]
        known = f" beside {', '.join(there)}" if there else ""
        raise ClusterError(
            f"{launcher} started several processes, but {', '.join(missing)} is missing{known}; set what is missing in "
            f"each process, {ALONE}"
        )


def _number(environ: Environ, name: str, default: int | None = None) -> int:
    text = environ.get(name, "")
    if not text and default is not None:
        return default
    if not re.fullmatch(r"\d+", text):
        raise ClusterError(f"the variable {name} is {text!r} but must be a whole number")
    return int(text)


def _host(name: str) -> str:
    """An address of IP version 6 stands in brackets before its port."""
    return f"[{name}]" if ":" in name and not name.startswith("[") else name


def _port_of(job: int) -> int:
    """Two jobs on one machine hardly get the same."""
    return job % _LAST_PORTS + 65536 - _LAST_PORTS

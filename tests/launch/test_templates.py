"""The files of experiments/launch/: they parse, pass flags that exist, and set what the detection of clusters reads."""

import os
import re
import shutil
import string
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from semiseg_jax.cli import main
from semiseg_jax.config import default_config

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "experiments" / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
MANIFESTS = sorted(LAUNCH.glob("gke_*.yaml"))
FILES = sorted(path for path in LAUNCH.iterdir() if path.is_file())


def variables_of(path: Path) -> dict[str, str]:
    """NAME=VALUE of the command at the top of a manifest."""
    return dict(re.findall(r"\b([A-Z]+)=(\S+)", path.read_text().partition("\napiVersion")[0]))


def manifests(path: Path) -> list[dict]:
    return list(yaml.safe_load_all(string.Template(path.read_text()).substitute(variables_of(path))))


def job(path: Path) -> dict:
    (document,) = manifests(path)
    (replicated,) = document["spec"]["replicatedJobs"]
    assert document["kind"] == "JobSet"
    return replicated["template"]["spec"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_what_bash_understands(path):
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck:
        assert subprocess.run([shellcheck, str(path)]).returncode == 0


@pytest.mark.parametrize("path", [*MANIFESTS, LAUNCH / "skypilot.yaml"], ids=lambda path: path.name)
def test_manifests_are_yaml_and_their_variables_stand_at_the_top(path):
    documents = manifests(path) if path in MANIFESTS else [yaml.safe_load(path.read_text())]
    assert all(isinstance(document, dict) for document in documents)
    if path in MANIFESTS:
        used = set(re.findall(r"\$\{(\w+)\}", path.read_text()))
        assert used == variables_of(path).keys()
        assert all({"apiVersion", "kind", "metadata"} <= document.keys() for document in documents)


def test_every_flag_that_is_passed_exists(capsys):
    main(["train", "--help"])
    known = set(re.findall(r"--([a-z-]+):", capsys.readouterr().out)) | {"config"}
    fields = default_config()
    for path in FILES:
        text = path.read_text()
        passed = re.findall(r"(?:semiseg train|\[train,|printf ' %q'|-- train)(.*)", text)
        flags = {flag for line in passed for flag in re.findall(r"--([a-z][a-z-]*)=", line)}
        assert flags <= known, path.name
        for field in re.findall(r"--config\.([a-z_.]+)=", text):
            assert field in fields.to_dict() or eval(f"fields.{field}", {"fields": fields}) is not None, path.name
        if path.suffix in (".sh", ".yaml") and path.name != "gke_rbac.yaml":
            assert {"config", "workdir"} <= flags, path.name


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.Dockerfile")), ids=lambda path: path.name)
def test_images_copy_what_is_there_and_install_extras_that_exist(path):
    text = path.read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in re.findall(r"^COPY (.*)", text, re.MULTILINE):
        assert all((ROOT / source).exists() for source in line.split()[:-1])
    assert re.search(r'ENTRYPOINT \["(\w+)"\]', text)[1] in project["scripts"]
    if "gcs" not in project["optional-dependencies"]:
        pytest.skip("workdirs in stores are not part of this version")
    extras = re.search(r"ARG EXTRAS=(\S+)", text)[1].split(",")
    assert set(extras) <= project["optional-dependencies"].keys()


def test_no_address_of_a_repository_or_registry_is_invented():
    for path in FILES:
        assert not re.search(r"https?://|git\+|docker\.pkg|gcr\.io|ghcr\.io", path.read_text()), path.name


# What launchers set, and what the detection makes of it.


@pytest.fixture
def clusters():
    return pytest.importorskip("semiseg_jax.engine.clusters")


def assert_numbered(clusters, environments: list[dict[str, str]], coordinator: str) -> None:
    """The processes are all of one run, in order, and each uses all GPUs of its machine."""
    for process, environ in enumerate(environments):
        found = clusters.cluster_from(environ)
        assert (found.process, found.processes) == (process, len(environments))
        assert re.fullmatch(coordinator, found.coordinator)
        assert clusters.own_devices(found, 8) is None


def test_slurm_tasks_are_one_run_and_use_all_gpus_of_their_nodes(clusters):
    directives = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)", (LAUNCH / "slurm.sh").read_text(), re.MULTILINE))
    nodes = int(directives["nodes"])
    assert directives["ntasks-per-node"] == "1"
    environments = [
        {
            "SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": f"{nodes}", "SLURM_NTASKS": f"{nodes}",
            "SLURM_STEP_NUM_TASKS": f"{nodes}", "SLURM_STEP_NODELIST": f"gpu[01-{nodes:02d}]",
            "SLURM_STEP_TASKS_PER_NODE": f"1(x{nodes})", "SLURM_PROCID": f"{node}", "SLURM_NODEID": f"{node}",
            "SLURM_LOCALID": "0", "SLURM_GPUS_ON_NODE": directives["gpus-per-node"],
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(int(directives["gpus-per-node"])))),
        }
        for node in range(nodes)
    ]  # fmt: skip
    assert_numbered(clusters, environments, r"gpu01:\d+")


def test_pods_with_gpus_are_one_run(clusters):
    spec = job(LAUNCH / "gke_gpu.yaml")
    assert spec["completionMode"] == "Indexed"  # which sets JOB_COMPLETION_INDEX
    (container,) = spec["template"]["spec"]["containers"]
    labels = {"jobset.sigs.k8s.io/jobset-name": "semiseg", "jobset.sigs.k8s.io/replicatedjob-name": "train"}
    fixed = {}
    for variable in container["env"]:
        label = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        fixed[variable["name"]] = labels[label[len("metadata.labels['") : -2]] if label else variable["value"]
    environments = [{**fixed, "JOB_COMPLETION_INDEX": f"{index}"} for index in range(spec["completions"])]
    assert_numbered(clusters, environments, r"semiseg-train-0-0\.semiseg:\d+")


def test_pods_with_tpus_are_one_run(clusters):
    spec = job(LAUNCH / "gke_tpu.yaml")
    hosts = [f"semiseg-train-0-{index}.semiseg" for index in range(spec["completions"])]
    environments = [
        {"TPU_WORKER_HOSTNAMES": ",".join(hosts), "TPU_WORKER_ID": f"{index}"} for index in range(len(hosts))
    ]
    assert_numbered(clusters, environments, rf"{hosts[0]}:\d+")


def test_nodes_of_skypilot_are_one_run(clusters):
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    nodes = task["num_nodes"]
    addresses = "\n".join(f"10.0.0.{node}" for node in range(nodes))
    environments = [
        {"SKYPILOT_NUM_NODES": f"{nodes}", "SKYPILOT_NODE_RANK": f"{node}", "SKYPILOT_NODE_IPS": addresses}
        for node in range(nodes)
    ]
    assert_numbered(clusters, environments, r"10\.0\.0\.0:\d+")


def test_processes_of_the_local_launcher_are_one_run_and_share_the_gpus(clusters):
    from experiments.launch.local import variables

    found = [clusters.cluster_from(variables(process, 2, 5000)) for process in range(2)]
    assert [(cluster.process, cluster.processes, cluster.coordinator) for cluster in found] == [
        (0, 2, "127.0.0.1:5000"),
        (1, 2, "127.0.0.1:5000"),
    ]
    assert [clusters.own_devices(cluster, 8) for cluster in found] == [[0, 1, 2, 3], [4, 5, 6, 7]]

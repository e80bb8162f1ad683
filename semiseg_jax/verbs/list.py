"""`semiseg list`: what ships with the package, a line each."""

from semiseg_jax.config_files import first_line, shipped_configs


def list_names(kind: str) -> None:
    """Prints the names of a kind of things, `"configs"`, each with a line about it."""
    if kind != "configs":
        raise ValueError(f"what is {kind!r}? Known: `semiseg list configs`")
    configs = shipped_configs()
    width = max(map(len, configs), default=0)
    for name, path in configs.items():
        print(f"{name:{width}}  {first_line(path)}")

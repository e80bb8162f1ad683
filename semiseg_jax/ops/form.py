"""The form in which array programs are traced: the one that suits a CPU, or the one for which others have libraries."""

import os
from contextlib import AbstractContextManager

import jax

FORMS = ("auto", "library", "cpu")
# Part of the key of compiled functions: a function that was traced with one form is traced anew for another.
_default = os.environ.get("SEMISEG_CONVOLUTIONS", "auto")
_form = jax.make_user_context(_default) if hasattr(jax, "make_user_context") else None  # jax 0.7 has none


def convolution_form(form: str) -> AbstractContextManager[None]:
    """Within it, convolutions are traced in this form; SEMISEG_CONVOLUTIONS in the environment sets the default.

    "library": XLA's own. "cpu": those that suit CPU. "auto": "cpu" where JAX's default backend is a CPU, and elsewhere
    "library".

    >>> with convolution_form("library"):
    ...     for_cpu()
    False
    """
    checked = _checked(form)
    if _form is None:
        raise RuntimeError(f"convolution_form needs a newer jax than {jax.__version__}")
    return _form(checked)


def for_cpu() -> bool:
    """Whether what is traced now should suit a CPU: not only convolutions have another form there."""
    form = _checked(_default if _form is None else _form.value)
    return form == "cpu" or (form == "auto" and jax.default_backend() == "cpu")


def _checked(form: str) -> str:
    if form not in FORMS:
        raise ValueError(
            f"convolution_form: form (or SEMISEG_CONVOLUTIONS) is {form!r} but must be one of {', '.join(FORMS)}"
        )
    return form

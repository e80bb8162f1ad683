"""All mutations, by room. `run.py` applies them."""

from rooms import config, data, engine, exchange, losses, methods, models, ops, verbs

MUTATIONS = (
    *losses.MUTATIONS,
    *ops.MUTATIONS,
    *models.MUTATIONS,
    *data.MUTATIONS,
    *engine.MUTATIONS,
    *methods.MUTATIONS,
    *verbs.MUTATIONS,
    *config.MUTATIONS,
    *exchange.MUTATIONS,
)

//! What transformers said: the records beside the models that `parity/make_fixtures.py` made.

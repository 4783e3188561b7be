//! Texts beside Hugging Face's libraries: chat templates beside transformers, tokenizers beside `tokenizers`. The scripts
//! in `tests/parity` recorded what these do.

mod calls;
mod templates;
mod tokenizers;

//! Values of types whose fields all have defaults.

use serde::de::DeserializeOwned;
use serde::de::value::{Error, MapDeserializer};

/// Returns the value that an empty object of a manifest means: each field has the default that its `serde` attribute
/// gives. So a default is written once, at its field.
pub(super) fn from_fields<T: DeserializeOwned>() -> T {
    let no_fields = MapDeserializer::<_, Error>::new(std::iter::empty::<(&str, &str)>());
    T::deserialize(no_fields).expect("each field has a default")
}

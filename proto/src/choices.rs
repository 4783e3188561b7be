//! Settings that users choose by name, in the custom resource and on the agent's command line.

/// Defines an enum of settings with their names, and the conversions between both. The cargo feature `schema` adds what
/// the custom resource needs.
macro_rules! choices {
    (
        $(#[doc = $doc:literal])*
        $choice:ident { $($(#[$default:ident])? $variant:ident = $name:literal,)* }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema, serde::Serialize, serde::Deserialize))]
        pub enum $choice {
            $($(#[$default])? #[cfg_attr(feature = "schema", serde(rename = $name))] $variant,)*
        }

        impl $choice {
            /// All choices, the default first.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Returns the name that users type.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }

        impl std::fmt::Display for $choice {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

choices! {
    /// DType is the data type of weights in memory.
    DType { #[default] Auto = "auto", F32 = "f32", Bf16 = "bf16", F16 = "f16", }
}

choices! {
    /// Quantization is the format of quantized weights.
    Quantization { #[default] None = "none", Q8_0 = "q8_0", Q4K = "q4_k", }
}

choices! {
    /// Form of the logs: readable lines, or a JSON object for each event.
    LogFormat { #[default] Text = "text", Json = "json", }
}

/// Name of a choice that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownChoice {
    #[error("dtype `{0}` is not one of auto, f32, bf16, f16")]
    DType(String),
    #[error("log format `{0}` is not one of text, json")]
    LogFormat(String),
    #[error(
        "quantization `{0}` is not one of Q8_0 (or 8), Q4_K (or 4) and none; other formats are read from GGUF files, not \
         made while loading"
    )]
    Quantization(String),
}

impl std::str::FromStr for DType {
    type Err = UnknownChoice;

    /// Parses a name; an empty one is the default, as in an unset field of a message.
    fn from_str(name: &str) -> Result<Self, UnknownChoice> {
        let named = Self::ALL.iter().find(|dtype| dtype.as_str() == name);
        let default = name.is_empty().then_some(&Self::Auto);
        named.or(default).copied().ok_or_else(|| UnknownChoice::DType(name.to_owned()))
    }
}

impl std::str::FromStr for LogFormat {
    type Err = UnknownChoice;

    fn from_str(name: &str) -> Result<Self, UnknownChoice> {
        let named = Self::ALL.iter().find(|format| format.as_str() == name);
        named.copied().ok_or_else(|| UnknownChoice::LogFormat(name.to_owned()))
    }
}

impl std::str::FromStr for Quantization {
    type Err = UnknownChoice;

    /// Parses the spellings that mistral.rs users have: `Q8_0`, `q8`, `8`, `Q4_K`, `q4k`, `Q4K`, `4`, in any case. `none`
    /// and the empty name are [`Quantization::None`].
    fn from_str(name: &str) -> Result<Self, UnknownChoice> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "none" => Ok(Self::None),
            "8" | "q8" | "q8_0" => Ok(Self::Q8_0),
            "4" | "q4" | "q4k" | "q4_k" => Ok(Self::Q4K),
            _ => Err(UnknownChoice::Quantization(name.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantization_accepts_every_spelling() {
        let spellings = [
            (Quantization::None, &["", "none", "None"][..]),
            (Quantization::Q8_0, &["Q8_0", "q8_0", "8", "q8", " Q8 "]),
            (Quantization::Q4K, &["Q4K", "q4k", "Q4_K", "q4_k", "4", "q4"]),
        ];
        for (expected, names) in spellings {
            for name in names {
                assert_eq!(name.parse::<Quantization>().unwrap(), expected, "{name}");
            }
            assert_eq!(expected.to_string().parse::<Quantization>().unwrap(), expected);
        }
        for wrong in ["Q3K", "int8", "q4_0", "16", "hqq4", "q8_1"] {
            let message = wrong.parse::<Quantization>().unwrap_err().to_string();
            assert!(message.contains(wrong) && message.contains("Q4_K (or 4)"), "{message}");
        }
    }

    #[test]
    fn names_are_parsed_to_their_choices() {
        for dtype in DType::ALL {
            assert_eq!(dtype.as_str().parse::<DType>().as_ref(), Ok(dtype));
        }
        for format in LogFormat::ALL {
            assert_eq!(format.as_str().parse::<LogFormat>().as_ref(), Ok(format));
        }
        assert_eq!("".parse::<DType>(), Ok(DType::Auto));
        assert!("int3".parse::<DType>().unwrap_err().to_string().contains("auto, f32, bf16, f16"));
        assert!("xml".parse::<LogFormat>().unwrap_err().to_string().contains("text, json"));
    }
}

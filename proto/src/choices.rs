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
    Quantization {
        #[default]
        None = "none",
        Q8_0 = "q8_0",
        Q6K = "q6_k",
        Q5K = "q5_k",
        Q5_1 = "q5_1",
        Q5_0 = "q5_0",
        Q4K = "q4_k",
        Q4_1 = "q4_1",
        Q4_0 = "q4_0",
        Iq4Nl = "iq4_nl",
        Iq4Xs = "iq4_xs",
        Mxfp4 = "mxfp4",
        Q3K = "q3_k",
        Q2K = "q2_k",
        Tq2_0 = "tq2_0",
        Tq1_0 = "tq1_0",
    }
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
        "quantization `{0}` is not one of none, {names} and 2 to 6 or 8 for the usual format of so many bits; other formats \
         are read from files, not made while loading",
        names = quantization_names()
    )]
    Quantization(String),
}

/// Returns the names of all formats that weights are quantized to, for a message.
fn quantization_names() -> String {
    let formats = Quantization::ALL.iter().filter(|choice| **choice != Quantization::None);
    formats.map(|format| format.as_str().to_uppercase()).collect::<Vec<_>>().join(", ")
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
        let letters = |name: &str| name.replace('_', "");
        let lower = name.trim().to_ascii_lowercase();
        let usual = match lower.strip_prefix('q').unwrap_or(&lower) {
            "" if lower.is_empty() => Some(Self::None),
            "2" => Some(Self::Q2K),
            "3" => Some(Self::Q3K),
            "4" => Some(Self::Q4K),
            "5" => Some(Self::Q5K),
            "6" => Some(Self::Q6K),
            "8" => Some(Self::Q8_0),
            _ => Self::ALL.iter().find(|choice| letters(choice.as_str()) == letters(&lower)).copied(),
        };
        usual.ok_or_else(|| UnknownChoice::Quantization(name.to_owned()))
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
            (Quantization::Q2K, &["2", "Q2K", "q2_k"]),
            (Quantization::Q6K, &["6", "q6", "Q6_K"]),
            (Quantization::Q5_1, &["q5_1", "Q5_1", "q51"]),
            (Quantization::Iq4Nl, &["iq4nl", "IQ4_NL"]),
            (Quantization::Mxfp4, &["MXFP4"]),
        ];
        for (expected, names) in spellings {
            for name in names {
                assert_eq!(name.parse::<Quantization>().unwrap(), expected, "{name}");
            }
            assert_eq!(expected.to_string().parse::<Quantization>().unwrap(), expected);
        }
        for choice in Quantization::ALL {
            assert_eq!(choice.as_str().parse::<Quantization>().as_ref(), Ok(choice));
        }
        for wrong in ["q", "q1", "int8", "q4_k_m", "16", "hqq4", "q8_1", "iq3_s", "_"] {
            let message = wrong.parse::<Quantization>().unwrap_err().to_string();
            assert!(message.contains(wrong) && message.contains("Q4_K, "), "{message}");
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

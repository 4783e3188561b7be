//! The instruction set of the CPU kernels: detected at run time, or forced by name.
//!
//! Invariant: an `Isa` inside a [`crate::Context`] is one that this machine has, so kernels compiled for it may run.
//! `Isa` values themselves are just names.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Instruction set that the kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust, which runs on any machine.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL and DQ.
    Avx512,
}

impl Isa {
    /// Every instruction set that has kernels, from the plainest to the widest.
    pub const ALL: [Isa; 3] = [Isa::Portable, Isa::Avx2, Isa::Avx512];

    /// Returns the widest instruction set of this machine.
    pub fn detect() -> Isa {
        Isa::available().last().copied().unwrap_or(Isa::Portable)
    }

    /// Returns all instruction sets of this machine that have kernels, the widest last.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Returns true if this machine can run the instruction set.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            Isa::Avx2 => has_avx2(),
            Isa::Avx512 => has_avx512(),
        }
    }

    /// Returns the name by which a user forces the instruction set: `portable`, `avx2`, `avx512`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// Returns the instruction set of that name if this machine has it.
    pub fn force(name: &str) -> Result<Isa> {
        let isa: Isa = name.parse()?;
        if isa.is_available() { Ok(isa) } else { Err(unavailable(name)) }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = Error;

    fn from_str(name: &str) -> Result<Isa> {
        let isa = Isa::ALL.into_iter().find(|isa| isa.name().eq_ignore_ascii_case(name));
        isa.ok_or_else(|| unavailable(name))
    }
}

fn unavailable(name: &str) -> Error {
    let names: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
    Error::Isa { name: name.to_owned(), have: names.join(", ") }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse::<Isa>().unwrap(), isa);
        }
        let message = Isa::force("sse9").unwrap_err().to_string();
        assert!(message.contains("sse9") && message.contains("portable"), "{message}");
    }

    #[test]
    fn the_detected_set_is_available() {
        assert!(Isa::detect().is_available());
        assert!(Isa::available().contains(&Isa::Portable));
    }
}

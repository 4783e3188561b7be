//! Wire formats, names and words that the operator and the agent share.
//!
//! The Rust under `gen/` is generated from `proto/*.proto` and checked in, so that a build needs no protoc. A test
//! generates it again and fails if it differs.

#![forbid(unsafe_code)]

pub mod backoff;
pub mod chat;
pub mod choices;
pub mod errors;
pub mod limits;
pub mod names;

/// `lockstep.v1`: the API of clients.
pub mod v1 {
    #![expect(clippy::allow_attributes, reason = "generated")]
    include!("gen/lockstep.v1.rs");

    impl Phase {
        /// Returns the phase's name for people.
        pub fn title(self) -> &'static str {
            match self {
                Self::Pending => "Pending",
                Self::Scheduling => "Scheduling",
                Self::Pulling => "Pulling",
                Self::Downloading => "Downloading",
                Self::Loading => "Loading",
                Self::Forming => "Forming",
                Self::Warmup => "Warmup",
                Self::Serving => "Serving",
                Self::Lost => "Lost",
            }
        }
    }
}

/// `lockstep.node.v1`: the private stream between a node and the head.
pub mod node {
    #![expect(clippy::allow_attributes, reason = "generated")]
    include!("gen/lockstep.node.v1.rs");

    /// Version of the control stream; both sides must have the same version.
    pub const WIRE_VERSION: u32 = 5;
}

/// The protocol between routers and an engine of vLLM, in the folders that the generated code expects.
pub mod vllm {
    pub mod grpc {
        pub mod engine {
            #![expect(clippy::allow_attributes, reason = "generated")]
            include!("gen/vllm.grpc.engine.rs");
        }
    }
}

/// Messages that the routers' protocols share.
pub mod smg {
    pub mod grpc {
        pub mod common {
            include!("gen/smg.grpc.common.rs");
        }
    }
}

/// Descriptors of the public services, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("gen/public.bin");

//! A device for tests: memory, and kernels as text.

use std::collections::HashMap;

use lockstep_emulated_gpu::compile::compile;
use lockstep_emulated_gpu::memory::{Memory, Owner};
use lockstep_emulated_gpu::ptx::Module;
use lockstep_emulated_gpu::run::{Launch, Outcome, run};

#[derive(Default)]
pub struct Device {
    pub memory: Memory,
    /// Order of the warps.
    pub seed: u64,
}

/// A number of device memory.
pub trait Item: Copy {
    const SIZE: u32;
    fn to_bits(self) -> u64;
    fn from_bits(bits: u64) -> Self;
}

macro_rules! item {
    ($type:ty, |$value:ident| $to:expr, |$bits:ident| $from:expr) => {
        impl Item for $type {
            const SIZE: u32 = size_of::<$type>() as u32;
            fn to_bits(self) -> u64 {
                let $value = self;
                $to
            }
            fn from_bits($bits: u64) -> Self {
                $from
            }
        }
    };
}

item!(u64, |value| value, |bits| bits);
item!(u32, |value| value.into(), |bits| bits as u32);
item!(u16, |value| value.into(), |bits| bits as u16);
item!(f32, |value| f32::to_bits(value).into(), |bits| f32::from_bits(bits as u32));

impl Device {
    pub fn allocate<T: Item>(&self, values: &[T]) -> u64 {
        let at = self.memory.allocate(Owner::Device(0), values.len() * T::SIZE as usize);
        let range = self.memory.find(at, 1).expect("new memory");
        for (index, value) in values.iter().enumerate() {
            range.store(at + index as u64 * u64::from(T::SIZE), T::SIZE, value.to_bits());
        }
        at
    }

    pub fn read<T: Item>(&self, at: u64, count: usize) -> Vec<T> {
        let range = self.memory.find(at, count * T::SIZE as usize).expect("live memory");
        (0..count as u64).map(|index| T::from_bits(range.load(at + index * u64::from(T::SIZE), T::SIZE))).collect()
    }

    /// Runs the kernel `k` of a text without a module's head.
    pub fn run(
        &self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        values: &[u64],
    ) -> Result<Outcome, String> {
        let text = format!(".version 9.0\n.target sm_80\n.address_size 64\n{kernel}");
        let module = Module::parse(&text).map_err(|error| error.to_string())?;
        let kernel = compile(&module, "k", &HashMap::new()).map_err(|error| error.to_string())?;
        let mut params = vec![0; kernel.params.last().map_or(0, |param| param.offset + param.size)];
        for (param, value) in kernel.params.iter().zip(values) {
            params[param.offset..param.offset + param.size].copy_from_slice(&value.to_le_bytes()[..param.size]);
        }
        let launch = Launch {
            kernel: &kernel,
            grid,
            block,
            dynamic_shared,
            params: &params,
            memory: &self.memory,
            seed: self.seed,
        };
        run(&launch).map_err(|fault| fault.to_string())
    }
}

//! Modules and launches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use lockstep_emulated_gpu::compile::{Kernel, compile};
use lockstep_emulated_gpu::memory::Owner;
use lockstep_emulated_gpu::ptx::Module;
use lockstep_emulated_gpu::run::{Launch, Use, run};

use crate::context::{DRIVER, Device};
use crate::order::Ticket;
use crate::pointer::Arguments;
use crate::report::{count, note_fault};
use crate::status::Status;
use crate::stream::{Stream, Work};

/// A module on a device.
pub(crate) struct LoadedModule {
    module: Module,
    /// Addresses of the variables in global memory.
    pub(crate) globals: HashMap<String, u64>,
    pub(crate) sizes: HashMap<String, usize>,
    /// Handles of the kernels that were asked for.
    functions: Mutex<HashMap<String, usize>>,
}

pub(crate) struct LoadedFunction {
    pub(crate) kernel: Kernel,
}

impl LoadedModule {
    pub(crate) fn load(text: &str, device: &Device) -> Result<Self, Status> {
        let module = Module::parse(text).map_err(|error| {
            note_fault(&error.to_string());
            Status::INVALID_PTX
        })?;
        let (mut globals, mut sizes) = (HashMap::new(), HashMap::new());
        for variable in &module.globals {
            let at = DRIVER.memory.allocate(Owner::Device(device.ordinal), variable.size);
            crate::pointer::fill(at, 0, variable.size);
            crate::pointer::copy(at, variable.bytes.as_ptr() as u64, variable.bytes.len());
            globals.insert(variable.name.clone(), at);
            sizes.insert(variable.name.clone(), variable.size);
        }
        Ok(Self { module, globals, sizes, functions: Mutex::default() })
    }

    /// Returns the handle of a kernel, which is compiled when it is first asked for.
    pub(crate) fn function(&self, name: &str) -> Result<usize, Status> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = functions.get(name) {
            return Ok(*handle);
        }
        if !self.module.kernels.contains_key(name) {
            note_fault(&format!("no kernel {name} in this module"));
            return Err(Status::NOT_FOUND);
        }
        let kernel = compile(&self.module, name, &self.globals).map_err(|error| {
            note_fault(&format!("{name}: {error}"));
            Status::INVALID_PTX
        })?;
        let handle = DRIVER.functions.add(Arc::new(LoadedFunction { kernel }));
        functions.insert(name.to_owned(), handle);
        Ok(handle)
    }
}

/// Sizes of a launch.
pub(crate) struct Shape {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) dynamic_shared: u32,
}

/// Queues a launch. The arguments are read now.
pub(crate) fn launch(
    function: Arc<LoadedFunction>,
    shape: Shape,
    stream: &Stream,
    arguments: Arguments,
) -> Result<(), Status> {
    let kernel = &function.kernel;
    let mut params = vec![0; kernel.params.last().map_or(0, |param| param.offset + param.size)];
    for (index, param) in kernel.params.iter().enumerate() {
        params[param.offset..param.offset + param.size].copy_from_slice(&arguments.read(index, param.size)?);
    }
    let launch = launch_of(&function, &shape, &params);
    if let Err(fault) = launch.check() {
        note_fault(&fault.to_string());
        return Err(Status::INVALID_VALUE);
    }
    let device = stream.device.clone();
    let work: Work = Arc::new(move |ticket| run_kernel(&function, &shape, &params, &device, ticket));
    stream.submit(work)
}

fn launch_of<'a>(function: &'a LoadedFunction, shape: &Shape, params: &'a [u8]) -> Launch<'a> {
    let Shape { grid, block, dynamic_shared } = *shape;
    Launch { kernel: &function.kernel, grid, block, dynamic_shared, params, memory: &DRIVER.memory, seed: DRIVER.seed }
}

fn run_kernel(
    function: &LoadedFunction,
    shape: &Shape,
    params: &[u8],
    device: &Device,
    ticket: &Ticket,
) -> Result<(), Status> {
    let name = &function.kernel.name;
    let outcome = run(&launch_of(function, shape, params)).map_err(|fault| {
        note_fault(&fault.to_string());
        Status::LAUNCH_FAILED
    })?;
    count(&format!("kernel {name}"), 1);
    count("instructions", outcome.instructions);
    for (start, used) in outcome.uses {
        if let Ok(range) = DRIVER.memory.find(start, 0) {
            DRIVER.check_owner(device, range, name)?;
        }
        note_use(start, used, ticket, name)?;
    }
    Ok(())
}

/// Notes a use of memory, and fails if nothing orders it after another stream's.
pub(crate) fn note_use(start: u64, used: Use, ticket: &Ticket, what: &str) -> Result<(), Status> {
    DRIVER.order.note(start, used, ticket, what).map_err(|fault| {
        note_fault(&fault);
        Status::LAUNCH_FAILED
    })
}

//! The threads of the control streams. A process has them apart from its other tasks, so that clients' requests at the head,
//! and downloads and probes at a node, delay no heartbeat, pulse or plan.

use anyhow::Context as _;
use tokio::runtime::{Builder, Handle, Runtime};

/// Runtime of the control streams. Its tasks end when it is dropped.
pub(crate) struct ControlRuntime {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl ControlRuntime {
    /// Starts the threads.
    ///
    /// # Errors
    /// Fails if the system cannot start another thread.
    pub(crate) fn start(threads: usize) -> anyhow::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(threads).thread_name("control").enable_all();
        let runtime = builder.build().context("start the threads of the control streams")?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for ControlRuntime {
    fn drop(&mut self) {
        // The runtime's own drop would wait for its threads, and a task may not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

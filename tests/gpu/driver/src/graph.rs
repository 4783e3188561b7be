//! Graphs: work that was captured from a stream, to be launched as a whole.

use std::sync::Arc;

use crate::status::Status;
use crate::stream::{Stream, Work};

/// A graph, or an executable one, which needs nothing more here.
pub(crate) struct Graph(pub(crate) Vec<Work>);

impl Graph {
    pub(crate) fn launch(self: &Arc<Self>, stream: &Stream) -> Result<(), Status> {
        let graph = self.clone();
        stream.submit(Arc::new(move |ticket| graph.0.iter().try_for_each(|work| work(ticket))))
    }
}

//! Mistakes that the simulator can make on purpose, each of which breaks one property. They show that the checks see
//! something.

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Planted {
    /// Now and then, a token does not reach its client.
    LosesToken,
    /// Now and then, a token counts twice.
    DoublesToken,
    /// Now and then, a client gets an event of another one.
    MixesClients,
    /// Now and then, a client is not told the end of its answer.
    LosesEnd,
    /// A passed deadline is called a defect.
    BlamesItself,
    /// Now and then, the result of a step does not reach the head.
    LosesResult,
    /// Nodes do not abort the ranks' epochs.
    IgnoresAborts,
    /// Nodes forget their last epoch when they dial again.
    ForgetsEpochs,
    /// The head ends the process of a node that is silent.
    EvictsSilentNodes,
    /// The head gets no ticks any longer.
    NoTicks,
}

impl Planted {
    pub const ALL: [Self; 10] = [
        Self::LosesToken,
        Self::DoublesToken,
        Self::MixesClients,
        Self::LosesEnd,
        Self::BlamesItself,
        Self::LosesResult,
        Self::IgnoresAborts,
        Self::ForgetsEpochs,
        Self::EvictsSilentNodes,
        Self::NoTicks,
    ];
}

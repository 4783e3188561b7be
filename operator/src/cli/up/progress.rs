//! Shows the progress of the ranks: on a terminal a bar for each rank that loads, and always a line for each change of
//! a phase. A line also tells when the group becomes ready, and when it is no longer ready.

use indicatif::{ProgressBar, ProgressStyle};
use lockstep_proto::v1::{ClusterStatus, Phase, RankStatus};

use super::console::Console;
use crate::cli::status::format_bytes;

/// Largest number of bars. More would not fit on a terminal.
const MAX_BARS: usize = 32;

/// State that was shown last.
#[derive(Default)]
pub(super) struct Progress {
    phases: Vec<Phase>,
    bars: Vec<ProgressBar>,
    /// Epoch in which the group is ready. `None` if it is not ready.
    ready: Option<u64>,
    was_ready: bool,
}

impl Progress {
    /// Shows the changes since the last call. `status` is `None` if the head cannot be reached.
    pub(super) fn show(&mut self, status: Option<&ClusterStatus>, console: &Console) {
        let changes = self.describe_changes(status);
        if console.is_terminal() {
            self.draw(status, console);
        }
        for line in changes {
            console.print(&line);
        }
    }

    /// Returns a line for each change since the last call.
    fn describe_changes(&mut self, status: Option<&ClusterStatus>) -> Vec<String> {
        let mut lines = Vec::new();
        let ranks = status.map_or(&[][..], |status| &status.ranks);
        self.phases.resize(ranks.len(), Phase::Pending);
        for (rank, shown) in ranks.iter().zip(&mut self.phases) {
            if rank.phase() != *shown {
                *shown = rank.phase();
                lines.push(format!("rank {}: {}", rank.rank, describe_rank(rank)));
            }
        }
        let ready = status.filter(|status| status.ready).map(|status| status.epoch);
        if ready != self.ready {
            lines.push(match (ready, status) {
                (Some(epoch), Some(status)) if self.was_ready => {
                    format!("ready again, in epoch {epoch}: {} serves", status.model)
                }
                (Some(_), Some(status)) => {
                    format!("ready: {} serves on {} ranks over {}", status.model, status.world_size, status.backend)
                }
                (_, Some(status)) => format!("not ready: {}", status.pending.join("; ")),
                (_, None) => "not ready: the head cannot be reached".into(),
            });
            self.was_ready |= ready.is_some();
            self.ready = ready;
        }
        lines
    }

    fn draw(&mut self, status: Option<&ClusterStatus>, console: &Console) {
        let Some(status) = status.filter(|status| !status.ready) else {
            for bar in self.bars.drain(..) {
                bar.finish_and_clear();
            }
            return;
        };
        for (index, rank) in status.ranks.iter().take(MAX_BARS).enumerate() {
            if self.bars.len() <= index {
                let style = ProgressStyle::with_template("  {prefix:<9} {bar:24.cyan/dim} {msg}");
                let bar = ProgressBar::new(1).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                self.bars.push(console.bars().add(bar));
            }
            let bar = &self.bars[index];
            bar.set_prefix(format!("rank {}", rank.rank));
            bar.set_length(rank.bytes_total.max(1));
            bar.set_position(rank.bytes_loaded.min(rank.bytes_total));
            bar.set_message(describe_rank(rank));
        }
    }
}

/// Describes a rank: its phase, its share of loaded bytes, and its message.
fn describe_rank(rank: &RankStatus) -> String {
    let mut text = rank.phase().title().to_owned();
    if matches!(rank.phase(), Phase::Loading | Phase::Downloading) && rank.bytes_total > 0 {
        let share = rank.bytes_loaded.saturating_mul(100) / rank.bytes_total;
        text += &format!(" {share}% of {}", format_bytes(rank.bytes_total));
    }
    if !rank.message.is_empty() {
        text += &format!(": {}", rank.message);
    }
    text
}

#[cfg(test)]
mod tests {
    use lockstep_proto::v1::{ClusterStatus, Phase, RankStatus};

    use super::Progress;

    fn rank(rank: u32, phase: Phase, message: &str) -> RankStatus {
        let (phase, message) = (phase.into(), message.into());
        RankStatus { rank, phase, message, bytes_loaded: 1, bytes_total: 4, ..Default::default() }
    }

    fn group(ranks: Vec<RankStatus>, epoch: u64, ready: bool) -> ClusterStatus {
        let (model, backend) = ("tiny".into(), "ring".into());
        let pending = vec!["rank 1: Lost".into()];
        ClusterStatus { ranks, epoch, ready, model, backend, world_size: 2, pending, ..Default::default() }
    }

    #[test]
    fn changes_of_a_group_are_described() {
        let mut progress = Progress::default();
        let serving = || vec![rank(0, Phase::Serving, ""), rank(1, Phase::Serving, "")];
        let loading = || vec![rank(0, Phase::Loading, ""), rank(1, Phase::Pending, "")];
        let history = [
            None,
            Some(group(loading(), 0, false)),
            Some(group(loading(), 0, false)),
            Some(group(serving(), 1, true)),
            Some(group(vec![rank(0, Phase::Forming, ""), rank(1, Phase::Lost, "killed")], 1, false)),
            Some(group(serving(), 2, true)),
            None,
        ];
        let lines: Vec<_> =
            history.iter().map(|status| progress.describe_changes(status.as_ref()).join("\n")).collect();
        insta::assert_snapshot!(lines.join("\n--\n"));
    }
}
